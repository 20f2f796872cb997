"""The committer: makes the outputs of many keys durable together.

Everything that writes (agents, sagas, relays, publishers) hands its appends to one committer. While little is going
on, a single append is a plain pipelined publish, which has the lowest latency; as soon as more is waiting, outputs go
out as one atomic batch per shard, which costs one fsync for hundreds of effects. One output is never torn: it is
stored whole or not at all.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import NamedTuple

from sojourn.bus.errors import (
    BusyError,
    ClosedError,
    DuplicateError,
    TooLargeError,
    TransientError,
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
    """One output: appends that are stored together, and who is told. ``chain``: see `Committer.submit`."""

    appends: Sequence[Append]
    size: int
    done: Done
    chain: Hashable = None


class Committer:
    """Stores units of appends, adaptively grouped. Units of one stream are stored in the order submitted, unless one
    fails or waits for its chain.

    ``observers`` are called with (stream, appends, sequences) after appends became durable, before their ``done``.
    """

    def __init__(self, log: Log) -> None:
        self._log = log
        self._shards: dict[str, _Shard] = {}
        self._closed = False
        self.observers: list[Observer] = []

    def submit(self, stream: str, appends: Sequence[Append], done: Done, *, chain: Hashable = None) -> None:
        """Stores the appends of one output, all or none. ``done`` is called once, from the event loop, with their
        sequences or with the reason why nothing was stored (`TimedOutError` and `UnavailableError`: why it is not
        known).

        Units of one ``chain`` never overtake each other: where one fails for a reason that a retry may mend, those of
        its chain that wait behind it fail with it.
        """
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
        if self._closed:
            done(ClosedError("the bus is closed: nothing was stored"))
            return
        if not appends:
            done([])
            return
        shard = self._shards.get(stream)
        if shard is None:
            shard = self._shards[stream] = _Shard(self._log, stream, self.observers)
        shard.submit(Unit(appends, sum(len(append.payload) for append in appends), done, chain))

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

    def reached(self, stream: str) -> int:
        """The highest sequence of ``stream`` in which something is known to be stored; 0 where nothing is."""
        shard = self._shards.get(stream)
        return shard.reached if shard is not None else 0

    @property
    def pending(self) -> int:
        """Units submitted and not settled yet."""
        return sum(shard.pending for shard in self._shards.values())

    async def close(self) -> None:
        """Settles what is in flight; what was not sent yet, and what is submitted from now on, gets a
        `ClosedError`."""
        self._closed = True
        for shard in self._shards.values():
            shard.drop_queue()
        for shard in self._shards.values():
            await shard.settled()


class _Shard:
    """The queue of one stream: either plain publishes or one batch in flight, never both."""

    def __init__(self, log: Log, stream: str, observers: list[Observer]) -> None:
        self._log = log
        self._stream = stream
        self._observers = observers
        self._queue: deque[Unit] = deque()
        self._plain = 0
        self._chains: set[Hashable] = set()
        self._batch: asyncio.Task[None] | None = None
        self._parts: list[deque[Unit]] = []
        self._scheduled = False
        self._idle = asyncio.Event()
        self.pending = 0
        self.reached = 0

    def submit(self, unit: Unit) -> None:
        self.pending += 1
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
            for unit in self._take_unchained():
                self._send(unit)
        elif not self._plain:
            self._batch = asyncio.create_task(self._commit_next())

    def _take_unchained(self) -> list[Unit]:
        """Takes the units off the queue that no other of their chain is in flight or waiting before."""
        chains = set(self._chains)
        free: list[Unit] = []
        held: list[Unit] = []
        for unit in self._queue:
            (held if unit.chain in chains else free).append(unit)
            if unit.chain is not None:
                chains.add(unit.chain)
        self._queue.clear()
        self._queue.extend(held)
        return free

    def _send(self, unit: Unit, answered: Callable[[], None] | None = None) -> None:
        self._plain += 1
        if unit.chain is not None:
            self._chains.add(unit.chain)

        def stored(result: Receipt | Exception) -> None:
            self._plain -= 1
            self._chains.discard(unit.chain)
            if isinstance(result, Exception):
                self._refuse([unit], result)
            else:
                self._store_told(unit, [result.sequence], duplicate=result.duplicate)
            if answered is not None:
                answered()
            elif self._queue:
                self._schedule()

        try:
            self._log.send(self._stream, unit.appends[0], stored)
        except Exception as error:  # noqa: BLE001 - one append that cannot be sent must not hold up the others
            stored(error)

    async def _commit_next(self) -> None:
        try:
            while self._queue:
                self._parts.append(self._take())
                while self._parts:
                    await self._store(self._parts.pop())
                if len(self._queue) <= PLAIN:
                    break
        except asyncio.CancelledError:
            self._refuse([unit for part in self._parts for unit in part], UnavailableError(_CUT_OFF))
            self._parts.clear()
            raise
        finally:
            self._batch = None
            if self._queue:
                self._schedule()

    def _take(self) -> deque[Unit]:
        units: deque[Unit] = deque()
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

    async def _store(self, units: deque[Unit]) -> None:
        """One batch; where it is refused, halves of it and in the end each on its own, so that the member at fault is
        found and the others are stored."""
        if not units:
            return
        try:
            sequences = await self._log.commit(self._stream, [append for unit in units for append in unit.appends])
        except asyncio.CancelledError:
            self._refuse(units, UnavailableError(_CUT_OFF))
            raise
        except BusyError as error:
            # Too many open batches: single appends still go through; outputs of several have to wait for the next try.
            self._parts.append(deque(unit for unit in units if len(unit.appends) == 1))
            self._refuse([unit for unit in units if len(unit.appends) > 1], error)
            await self._store_plainly()
        except (TransientError, ClosedError) as error:
            self._refuse(units, error)
        except Exception as error:  # noqa: BLE001 - whatever it is, every unit is told
            if len(units) == 1:
                self._refuse(units, error)
            elif len(units) <= PLAIN and all(len(unit.appends) == 1 for unit in units):
                self._parts.append(units)
                await self._store_plainly()
            else:
                middle = len(units) // 2
                halves = list(units)
                self._parts += [deque(halves[middle:]), deque(halves[:middle])]
        else:
            start = 0
            for unit in units:
                end = start + len(unit.appends)
                self._store_told(unit, sequences[start:end])
                start = end

    async def _store_plainly(self) -> None:
        """The units of the last part one by one, pipelined as far as chains allow."""
        waiting = self._parts[-1]
        answered = asyncio.Event()
        while waiting:
            while waiting and waiting[0].chain not in self._chains:
                self._send(waiting.popleft(), answered.set)
            while self._plain:
                answered.clear()
                await answered.wait()
        self._parts.pop()

    def _store_told(self, unit: Unit, sequences: list[int], *, duplicate: bool = False) -> None:
        self.reached = max(self.reached, sequences[-1])
        if duplicate:
            self._tell(unit, DuplicateError("a message with this id is stored already", sequence=sequences[0]))
            return
        for observer in self._observers:
            _call(observer, self._stream, unit.appends, sequences)
        self._tell(unit, sequences)

    def _refuse(self, units: Iterable[Unit], error: Exception) -> None:
        units = list(units)
        for unit in units:
            self._tell(unit, error)
        chains = {unit.chain for unit in units} - {None}
        if chains and isinstance(error, TransientError):
            for waiting in (self._queue, *self._parts):
                behind = [unit for unit in waiting if unit.chain in chains]
                if behind:
                    others = [unit for unit in waiting if unit.chain not in chains]
                    waiting.clear()
                    waiting.extend(others)
                    for unit in behind:
                        self._tell(unit, error)

    def _tell(self, unit: Unit, result: list[int] | Exception) -> None:
        self.pending -= 1
        if not self.pending:
            self._idle.set()
        _call(unit.done, result)

    def drop_queue(self) -> None:
        error = ClosedError("the bus was closed before this was sent: nothing was stored")
        while self._queue:
            self._tell(self._queue.popleft(), error)

    async def settled(self) -> None:
        while self.pending:
            self._idle.clear()
            await self._idle.wait()


def _call(function: Callable[..., None], *arguments: object) -> None:
    """Calls back; an error there is reported to the event loop and stops nobody else's."""
    try:
        function(*arguments)
    except Exception as error:  # noqa: BLE001 - see above
        asyncio.get_running_loop().call_exception_handler(
            {"message": "a callback of the committer failed", "exception": error}
        )


_CUT_OFF = "the bus was closed before the server answered"
