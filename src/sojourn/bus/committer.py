"""The committer: makes the outputs of many keys durable together.

Everything that writes (agents, sagas, relays, publishers) hands its appends to one committer. While little is going
on, a single append is a plain pipelined publish, which has the lowest latency; as soon as more is waiting, outputs go
out as one atomic batch per shard, which costs one fsync for hundreds of effects. One output is never torn: it is
stored whole or not at all.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from sojourn.bus.errors import (
    BusyError,
    ClosedError,
    ConcurrencyError,
    DuplicateError,
    SojournError,
    TooLargeError,
    UnavailableError,
)
from sojourn.bus.ports import Append, Log, Receipt

Done = Callable[[list[int] | Exception], None]
Observer = Callable[[str, Sequence[Append], Sequence[int]], None]

MAX_MEMBERS = 1_000
"""Source: the server's limit of messages in one atomic batch, nats-server 2.15."""

MAX_BATCH_BYTES = 4 << 20
"""Bounds what a batch holds in memory here and in the server."""

PLAIN = 20
"""Up to this many single appends in flight go out plainly: a batch costs the server about 9 ms whatever its size."""


class Unit(NamedTuple):
    """One output: appends that are stored together, and who is told."""

    appends: Sequence[Append]
    size: int
    done: Done


class Committer:
    """Stores units of appends, adaptively grouped. Units of one stream are stored in the order submitted, unless one
    fails.

    ``observers`` are called with (stream, appends, sequences) after appends became durable, before their ``done``.
    """

    def __init__(self, log: Log) -> None:
        self._log = log
        self._shards: dict[str, _Shard] = {}
        self.observers: list[Observer] = []

    def submit(self, stream: str, appends: Sequence[Append], done: Done) -> None:
        """Stores the appends of one output, all or none. ``done`` is called once, from the event loop, with their
        sequences or with the reason why nothing was stored (`TimedOutError` and `UnavailableError`: why it is not
        known)."""
        if len(appends) > MAX_MEMBERS:
            done(
                TooLargeError(
                    f"an output has at most {MAX_MEMBERS} messages, this one {len(appends)}: "
                    "split it over several events",
                    size=len(appends),
                    limit=MAX_MEMBERS,
                )
            )
            return
        shard = self._shards.get(stream)
        if shard is None:
            shard = self._shards[stream] = _Shard(self._log, stream, self.observers)
        shard.submit(Unit(appends, sum(len(append.payload) for append in appends), done))

    async def store(self, stream: str, appends: Sequence[Append]) -> list[int]:
        """`submit` for those who wait: returns the sequences or raises."""
        future: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()

        def done(result: list[int] | Exception) -> None:
            if future.done():
                return
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)

        self.submit(stream, appends, done)
        return await future

    @property
    def pending(self) -> int:
        """Units submitted and not settled yet."""
        return sum(shard.pending for shard in self._shards.values())

    async def close(self) -> None:
        """Settles what is in flight; what was not sent yet gets a `ClosedError`."""
        for shard in self._shards.values():
            await shard.close()


