"""Processors, a transport with faults and an event loop without waiting, for tests of the partition worker."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import selectors
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, TypeVar

from sojourn.bus.client import Bus, open_bus
from sojourn.bus.clock import Clock, VirtualClock
from sojourn.bus.delivery.budget import Budget
from sojourn.bus.errors import ConcurrencyError, SojournError, TimedOutError, UnavailableError
from sojourn.bus.event import Event, Key
from sojourn.bus.memory import MemoryTransport
from sojourn.bus.ports import Append, Consumption, Delivery, Receipt, Stored, Transport
from sojourn.bus.processor import Output, Recorded, Retry, Turn
from sojourn.bus.subjects import Namespace
from sojourn.bus.timers import VirtualTimers

START = datetime(2026, 1, 1, tzinfo=UTC)
NARROW = Namespace("test", 2, 1)
"""Two partitions in one stream: quick to open, and customers meet each other."""


class CartAbandoned(Event):
    customer_id: Key
    n: int


class OrderPlaced(Event):
    customer_id: Key
    n: int


class DiscountOffered(Event):
    customer_id: Key
    n: int
    seen: int
    actions: int = 0
    note: str = ""


class OfferPrinted(Event):
    customer_id: Key
    n: int
    seen: int = 0


class WaitEnded(Event):
    customer_id: Key
    n: int


Result = Output | Awaitable[Output]
Handle = Callable[["Resident", Turn], Any]


@dataclass
class Resident:
    """Remembers what it was shown: the numbers of events by type, and its own actions with their causes."""

    key: str
    handle: Handle
    folded: list[tuple[str, int]] = field(default_factory=list)
    own: list[tuple[int, int]] = field(default_factory=list)
    on_fold: Callable[[Recorded], None] | None = None

    def observe(self, recorded: Recorded) -> None:
        if self.on_fold is not None:
            self.on_fold(recorded)
        self.folded.append((recorded.envelope.type, recorded.envelope.event.n))  # type: ignore[attr-defined]  # all have it

    def acted(self, recorded: Recorded, cause: int) -> None:
        if self.on_fold is not None:
            self.on_fold(recorded)
        if (recorded.sequence, cause) not in self.own:
            self.own.append((recorded.sequence, cause))

    def run(self, turn: Turn) -> Any:
        return self.handle(self, turn)

    def seen(self, cls: type[Event]) -> int:
        return sum(1 for name, _ in self.folded if name == cls.__name__)


def offer(resident: Resident, turn: Turn, note: str = "") -> Output:
    """One discount that tells what was seen: how many carts, and how many own offers to earlier carts."""
    event = turn.recorded.envelope.event
    assert isinstance(event, CartAbandoned | OrderPlaced | WaitEnded)
    earlier = sum(1 for _, cause in resident.own if cause < turn.recorded.sequence)
    seen = resident.seen(CartAbandoned)
    return Output([DiscountOffered(customer_id=resident.key, n=event.n, seen=seen, actions=earlier, note=note)])


QUICK = Retry(3, timedelta(milliseconds=20), timedelta(milliseconds=100))


class Scripted:
    """A processor made of one function."""

    def __init__(
        self,
        handle: Handle = offer,
        *,
        writer: str = "win",
        group: str | None = None,
        handles: Iterable[type[Event]] = (CartAbandoned,),
        folds: Iterable[type[Event]] = (CartAbandoned, DiscountOffered),
        publishes: Iterable[type[Event]] = (DiscountOffered,),
        retry: Retry = QUICK,
        timeout: float = 30.0,
        start: Literal["now", "beginning"] = "now",
        version: int = 1,
        on_poison: Literal["dead", "park"] = "dead",
        on_fold: Callable[[Recorded], None] | None = None,
    ) -> None:
        self.handle = handle
        self.kind: Literal["agent", "saga", "projection"] = "agent"
        self.writer = writer
        self.group = group or writer
        self.version = version
        self.start = start
        self.handles: Mapping[str, type[Event]] = {cls.__name__: cls for cls in handles}
        self.folds: Mapping[str, type[Event]] = {cls.__name__: cls for cls in folds}
        self.publishes: Mapping[str, type[Event]] = {cls.__name__: cls for cls in publishes}
        self.retry = retry
        self.on_poison: Literal["dead", "park"] = on_poison
        self.timeout = timedelta(seconds=timeout)
        self.description: Mapping[str, Any] = {"reference": f"tests:{writer}"}
        self.on_fold = on_fold

    def open(self, key: str) -> Resident:
        return Resident(key, self.handle, on_fold=self.on_fold)


STEP = 1e-6
"""Seconds that a turn of the loop takes, so that whoever waits turn by turn meets a deadline."""


class Turbo(asyncio.SelectorEventLoop):
    """An event loop that does not wait: when nothing is ready, its clock jumps to the next timer. Nothing on it depends
    on how fast the machine is: each run of the same program is the same."""

    def __init__(self) -> None:
        self.skipped = 0.0
        super().__init__(_Jumping(self))

    def time(self) -> float:
        return self.skipped

    def _run_once(self) -> None:
        self.skipped += STEP
        super()._run_once()  # type: ignore[misc]  # a private method, which typeshed leaves out


class _Jumping(selectors.DefaultSelector):
    def __init__(self, loop: Turbo) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None:
            raise AssertionError("everything waits for something that cannot come any more")
        self._loop.skipped += max(timeout, 0.0)
        return super().select(0)


T = TypeVar("T")


def turbo(main: Coroutine[Any, Any, T], *, seconds: float = 600) -> T:
    """Runs ``main`` without waiting; it fails after that many seconds of the loop's own time."""

    async def limited() -> T:
        async with asyncio.timeout(seconds):
            return await main

    complaints: list[dict[str, Any]] = []
    with asyncio.Runner(loop_factory=Turbo) as runner:
        runner.get_loop().set_exception_handler(lambda loop, context: complaints.append(context))
        result = runner.run(limited())
    assert not complaints, complaints
    return result


