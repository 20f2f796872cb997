"""Output for another customer: one arrival each, in order for each source, whatever goes wrong between."""

from __future__ import annotations

import asyncio
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sojourn.agents.processor import AgentProcessor
from sojourn.bus.client import Bus, open_bus
from sojourn.bus.clock import VirtualClock
from sojourn.bus.crossing import read_record
from sojourn.bus.delivery.worker import Worker
from sojourn.bus.envelope import MAX_HOPS, decode
from sojourn.bus.errors import DecodeError
from sojourn.bus.event import Event, Key
from sojourn.bus.lag import Meter
from sojourn.bus.memory import MemoryTransport
from sojourn.bus.personal.field import Personal
from sojourn.bus.personal.master import MasterKeys
from sojourn.bus.ports import Append
from sojourn.bus.processor import Output, Turn
from sojourn.bus.reading import Reader
from sojourn.bus.subjects import RELAYS, Namespace
from sojourn.bus.timers import VirtualTimers
from tests.bus.delivery.processors import (
    NARROW,
    START,
    CartAbandoned,
    Faults,
    FaultyTransport,
    OfferPrinted,
    Resident,
    Scripted,
    dead,
    log_of,
    memory_bus,
    turbo,
    until,
)
from tests.bus.relay_routes import check_routes, post
from tests.bus.relay_shop import Courier, LetterPosted
from tests.nats_server import NatsServer
from tests.prove.points import crash_relaying

KEYS = ("ann", "bob", "c.d", "é", "eve")


async def test_events_reach_other_customers_once_and_go_on_from_there() -> None:
    routes = [("ann", "bob", "c.d", "é"), ("bob", "ann"), ("ann", "bob"), ("eve", "ann", "eve", "ann"), ("é",)]
    async with memory_bus() as bus, Worker(bus, [AgentProcessor(Courier)], ingress=False) as worker:
        await post(bus, routes)
        await worker.caught_up()
        await check_routes(bus, routes)
        assert not await dead(bus, "courier")


async def test_what_an_event_says_of_where_it_comes_from() -> None:
    async with memory_bus() as bus, Worker(bus, [AgentProcessor(Courier)], ingress=False) as worker:
        published = await bus.publish(LetterPosted(customer_id="ann", n=1, route=("bob",)))
        await worker.caught_up()
        [record] = await log_of(bus.transport, bus.namespace, "lane.*.*.act.courier.relay")
        [message] = await log_of(bus.transport, bus.namespace, "log.*.*.act.*.*")
        document = json.loads(message.payload)
        assert message.subject == bus.namespace.action(bus.namespace.locate("bob"), "courier~ann", "LetterForwarded")
        assert (document["source"], document["subject"], document["kind"]) == ("/test/courier", "bob", "out")
        assert (document["causationid"], document["causetype"]) == (published.id, "LetterPosted")
        assert (document["correlationid"], document["hops"]) == (published.id, 1)
        assert document["causeseq"] == record.sequence > published.sequence


def invite(resident: Resident, turn: Turn) -> Output:
    """A note for somebody else, and for every second event one for oneself, too."""
    event = turn.recorded.envelope.event
    assert isinstance(event, CartAbandoned)
    own: list[Event] = [OfferPrinted(customer_id=resident.key, n=event.n)] if event.n % 2 else []
    return Output(own, others=[OfferPrinted(customer_id=key, n=event.n) for key in ("x", "y")])


async def test_an_output_of_nothing_else_closes_its_cause() -> None:
    calls: list[int] = []

    def handle(resident: Resident, turn: Turn) -> Output:
        calls.append(turn.recorded.sequence)
        return invite(resident, turn)

    async with memory_bus() as bus:
        for _ in range(2):
            async with Worker(bus, [Scripted(handle, start="beginning", folds=())], ingress=False) as worker:
                if not calls:
                    for n in range(4):
                        await bus.publish(CartAbandoned(customer_id="c", n=n))
                await worker.caught_up()
                # The acks are lost, as it were.
                for partition in worker.groups[0].partitions.values():
                    partition.restart("test")
                await until(lambda: all(group.idle for group in worker.groups))
        assert len(calls) == 4
        mine = await log_of(bus.transport, bus.namespace, "log.*.c.act.win.*")
        others = await log_of(bus.transport, bus.namespace, "log.*.*.act.win~c.*")
        assert (len(mine), len(others)) == (2, 8)


