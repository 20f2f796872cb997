"""Tests of agents: given what happened, when this happens, then the agent does that. In memory, on virtual time, in
milliseconds."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar

from sojourn.agents.agent import Agent
from sojourn.agents.processor import AgentProcessor, AgentResident
from sojourn.bus.client import Bus, open_bus
from sojourn.bus.clock import VirtualClock
from sojourn.bus.deadletters import DeadLetter, dead_letters
from sojourn.bus.delivery.worker import Worker
from sojourn.bus.envelope import Envelope, decode
from sojourn.bus.errors import ClosedError
from sojourn.bus.event import Event
from sojourn.bus.ids import uuid7
from sojourn.bus.memory import MemoryTransport
from sojourn.bus.personal.master import MasterKeys
from sojourn.bus.ports import Append
from sojourn.bus.processor import NOTHING, Output, Recorded, Resident, Retry, Turn
from sojourn.bus.reading import Reader
from sojourn.bus.subjects import LogSubject, Namespace, escape_key, parse_log_subject, split_writer, unescape_key
from sojourn.bus.timers import VirtualTimers
from sojourn.state.fold import fold
from sojourn.state.journey import Journey

J = TypeVar("J", bound=Journey)

START = datetime(2026, 1, 1, 12, tzinfo=UTC)
"""When a scenario begins, unless it says otherwise."""


class Like(NamedTuple):
    """An event of a type, with these fields and any others. Made by `like`."""

    event: type[Event]
    fields: Mapping[str, object]

    def __repr__(self) -> str:
        fields = "".join(f"{name}={value!r}, " for name, value in self.fields.items())
        return f"{self.event.__name__}({fields}...)"


def like(event: type[Event], **fields: object) -> Like:
    """Matches an event of that type whose ``fields`` have these values: ``like(DiscountOffered, percent=10)``."""
    unknown = [name for name in fields if name not in event.model_fields]
    if unknown:
        raise AttributeError(f"{event.__name__} has no field {unknown[0]!r}: it has {', '.join(event.model_fields)}")
    return Like(event, fields)


Expected = Event | Like | type[Event]
"""What `Scenario.then` compares with: an equal event, some of its fields (`like`), or any event of a type."""


class _Logged(NamedTuple):
    subject: LogSubject
    sequence: int
    payload: bytes


class _Action(NamedTuple):
    agent: str
    key: str
    event: Event
    cause: str | None


class Scenario:
    """Runs agents in memory, on virtual time, and compares what they do with what is expected::

        async with Scenario(WinBack) as s:
            await s.given(CartUpdated(customer_id="c1", value=Decimal(80)))
            await s.when(CartAbandoned(customer_id="c1"))
            s.then(DiscountOffered(customer_id="c1", percent=10))
            await s.advance(days(3))
            s.then_nothing()

    Several agents see each other's actions, as on a real bus. Timers fire as `advance` passes them. A handler that
    fails for a passing reason is called again at once, as often as its `Retry` says. ``start`` is when the scenario
    begins; ``patience`` how long, on the wall clock, agents may take to come to rest before `when` and `advance` raise
    `TimeoutError`.
    """

    def __init__(
        self,
        *agents: type[Agent[Any]],
        start: datetime = START,
        patience: timedelta = timedelta(seconds=10),
    ) -> None:
        self._past: set[str] = set()
        self._processors = [_Processor(cls, self._past) for cls in agents]
        self._events = {
            name: event
            for processor in self._processors
            for types in (processor.handles, processor.folds, processor.publishes)
            for name, event in types.items()
        }
        self._clock = VirtualClock(start)
        self._timers = VirtualTimers()
        self._patience = patience.total_seconds()
        self._stack = AsyncExitStack()
        self._bus: Bus | None = None
        self._worker: Worker | None = None
        self._log: list[_Logged] = []
        self._since = 0
        self._dead: list[DeadLetter] = []
        self._dead_since = 0

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            # Its own clock is the wall's, which leases live by.
            transport = MemoryTransport(self._timers)
            stack.push_async_callback(transport.close)
            namespace = Namespace("scenario", partitions=1, shards=1)
            self._bus = await stack.enter_async_context(
                open_bus(transport, namespace, clock=self._clock, master_keys=MasterKeys.new())
            )
            self._bus.committer.observers.append(self._stored)
            self._worker = await stack.enter_async_context(Worker(self._bus, self._processors, ingress=False))
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._worker = None
        await self._stack.__aexit__(kind, error, trace)

    @property
    def now(self) -> datetime:
        """The scenario's time, in UTC."""
        return self._clock.now()

    async def given(self, *events: Event, ago: timedelta = timedelta(0)) -> None:
        """What had happened before the agents looked, ``ago`` before now: journeys know it, no handler runs."""
        for event in events:
            await self._publish(event, self.now - ago, past=True)
        await self._settle()
        self._begin()

    async def when(self, *events: Event) -> None:
        """What happens now, all of it before the agents have answered; then waits until they have."""
        self._begin()
        for event in events:
            await self._publish(event, self.now, past=False)
        await self._settle()

    async def advance(self, by: timedelta) -> None:
        """Lets time pass, and timers fire when they are due, each answered before the next."""
        if by < timedelta(0):
            raise ValueError(f"time does not go back: advance({by})")
        self._begin()
        until = self.now + by
        while (at := self._timers.next_due()) is not None and at <= until:
            self._clock.advance_to(at)
            await self._settle()
        self._clock.advance_to(until)

    def then(self, *expected: Expected) -> None:
        """Holds that the agents did exactly this since the last `when` or `advance`. Raises `AssertionError`.

        What one agent does for one customer comes in that order; different agents and customers have no order.
        """
        __tracebackhide__ = True  # pytest shows the line of the test
        self._check_failures()
        actions = self._actions()
        if not _fits(list(expected), _lanes(actions)):
            raise AssertionError(_difference(expected, actions))

    def then_nothing(self) -> None:
        """Holds that the agents did nothing since the last `when` or `advance`. Raises `AssertionError`."""
        __tracebackhide__ = True
        self.then()

    @property
    def actions(self) -> list[Event]:
        """What the agents did since the last `when` or `advance`, in the order of the log."""
        return [action.event for action in self._actions()]

    @property
    def dead_letters(self) -> list[DeadLetter]:
        """What handlers could not handle, since the scenario began. `then` fails on those since the last `when`."""
        return list(self._dead)

    def journey(self, journey: type[J], key: str) -> J:
        """What is known of a customer by now."""
        evolvers = journey.__sojourn_journey__.evolvers
        token = escape_key(key)
        return fold(
            journey,
            (
                Recorded(self._decode(stored, evolvers[stored.subject.name].event), stored.sequence)
                for stored in self._log
                if stored.subject.token == token and stored.subject.family != "due" and stored.subject.name in evolvers
            ),
        )

    async def _publish(self, event: Event, time: datetime, *, past: bool) -> None:
        bus = self._open()
        id = uuid7()
        if past:
            self._past.add(id)
        await bus.publish(event, id=id, time=time)

    async def _settle(self) -> None:
        """Waits until the agents rest, and fires what is due by now."""
        bus, worker = self._open(), self._worker
        assert worker is not None
        try:
            async with asyncio.timeout(self._patience):
                await worker.caught_up()
                while due := self._timers.pop_due(self.now):
                    for timer in due:
                        await bus.committer.store(timer.stream, [Append(timer.target, timer.payload)])
                    await worker.caught_up()
        except TimeoutError:
            running = ", ".join(call.label for call in worker.runners.calls.values()) or "no handler is running"
            raise TimeoutError(f"the agents did not come to rest within {self._patience:g} s: {running}") from None
        self._dead = [letter async for letter in dead_letters(bus)]

    def _open(self) -> Bus:
        if self._bus is None or self._worker is None:
            raise ClosedError("the scenario is not open: async with Scenario(...) as s:")
        return self._bus

    def _begin(self) -> None:
        self._since = len(self._log)
        self._dead_since = len(self._dead)

    def _stored(self, stream: str, appends: Sequence[Append], sequences: Sequence[int]) -> None:
        for append, sequence in zip(appends, sequences, strict=True):
            subject = parse_log_subject(append.subject)
            if subject is not None:
                self._log.append(_Logged(subject, sequence, append.payload))

    def _actions(self) -> list[_Action]:
        found = []
        for stored in self._log[self._since :]:
            if stored.subject.family == "act" and stored.subject.writer is not None:
                envelope = self._decode(stored, self._events[stored.subject.name])
                found.append(_Action(stored.subject.writer, envelope.key, envelope.event, envelope.cause_type))
        return found

    def _decode(self, stored: _Logged, cls: type[Event]) -> Envelope[Event]:
        bus = self._open()
        return decode(stored.payload, cls, Reader(bus.schemas, bus.keys.cached(unescape_key(stored.subject.token))))

    def _check_failures(self) -> None:
        __tracebackhide__ = True
        failed = self._dead[self._dead_since :]
        if failed:
            raise AssertionError(
                "\n".join(
                    f"{letter.writer} could not handle {letter.type} of {letter.customer}: {letter.error}: "
                    f"{letter.reason}\n{letter.traceback}"
                    for letter in failed
                )
            )


