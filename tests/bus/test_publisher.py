"""Publishing: bounded in flight, every failure with its event, order per customer and no doubles through outages."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter, defaultdict, deque
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime, timedelta, timezone
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sojourn.bus import publisher as module
from sojourn.bus.client import Bus, open_bus
from sojourn.bus.clock import VirtualClock, WallClock
from sojourn.bus.envelope import decode
from sojourn.bus.errors import (
    ClosedError,
    DefinitionError,
    PermissionDenied,
    PublishError,
    SchemaError,
    SojournError,
    TimedOutError,
    TooLargeError,
    UnavailableError,
)
from sojourn.bus.event import Event, Key
from sojourn.bus.memory import MemoryTransport
from sojourn.bus.nats import connect_nats
from sojourn.bus.ports import Append, Receipt, Stored
from sojourn.bus.publisher import Publisher
from sojourn.bus.subjects import Namespace
from sojourn.bus.timers import JetStreamTimers, VirtualTimers
from tests.nats_server import NatsServer

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
NARROW = Namespace("test", 4, 2)


class OrderPlaced(Event):
    customer_id: Key
    number: int = 0
    anything: Any = None


class ShopEvent(Event, abstract=True):
    customer_id: Key


class FaultyTransport(MemoryTransport):
    """The twin with bad days: ``faults`` decides for each call what happens to it (None: nothing), "lost" being an
    append that is stored while its answer is not heard. With ``forgets`` every call comes after the time for which
    message ids are remembered."""

    def __init__(self) -> None:
        super().__init__(VirtualTimers())
        self.faults: Callable[[Sequence[Append]], Exception | str | None] = lambda appends: None
        self.gate = asyncio.Event()
        self.gate.set()
        self.most = 0
        self.calls = 0
        self.forgets = False
        self.reading: Callable[[], Exception | None] = lambda: None

    def send(self, stream: str, append: Append, done: Callable[[Receipt | Exception], None]) -> None:
        self._begin()
        fault = self.faults([append])
        if isinstance(fault, Exception):
            asyncio.get_running_loop().call_soon(done, fault)
        elif fault == "lost":
            super().send(stream, append, lambda outcome: done(TimedOutError("no answer")))
        elif self.gate.is_set():
            super().send(stream, append, done)
        else:
            super().send(stream, append, lambda outcome: self._later(done, outcome))

    async def last(self, stream: str, filter: str) -> Stored | None:
        if fault := self.reading():
            raise fault
        return await super().last(stream, filter)

    def _begin(self) -> None:
        self.calls += 1
        if self.forgets:
            for stream in self._streams.values():
                stream._ids.clear()

    def _later(self, done: Callable[[Receipt | Exception], None], outcome: Receipt | Exception) -> None:
        asyncio.get_running_loop().create_task(self._open_gate()).add_done_callback(lambda _: done(outcome))

    async def _open_gate(self) -> None:
        await self.gate.wait()

    async def commit(self, stream: str, appends: Sequence[Append]) -> list[int]:
        self._begin()
        fault = self.faults(appends)
        if isinstance(fault, Exception):
            raise fault
        sequences = await super().commit(stream, appends)
        await self.gate.wait()
        if fault == "lost":
            raise TimedOutError("no answer")
        return sequences


@pytest.fixture
def transport() -> FaultyTransport:
    return FaultyTransport()


@pytest.fixture
async def bus(transport: FaultyTransport) -> AsyncIterator[Bus]:
    async with open_bus(transport, NARROW, clock=VirtualClock(NOON)) as bus:
        yield bus


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PAUSE", 0.001)


def order(number: int, customer: str = "c") -> OrderPlaced:
    return OrderPlaced(customer_id=f"{customer}{number % 7}", number=number)


async def story(bus: Bus) -> list[Stored]:
    return [
        message
        for stream in bus.namespace.streams
        for message in await bus.transport.read(stream, f"{bus.namespace.name}.log.>")
    ]


async def numbers(bus: Bus) -> dict[str, list[int]]:
    """The numbers of the stored orders, by customer, in the order of the log."""
    found: dict[str, list[int]] = defaultdict(list)
    for message in await story(bus):
        envelope = decode(message.payload, OrderPlaced)
        assert isinstance(envelope.event, OrderPlaced)
        found[envelope.key].append(envelope.event.number)
    return found


def expected(count: int) -> dict[str, list[int]]:
    wanted: dict[str, list[int]] = defaultdict(list)
    for number in range(count):
        wanted[order(number).customer_id].append(number)
    return wanted


# One event, awaited.


async def test_an_event_is_stored_where_its_customer_lives(bus: Bus) -> None:
    published = await bus.publish(order(1), id="o-1", source="/till")
    at = bus.namespace.locate("c1")
    assert published == ("o-1", at.stream, 1, False)
    stored = await bus.transport.get(at.stream, 1)
    assert stored is not None and stored.subject == f"test.log.{at.partition}.c1.evt.OrderPlaced"
    envelope = decode(stored.payload, OrderPlaced)
    assert (envelope.id, envelope.source, envelope.time, envelope.key) == ("o-1", "/till", NOON, "c1")
    assert (envelope.correlation_id, envelope.hops, envelope.kind) == ("o-1", 0, "event")


async def test_defaults_and_what_follows_from_another(bus: Bus) -> None:
    first = await bus.publish(order(1))
    stored = await bus.transport.get(first.stream, first.sequence)
    assert stored is not None
    cause = decode(stored.payload, OrderPlaced)
    assert cause.source == "/test"
    zone = timezone(timedelta(hours=5, minutes=30))
    second = await bus.publish(order(1), cause=cause, time=NOON.astimezone(zone))
    stored = await bus.transport.get(second.stream, second.sequence)
    assert stored is not None
    envelope = decode(stored.payload, OrderPlaced)
    assert (envelope.correlation_id, envelope.causation_id, envelope.hops) == (first.id, first.id, 1)
    assert json.loads(stored.payload)["time"] == "2026-01-01T12:00:00Z"
    assert first.id != second.id


async def test_the_same_id_is_stored_once(bus: Bus) -> None:
    first = await bus.publish(order(1), id="o-1")
    again = await bus.publish(order(1), id="o-1")
    assert (again.sequence, again.duplicate, first.duplicate) == (first.sequence, True, False)
    assert len(await story(bus)) == 1


BAD_IDS = [
    "",
    " ",
    "a ",
    " a",
    "a\r\nNats-Expected-Last-Sequence: 0",
    "a\nb",
    "\0",
    "\x7f",
    "\ud800",
    "\u2028",
    "x" * 513,
    "😀" * 129,
]


@pytest.mark.parametrize("id", BAD_IDS)
async def test_an_id_that_could_forge_a_header_or_collide_is_refused(bus: Bus, id: str) -> None:
    with pytest.raises(ValueError, match="an event's id is 1 to 512 bytes of printable text"):
        await bus.publish(order(1), id=id)
    async with bus.publisher() as publisher:
        with pytest.raises(ValueError, match="an event's id"):
            await publisher.publish(order(1), id=id)
    assert not await story(bus)


@pytest.mark.parametrize("source", ["a\r\n", "\ud800", "x" * 2049, "\0"])
async def test_a_source_that_nobody_could_read_back_is_refused(bus: Bus, source: str) -> None:
    with pytest.raises(ValueError, match="an event's source is printable text"):
        await bus.publish(order(1), source=source)


async def test_a_time_without_a_zone_or_outside_the_calendar_is_refused(bus: Bus) -> None:
    with pytest.raises(ValueError, match="the time of OrderPlaced is naive; say which zone"):
        await bus.publish(order(1), time=datetime(2026, 1, 1))  # noqa: DTZ001 - that is the point
    with pytest.raises(ValueError, match="outside the years 1 to 9999"):
        await bus.publish(order(1), time=datetime.min.replace(tzinfo=timezone(timedelta(hours=1))))
    for time in (datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)):
        published = await bus.publish(order(1), time=time)
        stored = await bus.transport.get(published.stream, published.sequence)
        assert stored is not None and decode(stored.payload, OrderPlaced).time == time


async def test_what_cannot_be_sent_is_refused_before_anything_is(bus: Bus, transport: FaultyTransport) -> None:
    with pytest.raises(
        TooLargeError, match=r"OrderPlaced is 2,\d{3},\d{3} bytes as a document; .* a reference to it"
    ) as large:
        await bus.publish(OrderPlaced(customer_id="c", anything="x" * 2_000_000))
    assert large.value.size > 2_000_000 > large.value.limit
    with pytest.raises(SchemaError, match="OrderPlaced cannot be written as JSON"):
        await bus.publish(OrderPlaced(customer_id="c", anything=object()))
    with pytest.raises(DefinitionError, match="abstract"):
        await bus.publish(ShopEvent(customer_id="c"))
    with pytest.raises(ValueError, match="a key must not be empty"):
        await bus.publish(OrderPlaced.model_construct(customer_id=""))
    assert transport.calls == 0


async def test_an_outage_is_waited_out(bus: Bus, transport: FaultyTransport) -> None:
    faults: deque[Exception | str | None] = deque([UnavailableError("x"), "lost", TimedOutError("x")])
    transport.faults = lambda appends: faults.popleft() if faults else None
    published = await bus.publish(order(1))
    # The twin that it met is its own.
    assert (published.sequence, published.duplicate) == (1, False)
    assert len(await story(bus)) == 1


def _next(outcomes: deque[Any], *_: object) -> Any:
    return outcomes.popleft() if outcomes else None


async def test_a_retry_finds_its_twin_when_its_id_is_forgotten(bus: Bus, transport: FaultyTransport) -> None:
    transport.forgets = True
    await bus.publish(order(1), id="before")
    for number in range(3):
        faults: deque[Exception | str | None] = deque([UnavailableError("x"), "lost"])
        questions: deque[Exception | None] = deque([None, UnavailableError("x")])
        transport.faults = partial(_next, faults)
        transport.reading = partial(_next, questions)
        published = await bus.publish(order(1), id=f"o-{number}")
        assert (published.sequence, published.duplicate) == (number + 2, False)
        assert not faults and not questions
    # A call of its own with a forgotten id is not asked about.
    again = await bus.publish(order(1), id="before")
    assert (again.sequence, again.duplicate) == (5, False)


async def test_who_may_not_read_sends_again_all_the_same(bus: Bus, transport: FaultyTransport) -> None:
    faults: deque[Exception | str | None] = deque(["lost", UnavailableError("x")])
    transport.faults = lambda appends: faults.popleft() if faults else None
    transport.reading = lambda: PermissionDenied("not you")
    assert await bus.publish(order(1), id="o-1") == ("o-1", bus.namespace.locate("c1").stream, 1, False)
    faults.extend(["lost", "lost"])
    async with bus.publisher() as publisher:
        for number in range(50):
            await publisher.publish(order(number))
    assert publisher.stored == 50
    assert len(await story(bus)) == 51


async def test_while_nobody_can_tell_what_is_stored_nothing_is_sent(
    bus: Bus, transport: FaultyTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    transport.forgets = True
    transport.faults = partial(_next, deque(["lost"] * 2))
    transport.reading = lambda: UnavailableError("silent")
    monkeypatch.setattr(module, "PATIENCE", 0.05)
    publisher = bus.publisher()
    for number in range(30):
        await publisher.publish(order(number))
    with pytest.raises(ExceptionGroup, match="of the events were not stored") as caught:
        await publisher.__aexit__(None, None, None)
    assert caught.group_contains(PublishError, match="silent")
    # None is there twice, though all ids were forgotten.
    found = await numbers(bus)
    assert found == {customer: expected(30)[customer][: len(stored)] for customer, stored in found.items()} != {}


async def test_patience_ends_with_what_the_last_attempt_met(
    bus: Bus, transport: FaultyTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.02)
    transport.faults = lambda appends: UnavailableError("gone for good")
    with pytest.raises(UnavailableError, match="gone for good"):
        await bus.publish(order(1))
    publisher = bus.publisher()
    await publisher.publish(order(1))
    await publisher.publish(order(2))
    with pytest.raises(ExceptionGroup, match="2 of the events were not stored") as caught:
        await publisher.__aexit__(None, None, None)
    assert caught.group_contains(PublishError, match="gone for good")


# Many, pipelined.


async def test_many_are_stored_in_the_order_of_the_calls(bus: Bus) -> None:
    async with bus.publisher() as publisher:
        for number in range(3_000):
            await publisher.publish(order(number))
    assert await numbers(bus) == expected(3_000)
    assert (publisher.stored, publisher.duplicates, publisher.failures) == (3_000, 0, [])


@pytest.mark.parametrize("limit", [1, 3, 50])
async def test_no_more_than_the_bound_are_ever_in_flight(bus: Bus, transport: FaultyTransport, limit: int) -> None:
    transport.gate.clear()
    async with bus.publisher(in_flight=limit) as publisher:

        async def produce(start: int) -> None:
            for number in range(start, start + 40):
                await publisher.publish(order(number))
                assert bus.committer.pending <= limit

        async with asyncio.TaskGroup() as tasks:
            for start in (0, 40, 80):
                tasks.create_task(produce(start))
            for _ in range(50):
                await asyncio.sleep(0)
            assert bus.committer.pending == limit
            transport.gate.set()
    assert publisher.stored == len(await story(bus)) == 120


def test_nothing_in_flight_is_no_bound() -> None:
    with pytest.raises(ValueError, match="in_flight=0: at least one"):
        Publisher(None, in_flight=0)  # type: ignore[arg-type]  # refused before it is looked at


async def test_each_failure_is_reported_with_its_event(bus: Bus, transport: FaultyTransport) -> None:
    def faults(appends: Sequence[Append]) -> Exception | None:
        return PermissionDenied("not you") if any(append.message_id in {"o-5", "o-99"} for append in appends) else None

    transport.faults = faults
    events = [order(number) for number in range(200)]
    publisher = bus.publisher()

    async def work() -> None:
        async with publisher:
            for number, event in enumerate(events):
                await publisher.publish(event, id=f"o-{number}")

    with pytest.raises(ExceptionGroup) as caught:
        await work()
    failures = caught.value.exceptions
    assert [failure.event for failure in failures if isinstance(failure, PublishError)] == [events[5], events[99]]
    assert all(isinstance(failure.__cause__, PermissionDenied) for failure in failures)
    assert "OrderPlaced o-5 was not stored: not you" in [str(failure) for failure in failures]
    assert publisher.stored == len(await story(bus)) == 198


async def test_failures_can_be_taken_as_they_come(bus: Bus, transport: FaultyTransport) -> None:
    transport.faults = lambda appends: PermissionDenied("no")
    taken: list[PublishError] = []

    def take(error: PublishError) -> None:
        taken.append(error)
        if len(taken) == 2:
            raise ZeroDivisionError("a bug in the callback stops nothing")

    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: reported.append(context))
    async with Publisher(bus, on_error=take) as publisher:
        for number in range(5):
            await publisher.publish(order(number))
    # Two streams answer, each in its own order.
    assert sorted(error.event.number for error in taken if isinstance(error.event, OrderPlaced)) == [0, 1, 2, 3, 4]
    assert len(reported) == 1 and publisher.failures == []


async def test_duplicates_are_counted_and_no_failure(bus: Bus) -> None:
    for count, before in ((3, 0), (60, 3)):
        async with bus.publisher() as publisher:
            for number in range(count):
                await publisher.publish(order(number), id=f"o-{number}")
        assert (publisher.stored, publisher.duplicates) == (count - before, before)


async def test_a_bad_event_is_refused_at_its_own_call(bus: Bus) -> None:
    async with bus.publisher() as publisher:
        with pytest.raises(TooLargeError):
            await publisher.publish(OrderPlaced(customer_id="c", anything="x" * 2_000_000))
        await publisher.publish(order(1))
    assert publisher.stored == 1


async def test_after_its_block_it_is_closed(bus: Bus, transport: FaultyTransport) -> None:
    transport.gate.clear()
    async with bus.publisher(in_flight=1) as publisher:
        await publisher.publish(order(1))
        blocked = asyncio.create_task(publisher.publish(order(2)))
        await asyncio.sleep(0)
        asyncio.get_running_loop().call_later(0.01, transport.gate.set)
    for late in (blocked, asyncio.create_task(publisher.publish(order(3)))):
        with pytest.raises(ClosedError, match=r"open another with bus\.publisher"):
            await late
    assert len(await story(bus)) == 1


async def test_the_block_waits_even_where_its_body_failed(bus: Bus, transport: FaultyTransport) -> None:
    transport.gate.clear()
    publisher = bus.publisher()

    async def work() -> None:
        async with publisher:
            await publisher.publish(order(1))
            asyncio.get_running_loop().call_later(0.01, transport.gate.set)
            raise KeyError

    with pytest.raises(KeyError):
        await work()
    assert publisher.stored == 1


async def test_a_cancelled_block_ends_at_once_and_sends_nothing_later(bus: Bus, transport: FaultyTransport) -> None:
    transport.faults = lambda appends: UnavailableError("down")
    publisher = bus.publisher()
    entered = asyncio.Event()

    async def work() -> None:
        async with publisher:
            for number in range(5):
                await publisher.publish(order(number))
            entered.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert publisher._recovery is None or publisher._recovery.cancelling() or publisher._recovery.done()
    for _ in range(10):
        await asyncio.sleep(0)
    calls = transport.calls
    transport.faults = lambda appends: None
    await asyncio.sleep(0.02)
    assert transport.calls == calls and not await story(bus)


async def test_cancelled_while_the_block_waits(bus: Bus, transport: FaultyTransport) -> None:
    transport.gate.clear()
    publisher = bus.publisher()

    async def work() -> None:
        async with publisher:
            await publisher.publish(order(1))

    task = asyncio.create_task(work())
    for _ in range(10):
        await asyncio.sleep(0)
    assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    # What fails afterwards is not sent again.
    assert publisher._recovery is None
    transport.gate.set()


async def test_a_closed_bus_fails_every_event(bus: Bus) -> None:
    await bus.committer.close()
    with pytest.raises(ClosedError):
        await bus.publish(order(1))
    with pytest.raises(ExceptionGroup) as caught:
        async with bus.publisher() as publisher:
            await publisher.publish(order(1))
    assert isinstance(caught.value.exceptions[0].__cause__, ClosedError)


FAULTS = st.lists(st.sampled_from(["ok"] * 4 + ["lost", "unavailable", "timeout", "busy"]), max_size=40)


@settings(max_examples=60)
@given(FAULTS, st.integers(1, 120), st.integers(1, 200), st.integers(0, 2**32), st.booleans())
def test_through_any_outage_each_is_stored_once_and_in_order(
    faults: list[str], count: int, limit: int, seed: int, forgets: bool
) -> None:
    asyncio.run(_through_outages(faults, count, limit, seed, forgets))


async def _through_outages(faults: list[str], count: int, limit: int, seed: int, forgets: bool) -> None:
    from sojourn.bus.errors import BusyError

    chance = random.Random(seed)
    transport = FaultyTransport()
    transport.forgets = forgets
    made: dict[str, Callable[[], Exception | str | None]] = {
        "ok": lambda: None,
        "lost": lambda: "lost",
        "unavailable": lambda: UnavailableError("gone"),
        "timeout": lambda: TimedOutError("silent"),
        "busy": lambda: BusyError("busy"),
    }
    left = deque(faults)
    transport.faults = lambda appends: made[left.popleft()]() if left else None
    async with open_bus(transport, NARROW, clock=VirtualClock(NOON)) as bus:
        async with bus.publisher(in_flight=limit) as publisher:
            for number in range(count):
                await publisher.publish(order(number))
                if chance.random() < 0.2:
                    await asyncio.sleep(0)
        assert await numbers(bus) == expected(count)
        assert (publisher.stored, publisher.duplicates) == (count, 0)


async def test_a_server_killed_again_and_again_loses_doubles_and_reorders_nothing(
    private_server: Callable[..., NatsServer],
) -> None:
    server = private_server()
    transport = await connect_nats(server.url, timers=JetStreamTimers(), answer_timeout=2.0)
    total = 6_000

    async def kill() -> None:
        for _ in range(3):
            reached = publisher.stored + 900
            async with asyncio.timeout(30):
                while publisher.stored < min(reached, total - 600):  # noqa: ASYNC110 - a condition with a deadline
                    await asyncio.sleep(0.002)
            server.kill9()
            await asyncio.to_thread(server.restart)

    try:
        async with open_bus(transport, NARROW, clock=WallClock()) as bus:
            async with asyncio.TaskGroup() as tasks, bus.publisher(in_flight=1_500) as publisher:
                tasks.create_task(kill())
                for number in range(total):
                    await publisher.publish(order(number), id=f"o-{number}")
            found = await story(bus)
            ids = Counter(json.loads(message.payload)["id"] for message in found)
            assert len(ids) == total and max(ids.values()) == 1
            assert await numbers(bus) == expected(total)
            assert publisher.stored == total
    finally:
        await transport.close()


@pytest.mark.parametrize("id", ["ä", "😀" * 128, "a b", "x" * 512, "Nats-Msg-Id: y", '"', "%0d%0a"])
async def test_odd_ids_are_themselves_on_a_real_server(nats_server: NatsServer, id: str) -> None:
    transport = await connect_nats(nats_server.url, timers=JetStreamTimers())
    namespace = Namespace("publisher-ids", 1, 1)
    try:
        async with open_bus(transport, namespace, clock=WallClock()) as bus:
            first, again, other = [await bus.publish(order(1), id=name) for name in (id, id, id[:-1] + "!")]
            assert (first.duplicate, again.duplicate, other.duplicate) == (False, True, False)
            assert again.sequence == first.sequence
            stored = await transport.get(first.stream, first.sequence)
            assert stored is not None and decode(stored.payload, OrderPlaced).id == id
            for stream in (*namespace.streams, namespace.ingress_stream, "KV_PUBLISHER-IDS_registry"):
                await transport.delete_stream(stream)
    finally:
        await transport.close()


async def test_at_the_servers_own_limit(nats_server: NatsServer) -> None:
    transport = await connect_nats(nats_server.url, timers=JetStreamTimers())
    namespace = Namespace("publisher-size", 1, 1)
    try:
        async with open_bus(transport, namespace, clock=WallClock()) as bus:
            room = transport.max_payload - module.HEADROOM
            size = room - len(await _document(bus, OrderPlaced(customer_id="c", anything="")))
            await bus.publish(OrderPlaced(customer_id="c", anything="x" * size), id="😀" * 128)
            with pytest.raises(TooLargeError):
                await bus.publish(OrderPlaced(customer_id="c", anything="x" * (size + 1)), id="😀" * 128)
            # Many of them are more than one batch.
            async with bus.publisher() as publisher:
                for number in range(30):
                    await publisher.publish(
                        OrderPlaced(customer_id=f"c{number}", anything="x" * (size - 10)), id=f"{number}" + "😀" * 127
                    )
            assert publisher.stored == 30
            for stream in (*namespace.streams, namespace.ingress_stream, "KV_PUBLISHER-SIZE_registry"):
                await transport.delete_stream(stream)
    finally:
        await transport.close()


async def _document(bus: Bus, event: Event) -> bytes:
    published = await bus.publish(event, id="😀" * 127 + "x" * 4)
    stored = await bus.transport.get(published.stream, published.sequence)
    assert stored is not None
    return stored.payload


def test_what_a_publisher_may_raise_is_one_tree() -> None:
    assert issubclass(PublishError, SojournError)