EVERYTHING = {
    "lost": 0.05,
    "refused": 0.05,
    "conflict": 0.05,
    "late": 0.03,
    "slow": 1.0,
    "gap": 0.02,
    "again": 0.02,
    "unacked": 0.05,
    "broken": 0.01,
    "stuck": 0.1,
    "unread": 0.02,
}


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    seed=st.integers(0, 2**32),
    routes=st.lists(
        st.lists(st.sampled_from(KEYS), min_size=1, max_size=5)
        .map(tuple)
        .filter(lambda route: all(one != next for one, next in pairwise(route))),
        min_size=1,
        max_size=30,
    ),
    crashes=st.lists(st.floats(0.001, 0.5), max_size=3),
    chances=st.fixed_dictionaries({}, optional={name: st.just(chance) for name, chance in EVERYTHING.items()}),
)
def test_one_arrival_each_whatever_goes_wrong(
    seed: int, routes: list[tuple[str, ...]], crashes: list[float], chances: dict[str, float]
) -> None:
    faults = Faults(seed, **chances)
    steps = sum(len(route) - 1 for route in routes)

    async def arrived(bus: Bus) -> bool:
        return len(await log_of(bus.transport, bus.namespace, "log.*.*.act.*.*")) >= steps

    async def life(bus: Bus, seconds: float) -> None:
        async with asyncio.timeout(seconds), Worker(bus, [AgentProcessor(Courier)], ingress=False) as worker:
            await worker.wait()

    async def main() -> None:
        faults.on = False
        transport = FaultyTransport(faults)
        async with memory_bus(transport) as bus:
            await post(bus, routes)
            for seconds in crashes:
                faults.on = True
                with pytest.raises(TimeoutError):
                    # Cancelled, without drain.
                    await life(bus, seconds)
                faults.on = False
            async with Worker(bus, [AgentProcessor(Courier)], ingress=False) as worker:
                faults.on = True
                await asyncio.sleep(5)
                transport.heal()
                await until(lambda: arrived(bus), 300)
                await worker.caught_up()
            await check_routes(bus, routes)
            assert not await dead(bus, "courier")

    turbo(main(), seconds=3_000)


async def test_the_relay_shares_its_partitions_among_workers() -> None:
    routes = [(KEYS[n % 5], KEYS[(n + 1) % 5], KEYS[(n + 3) % 5]) for n in range(40)]
    async with memory_bus(namespace=Namespace("test", 16, 4)) as bus:
        async with (
            Worker(bus, [AgentProcessor(Courier)], ingress=False, name="one") as one,
            Worker(bus, [AgentProcessor(Courier)], ingress=False, name="two") as two,
        ):
            await post(bus, routes)
            await one.caught_up()
            await two.caught_up()
            assert one._relays is not None
            assert two._relays is not None
            shares = one._relays.partitions, two._relays.partitions
            await until(lambda: len(shares[0]) + len(shares[1]) == 16 and min(map(len, shares)) > 0)
            await until(lambda: one._relays.idle and two._relays.idle)  # type: ignore[union-attr]  # see above
        await check_routes(bus, routes)


async def test_a_circle_ends_in_a_dead_letter() -> None:
    class BallThrown(Event):
        customer_id: Key
        n: int

    def throw(resident: Resident, turn: Turn) -> Output:
        return Output(others=[BallThrown(customer_id="bob" if resident.key == "ann" else "ann", n=0)])

    circle = Scripted(throw, handles=(BallThrown,), folds=(), publishes=(BallThrown,))
    async with memory_bus() as bus, Worker(bus, [circle], ingress=False) as worker:
        await bus.publish(BallThrown(customer_id="ann", n=0))
        await worker.caught_up()
        assert len(await log_of(bus.transport, bus.namespace, "log.*.*.act.*.*")) == MAX_HOPS + 1
        [letter] = await dead(bus)
        assert "handlers trigger each other in a circle" in letter["reason"]


async def test_what_cannot_reach_anybody_is_a_dead_letter_of_its_cause() -> None:
    def handle(resident: Resident, turn: Turn) -> Output:
        event = OfferPrinted(customer_id="x", n=1)
        key = "" if turn.recorded.envelope.event.n else "k" * 600  # type: ignore[attr-defined]  # a CartAbandoned
        return Output(
            [event.model_copy(update={"customer_id": resident.key})],
            others=[event.model_copy(update={"customer_id": key})],
        )

    async with memory_bus() as bus, Worker(bus, [Scripted(handle, folds=())], ingress=False) as worker:
        for n in range(2):
            await bus.publish(CartAbandoned(customer_id="c", n=n))
        await worker.caught_up()
        long, empty = await dead(bus)
        assert "a key has at most 512 bytes once escaped; this one has 600" in long["reason"]
        assert "a key must not be empty" in empty["reason"]
        assert not await log_of(bus.transport, bus.namespace, "log.*.*.act.*.*")


async def test_types_are_registered_and_held_to_what_is() -> None:
    class TicketSold(Event):
        customer_id: Key
        price: int

    stranger = type(
        "TicketSold", (Event,), {"__module__": __name__, "__annotations__": {"customer_id": Key, "zone": str}}
    )
    sold: list[Event] = [TicketSold(customer_id="x", price=1), stranger(customer_id="x", zone="a")]

    def handle(resident: Resident, turn: Turn) -> Output:
        return Output(others=[sold[turn.recorded.envelope.event.n]])  # type: ignore[attr-defined]  # a CartAbandoned

    async with memory_bus() as bus, Worker(bus, [Scripted(handle, folds=(), publishes=())], ingress=False) as worker:
        for n in range(2):
            await bus.publish(CartAbandoned(customer_id="c", n=n))
        await worker.caught_up()
        assert await bus.schemas.record("TicketSold") is not None
        [arrival] = await log_of(bus.transport, bus.namespace, "log.*.x.act.win~c.*")
        assert json.loads(arrival.payload)["data"] == {"customer_id": "x", "price": 1}
        [letter] = await dead(bus)
        assert letter["error"] == "SchemaError"