class _Processor(AgentProcessor):
    """An agent that leaves the past alone and does not wait before it tries again."""

    def __init__(self, cls: type[Agent[Any]], past: set[str]) -> None:
        super().__init__(cls)
        self._past = past

    @property
    def retry(self) -> Retry:
        return Retry(super().retry.attempts, timedelta(0), timedelta(0))

    def open(self, key: str) -> Resident:
        resident = super().open(key)
        assert isinstance(resident, AgentResident)
        return _Resident(resident, self._past)


class _Resident:
    def __init__(self, inner: AgentResident, past: set[str]) -> None:
        self._past = past
        self._inner = inner
        self.observe = inner.observe
        self.acted = inner.acted

    def run(self, turn: Turn) -> Output | Awaitable[Output]:
        return NOTHING if turn.recorded.envelope.id in self._past else self._inner.run(turn)


def _lanes(actions: list[_Action]) -> list[deque[Event]]:
    lanes: dict[tuple[str, str], deque[Event]] = {}
    for action in actions:
        lanes.setdefault((action.agent, action.key), deque()).append(action.event)
    return list(lanes.values())


def _fits(expected: list[Expected], lanes: list[deque[Event]]) -> bool:
    """Whether the expected events are those of the lanes, each lane in its order."""
    if not expected:
        return not any(lanes)
    for lane in lanes:
        if lane and _matches(expected[0], lane[0]):
            event = lane.popleft()
            if _fits(expected[1:], lanes):
                return True
            lane.appendleft(event)
    return False