class _Shard:
    """The queue of one stream: either plain publishes or one batch in flight, never both."""

    def __init__(self, log: Log, stream: str, observers: list[Observer]) -> None:
        self._log = log
        self._stream = stream
        self._observers = observers
        self._queue: deque[Unit] = deque()
        self._plain = 0
        self._batch: asyncio.Task[None] | None = None
        self._scheduled = False
        self._closed = False

    @property
    def pending(self) -> int:
        return len(self._queue) + self._plain + (self._batch is not None)

    def submit(self, unit: Unit) -> None:
        if self._closed:
            unit.done(ClosedError("the bus is closed: nothing was stored"))
            return
        self._queue.append(unit)
        self._schedule()

    def _schedule(self) -> None:
        # Once per turn of the loop: whatever became ready in this turn is seen together.
        if not self._scheduled and self._batch is None:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._scheduled = False
        queue = self._queue
        if self._batch is not None or not queue:
            return
        if len(queue) + self._plain <= PLAIN and all(len(unit.appends) == 1 for unit in queue):
            while queue:
                self._send(queue.popleft())
        elif not self._plain:
            self._batch = asyncio.create_task(self._commit_next())

    def _send(self, unit: Unit) -> None:
        self._plain += 1

        def stored(result: Receipt | Exception) -> None:
            self._plain -= 1
            if isinstance(result, Exception):
                unit.done(result)
            else:
                self._settled(unit, [result.sequence], duplicate=result.duplicate)
            if self._queue:
                self._schedule()

        self._log.send(self._stream, unit.appends[0], stored)

    async def _commit_next(self) -> None:
        try:
            while self._queue:
                await self._store(self._take())
                if len(self._queue) <= PLAIN:
                    break
        finally:
            self._batch = None
            if self._queue:
                self._schedule()

    def _take(self) -> list[Unit]:
        units: list[Unit] = []
        lanes: set[str] = set()
        members = size = 0
        while self._queue:
            unit = self._queue[0]
            mine = {append.expect.filter for append in unit.appends if append.expect is not None}
            # A batch does not protect a lane from itself: of two outputs that expect the same, both would be stored
            # (a key that was discarded while its output waited here, and its successor).
            if units and (
                members + len(unit.appends) > MAX_MEMBERS
                or size + unit.size > MAX_BATCH_BYTES
                or not mine.isdisjoint(lanes)
            ):
                break
            lanes |= mine
            members += len(unit.appends)
            size += unit.size
            units.append(self._queue.popleft())
        return units

    async def _store(self, units: list[Unit]) -> None:
        """One batch; where it is refused, halves of it, so that the member at fault is found and the others are
        stored."""
        try:
            sequences = await self._log.commit(self._stream, [append for unit in units for append in unit.appends])
        except (ConcurrencyError, DuplicateError, TooLargeError) as error:
            if len(units) == 1:
                units[0].done(error)
                return
            middle = len(units) // 2
            await self._store(units[:middle])
            await self._store(units[middle:])
        except BusyError as error:
            await self._plainly(units, error)
        except SojournError as error:
            for unit in units:
                unit.done(error)
        except asyncio.CancelledError:
            for unit in units:
                unit.done(UnavailableError("the bus was closed before the server answered"))
            raise
        else:
            start = 0
            for unit in units:
                end = start + len(unit.appends)
                self._settled(unit, sequences[start:end])
                start = end

    async def _plainly(self, units: list[Unit], error: BusyError) -> None:
        # Too many open batches: single appends still go through; outputs of several have to wait for the next try.
        answered = asyncio.Event()
        waiting = [unit for unit in units if len(unit.appends) == 1]
        for unit in units:
            if len(unit.appends) > 1:
                unit.done(error)
        left = len(waiting)

        def stored(unit: Unit, result: Receipt | Exception) -> None:
            nonlocal left
            left -= 1
            if isinstance(result, Exception):
                unit.done(result)
            else:
                self._settled(unit, [result.sequence], duplicate=result.duplicate)
            if not left:
                answered.set()

        for unit in waiting:
            self._log.send(self._stream, unit.appends[0], lambda result, unit=unit: stored(unit, result))  # type: ignore[misc]
        if waiting:
            await answered.wait()

    def _settled(self, unit: Unit, sequences: list[int], *, duplicate: bool = False) -> None:
        if duplicate:
            unit.done(DuplicateError("a message with this id is stored already", sequence=sequences[0]))
            return
        for observer in self._observers:
            observer(self._stream, unit.appends, sequences)
        unit.done(sequences)

    async def close(self) -> None:
        self._closed = True
        while self._queue:
            self._queue.popleft().done(ClosedError("the bus was closed before this was sent: nothing was stored"))
        if self._batch is not None:
            await asyncio.wait([self._batch])