@contextlib.asynccontextmanager
async def memory_bus(
    transport: MemoryTransport | None = None, namespace: Namespace = NARROW, clock: Clock | None = None
) -> AsyncIterator[Bus]:
    transport = transport or MemoryTransport(VirtualTimers())
    async with open_bus(transport, namespace, clock=clock or VirtualClock(START)) as bus:
        yield bus


async def until(condition: Callable[[], bool | Awaitable[bool]], seconds: float = 20) -> None:
    """Waits for a condition, with a deadline."""
    async with asyncio.timeout(seconds):
        while True:
            met = condition()
            if not isinstance(met, bool):
                met = await met
            if met:
                return
            await asyncio.sleep(0.005)


async def log_of(transport: Transport, namespace: Namespace, filter: str = "") -> list[Stored]:
    """What the streams hold under ``{ns}.{filter}``, stream by stream."""
    found: list[Stored] = []
    for stream in namespace.streams:
        found += await transport.read(stream, f"{namespace.name}.{filter or '>'}")
    return found


async def actions(bus: Bus, writer: str = "win") -> list[dict[str, Any]]:
    """The documents of a writer's actions in the order of the log, with their ``sequence``."""
    messages = await log_of(bus.transport, bus.namespace, f"log.*.*.act.{writer}.*")
    return [json.loads(message.payload) | {"sequence": message.sequence} for message in messages]


async def dead(bus: Bus, writer: str = "win") -> list[dict[str, Any]]:
    messages = await log_of(bus.transport, bus.namespace, f"lane.*.*.act.{writer}.dead")
    return [json.loads(message.payload) | {"sequence": message.sequence} for message in messages]