def _matches(expected: Expected, event: Event) -> bool:
    if isinstance(expected, Like):
        return type(event) is expected.event and all(
            getattr(event, name) == value for name, value in expected.fields.items()
        )
    return type(event) is expected if isinstance(expected, type) else event == expected


def _difference(expected: Sequence[Expected], actions: list[_Action]) -> str:
    missing = list(expected)
    surplus: list[Event] = []
    for action in actions:
        match = next((one for one in missing if _matches(one, action.event)), None)
        if match is None:
            surplus.append(action.event)
        else:
            missing.remove(match)
    lines = ["the agents did something else than expected", "expected:", *_listed([_shown(one) for one in expected])]
    lines += ["done:", *_listed([f"{a.event!r}   {_who(a.agent)}, on {a.cause}" for a in actions])]
    lines.append("difference:")
    if not missing and not surplus:
        lines.append("    the same events in another order")
    for one in missing:
        name = _type(one).__name__
        near = next((event for event in surplus if type(event) is _type(one)), None)
        if near is None:
            lines.append(f"    missing: {_shown(one)}")
            continue
        surplus.remove(near)
        wanted = one.fields if isinstance(one, Like) else dict(one) if isinstance(one, Event) else {}
        lines += [
            f"    {name}.{field}: expected {value!r}, was {getattr(near, field)!r}"
            for field, value in wanted.items()
            if getattr(near, field) != value
        ]
    lines += [f"    not expected: {event!r}" for event in surplus]
    return "\n".join(lines)


def _who(writer: str) -> str:
    name, source = split_writer(writer)
    return name if source is None else f"{name} for {unescape_key(source)}"


def _type(expected: Expected) -> type[Event]:
    if isinstance(expected, Like):
        return expected.event
    return expected if isinstance(expected, type) else type(expected)


def _shown(expected: Expected) -> str:
    return f"{expected.__name__}(...)" if isinstance(expected, type) else repr(expected)


def _listed(lines: list[str]) -> list[str]:
    return [f"    {line}" for line in lines] or ["    nothing"]
