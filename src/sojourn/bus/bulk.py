"""Many messages that are each stored once, in order, so many in flight, through outages."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

from sojourn.bus.client import Bus
from sojourn.bus.errors import BusyError, ConcurrencyError, DuplicateError, TransientError
from sojourn.bus.ports import Append, Stored
from sojourn.bus.publisher import PATIENCE

IN_FLIGHT = 1_000
"""Jobs that are on their way at once."""

_BYTES = 16 << 20
"""Bytes of those; one that is larger goes alone."""

_PAUSE = 0.2
_CONTESTED = 5


@dataclass(eq=False, slots=True)
class Job:
    """Appends that are stored together, or not at all.

    The first one expects that nothing stands on its own subject yet: that is what stores it once. Jobs of one ``chain``
    are stored in the order they are given. Told how it ended: ``stored``; ``found`` with what somebody else put there
    before; ``failed``. Each may return a job that follows from it, on which the end of the whole then depends.
    ``known`` is what to store instead where the server knows the message id of one of the others.
    """

    stream: str
    appends: list[Append]
    chain: Hashable
    stored: Callable[[], Job | None]
    found: Callable[[Stored], Job | None]
    failed: Callable[[Exception], None]
    known: list[Append] | None = None
    order: int = 0
    uncertain: bool = field(default=False, init=False)
    contested: int = field(default=0, init=False)

    @property
    def size(self) -> int:
        return sum(len(append.payload) for append in self.appends)


class Bulk:
    """Stores jobs through the bus's committer. Memory holds those in flight."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._jobs = 0
        self._unsettled = 0
        self._size = 0
        self._retries: list[Job] = []
        self._refused: list[tuple[Job, Exception]] = []
        self._changed = asyncio.Event()
        self._error: Exception | None = None
        self._progress = _now()

    async def add(self, job: Job) -> None:
        """Sends a job as soon as there is room. Raises what an outage of more than 60 s met; whatever was not told of
        by then may be stored or not, and is found so by whoever tries again."""
        while await self._mended() and (
            self._unsettled >= IN_FLIGHT or (self._unsettled and self._size + job.size > _BYTES)
        ):
            await self._news()
        self._jobs += 1
        job.order = self._jobs
        if not self._unsettled:
            self._progress = _now()
        self._send(job)

    async def settle(self) -> None:
        """Waits until every job has ended. Raises as `add` does."""
        while await self._mended() and self._unsettled:
            await self._news()

    async def _news(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    def _send(self, job: Job) -> None:
        self._unsettled += 1
        size = job.size
        self._size += size

        def done(result: list[int] | Exception) -> None:
            self._unsettled -= 1
            self._size -= size
            self._changed.set()
            match result:
                case TransientError():
                    job.uncertain = job.uncertain or not isinstance(result, BusyError)
                    self._error = result
                    self._retries.append(job)
                case ConcurrencyError() | DuplicateError():
                    self._refused.append((job, result))
                case Exception():
                    job.failed(result)
                case _:
                    self._progress = _now()
                    self._follow(job, job.stored())

        self._bus.committer.submit(job.stream, job.appends, done, chain=job.chain)

    def _follow(self, job: Job, next: Job | None) -> None:
        if next is not None:
            next.order = job.order
            self._send(next)

    async def _mended(self) -> bool:
        """Deals with what was refused or may not have arrived, before anything new is sent; always True."""
        while self._refused or self._retries:
            if self._unsettled:
                await self._news()
                continue
            refused, self._refused = self._refused, []
            try:
                while refused:
                    await self._ask(*refused[-1])
                    refused.pop()
            except TransientError as error:
                self._error = error
                self._refused += refused
            else:
                retries, self._retries = sorted(self._retries, key=lambda job: job.order), []
                if self._error is not None:
                    await self._pause()
                for job in retries:
                    self._send(job)
                continue
            await self._pause()
        return True

    async def _pause(self) -> None:
        error, self._error = self._error, None
        if error is not None and _now() - self._progress > PATIENCE:
            raise error
        await asyncio.sleep(_PAUSE)

    async def _ask(self, job: Job, error: Exception) -> None:
        """What stands where a job was refused: its own message, whose answer was lost; somebody else's; or nothing."""
        first = job.appends[0]
        there = await self._bus.transport.last(job.stream, first.subject)
        if there is not None and job.uncertain and there.payload == first.payload:
            self._follow(job, job.stored())
        elif there is not None:
            self._follow(job, job.found(there))
        elif isinstance(error, DuplicateError) and job.known is not None:
            job.appends, job.known = job.known, None
            self._retries.append(job)
        elif isinstance(error, DuplicateError) or job.contested >= _CONTESTED:
            job.failed(error)
        else:
            # The answer was meant for somebody else's message, which is gone.
            job.contested += 1
            self._retries.append(job)


def _now() -> float:
    return asyncio.get_running_loop().time()