async def check_effects(
    bus: Bus,
    writer: str = "win",
    *,
    handled: str = "CartAbandoned",
    quiet: Callable[[int], bool] = lambda n: False,
    dies: Callable[[int], bool] = lambda n: False,
) -> int:
    """Holds the log against the model: each event has exactly one closing output, in order, with the state as of it.

    ``quiet`` events get none, those that ``dies`` a dead letter. Returns how many were closed.
    """
    stories: dict[str, list[Stored]] = {}
    for message in await log_of(bus.transport, bus.namespace):
        tokens = message.subject.split(".")
        if tokens[1] in ("log", "lane"):
            stories.setdefault(tokens[3], []).append(message)
    closed = 0
    for token, story in stories.items():
        events = [m for m in story if m.subject.endswith(f".evt.{handled}")]
        lane = [(m, json.loads(m.payload)) for m in story if f".act.{writer}." in m.subject]
        outputs = [(d["causeseq"], d) for _, d in lane if d["kind"] == "out" and d.get("type") == "DiscountOffered"]
        letters = [d["cause"] for _, d in lane if d["kind"] == "dead"]
        for place, event in enumerate(events, 1):
            n = json.loads(event.payload)["data"]["n"]
            mine = [d for cause, d in outputs if cause == event.sequence]
            expected = 0 if quiet(n) or dies(n) else 1
            assert len(mine) == expected, f"{token}: {len(mine)} outputs of event {n} at {event.sequence}"
            assert letters.count(event.sequence) == int(dies(n)), f"{token}: dead letters of event {n}: {letters}"
            for document in mine:
                assert document["data"]["n"] == n
                assert document["data"]["seen"] == place, f"{token}: event {n} saw {document['data']['seen']}"
                earlier = sum(1 for cause, _ in outputs if cause < event.sequence)
                assert document["data"]["actions"] == earlier, f"{token}: event {n} did not see its own actions"
            closed += expected + int(dies(n))
        causes = [d.get("causeseq", d.get("cause")) for _, d in lane if d["kind"] in ("out", "dead")]
        assert causes == sorted(causes), f"{token}: out of order {causes}"
    return closed


class Faults:
    """How a `FaultyTransport` misbehaves; the chances are per operation."""

    def __init__(self, seed: int = 0, **chances: float) -> None:
        self.random = random.Random(seed)
        self.chances = chances
        self.on = True
        self.met: dict[str, int] = {}

    def strikes(self, name: str) -> bool:
        if not self.on or self.random.random() >= self.chances.get(name, 0.0):
            return False
        self.met[name] = self.met.get(name, 0) + 1
        return True

    def turns(self) -> int:
        return self.random.randrange(4) if self.on and self.chances.get("slow") else 0