class CardSent(Event):
    customer_id: Key
    greeting: Personal[str] | None


async def test_personal_values_are_sealed_for_the_one_they_are_about() -> None:
    def greet(resident: Resident, turn: Turn) -> Output:
        return Output(others=[CardSent(customer_id="bob", greeting="Dear Bob")])

    transport = MemoryTransport(VirtualTimers())
    async with open_bus(transport, NARROW, clock=VirtualClock(START), master_keys=MasterKeys.new()) as bus:
        greeter = Scripted(greet, folds=(), publishes=(CardSent,))
        async with Worker(bus, [greeter], ingress=False) as worker:
            await bus.publish(CartAbandoned(customer_id="ann", n=0))
            await worker.caught_up()
            [record] = await log_of(transport, NARROW, "lane.*.ann.act.win.relay")
            [arrival] = await log_of(transport, NARROW, "log.*.bob.act.win~ann.*")
            assert b"Dear" not in record.payload + arrival.payload
            assert await bus.keys.load("ann") is None, "nothing of hers was personal"

            async def greeting() -> str | None:
                event = decode(arrival.payload, CardSent, Reader(bus.schemas, await bus.keys.load("bob"))).event
                assert isinstance(event, CardSent)
                return event.greeting

            assert await greeting() == "Dear Bob"
            await bus.keys.erase("ann")
            assert await greeting() == "Dear Bob"
            await bus.keys.erase("bob")
            assert await greeting() is None


async def test_nobody_pays_for_a_relay_that_nobody_uses() -> None:
    async with memory_bus() as bus, Worker(bus, [Scripted()], ingress=False) as worker:
        await bus.publish(CartAbandoned(customer_id="c", n=0))
        await worker.caught_up()
        assert await bus.registry.group(RELAYS) is None
        assert await bus.transport.consumer_lag("TEST_0", f"{RELAYS}-0") is None
        assert [group.name for group in (await Meter(bus).measure()).groups] == ["win"]


async def test_its_lag_shows_and_who_runs_it() -> None:
    routes = [("ann", "bob"), ("bob", "c.d")]
    async with memory_bus() as bus:
        async with Worker(bus, [AgentProcessor(Courier)], ingress=False) as worker:
            await post(bus, routes)
            await worker.caught_up()
        at = bus.namespace.locate("ann")
        [record, *_] = await log_of(bus.transport, bus.namespace, "lane.*.ann.act.courier.relay")
        # As from a worker that ended before anybody relayed it.
        await bus.committer.store(at.stream, [Append(record.subject, record.payload)])
        [lag] = (await Meter(bus, [RELAYS]).measure()).groups
        assert (lag.figures.pending, lag.figures.in_flight) == (1, 0)
        async with Worker(bus, [AgentProcessor(Courier)], ingress=False):
            meter = Meter(bus, [RELAYS])

            async def drained() -> bool:
                return not (await meter.measure()).groups[0].figures.waiting

            await until(drained)


async def test_strangers_in_the_lane_hold_up_nobody() -> None:
    async with memory_bus() as bus, Worker(bus, [AgentProcessor(Courier)], ingress=False) as worker:
        await post(bus, [("ann", "bob")])
        await worker.caught_up()
        at = bus.namespace.locate("ann")
        subject = bus.namespace.record(at, "courier", "relay")
        for payload in (
            b"nonsense",
            b'{"kind":"relay"}',
            b'{"kind":"relay","cause":1,"to":"a.b","event":{"subject":"bob"}}',
        ):
            await bus.committer.store(at.stream, [Append(subject, payload)])
        await post(bus, [("ann", "bob")])
        await worker.caught_up()
        assert len(await log_of(bus.transport, bus.namespace, "log.*.bob.act.courier~ann.*")) == 2


def test_records_that_are_none() -> None:
    good = {"kind": "relay", "cause": 1, "to": "", "event": {"subject": "bob", "type": "T"}}
    at = NARROW.locate("bob")
    good["to"] = f"test.log.{at.partition}.bob.act.win~ann.T"
    subject = "test.lane.0.ann.act.win.relay"
    assert (
        read_record(NARROW, subject, json.dumps(good).encode(), 7).payload
        == b'{"subject":"bob","type":"T","causeseq":7}'
    )
    bad: list[Any] = [
        good | {"kind": "out"},
        good | {"event": 3},
        good | {"event": {"subject": 5, "type": "T"}},
        [],
        None,
    ]
    for document in bad:
        with pytest.raises(DecodeError):
            read_record(NARROW, subject, json.dumps(document).encode(), 7)


async def test_no_arrival_is_lost_or_doubled_where_workers_are_killed(nats_server: NatsServer, tmp_path: Path) -> None:
    await crash_relaying(nats_server, tmp_path, "relayed", ("in_relay:9", "after_commit:30"))