class FaultyTransport(MemoryTransport):
    """The twin with a network: writes take their time, answers get lost, deliveries go astray.

    Faults: ``lost`` (stored, but the answer is a time-out), ``refused`` (not stored), ``conflict`` (an invented
    `ConcurrencyError`), ``late`` (a time-out, and stored later), ``slow`` (writes wait some turns of the loop),
    ``gap``, ``again`` (delivered twice), ``unacked``, ``broken`` and ``stuck`` (a restart that fails), ``unread`` (a
    read that fails).
    """

    def __init__(self, faults: Faults, timers: VirtualTimers | None = None) -> None:
        super().__init__(timers or VirtualTimers())
        self.faults = faults
        self._line: deque[Coroutine[Any, Any, None]] = deque()
        self._worker: asyncio.Task[None] | None = None
        self.flows: list[_FaultyFlow] = []

    def heal(self) -> None:
        """No more faults, and what a server's heartbeats and its ack_wait would bring to light in the end."""
        self.faults.on = False
        for flow in self.flows:
            flow.broken("heartbeat")

    def send(self, stream: str, append: Append, done: Callable[[Receipt | Exception], None]) -> None:
        async def work() -> None:
            try:
                [sequence] = await self._write(stream, [append])
                outcome: Receipt | Exception = Receipt(sequence)
            except SojournError as error:
                outcome = error
            done(outcome)

        self._enqueue(work())

    async def commit(self, stream: str, appends: Sequence[Append]) -> list[int]:
        answer: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()

        async def work() -> None:
            try:
                result = await self._write(stream, appends)
            except SojournError as error:
                if not answer.done():
                    answer.set_exception(error)
            else:
                if not answer.done():
                    answer.set_result(result)

        self._enqueue(work())
        return await answer

    async def read(self, stream: str, filter: str, start: int = 1, limit: int = 0, size: int = 0) -> list[Stored]:
        if self.faults.strikes("unread"):
            raise UnavailableError("no answer today")
        for _ in range(self.faults.turns()):
            await asyncio.sleep(0)
        return await super().read(stream, filter, start, limit, size)

    def consume(
        self,
        stream: str,
        name: str,
        receive: Callable[[Delivery], None],
        broken: Callable[[str], None],
        budget: Budget | None = None,
        left: Callable[[], float] | None = None,
    ) -> Any:
        self.flows.append(_FaultyFlow(self, stream, name, receive, broken, budget))
        return self.flows[-1]

    def flow(
        self,
        stream: str,
        name: str,
        receive: Callable[[Delivery], None],
        broken: Callable[[str], None],
        budget: Budget | None,
    ) -> Consumption:
        return super().consume(stream, name, receive, broken, budget)

    def _enqueue(self, work: Coroutine[Any, Any, None]) -> None:
        # One line for all writes: what is sent first is stored first.
        self._line.append(work)
        if self._worker is None:
            self._worker = asyncio.get_running_loop().create_task(self._drain())

    async def _drain(self) -> None:
        try:
            while self._line:
                for _ in range(self.faults.turns()):
                    await asyncio.sleep(0)
                await self._line.popleft()
        finally:
            self._worker = None

    async def _write(self, stream: str, appends: Sequence[Append]) -> list[int]:
        faults = self.faults
        if faults.strikes("refused"):
            raise UnavailableError("the server is not there")
        if any(append.expect for append in appends) and faults.strikes("conflict"):
            raise ConcurrencyError("somebody wrote first", expected=1, actual=None)
        if faults.strikes("late"):

            async def later() -> None:
                with contextlib.suppress(SojournError):
                    await super(FaultyTransport, self).commit(stream, appends)

            self._line.append(later())
            raise TimedOutError("no answer in time, and it comes")
        sequences = await super().commit(stream, appends)
        if faults.strikes("lost"):
            raise TimedOutError("stored, but the answer was lost")
        return sequences


class _FaultyFlow:
    """A flow that loses deliveries (which costs a consumer sequence), repeats them, breaks, and is hard to restart."""

    def __init__(
        self,
        transport: FaultyTransport,
        stream: str,
        name: str,
        receive: Callable[[Delivery], None],
        broken: Callable[[str], None],
        budget: Budget | None,
    ) -> None:
        self._faults = transport.faults
        self._receive = receive
        self.broken = broken
        self._inner = transport.flow(stream, name, self._deliver, broken, budget)
        self._extra = 0
        self._last: Delivery | None = None

    async def restart(self) -> None:
        if self._faults.strikes("stuck"):
            raise UnavailableError("no reset today")
        self._extra = 0
        self._last = None
        await self._inner.restart()
        if self._faults.strikes("broken"):
            asyncio.get_running_loop().call_soon(self.broken, "reconnected")

    def ack(self, token: str) -> None:
        if not self._faults.strikes("unacked"):
            self._inner.ack(token)

    def progress(self, token: str) -> None:
        self._inner.progress(token)

    async def close(self) -> None:
        await self._inner.close()

    def _deliver(self, delivery: Delivery) -> None:
        faults = self._faults
        if faults.strikes("gap"):
            return
        if faults.strikes("broken"):
            self.broken("silence")
            return
        if self._last is not None and faults.strikes("again"):
            self._extra += 1
            again = self._last._replace(consumer_sequence=delivery.consumer_sequence + self._extra - 1)
            self._receive(again)
        self._last = delivery
        self._receive(delivery._replace(consumer_sequence=delivery.consumer_sequence + self._extra))
