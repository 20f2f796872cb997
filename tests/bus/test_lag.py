"""Lag is what the server says of it: number by number against nats-py, with workers and without, and on the twin."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import nats
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sojourn.bus.client import Bus, open_bus
from sojourn.bus.clock import VirtualClock, WallClock
from sojourn.bus.delivery.group import ensure_consumers
from sojourn.bus.delivery.worker import Worker
from sojourn.bus.errors import NotFoundError, TimedOutError, TransientError, UnavailableError
from sojourn.bus.lag import Figures, GroupLag, Lag, Meter
from sojourn.bus.lag.figures import total
from sojourn.bus.lag.parked import ParkedKeys
from sojourn.bus.memory import MemoryTransport
from sojourn.bus.nats import connect_nats
from sojourn.bus.ports import Append, ConsumerLag, Delivery, StreamState
from sojourn.bus.processor import Output, Turn
from sojourn.bus.subjects import Namespace
from sojourn.bus.timers import JetStreamTimers, VirtualTimers
from tests.bus.delivery.processors import (
    START,
    CartAbandoned,
    OrderPlaced,
    Resident,
    Scripted,
    memory_bus,
    offer,
    until,
)
from tests.nats_server import NatsServer

numbers = itertools.count()
WIDE = Namespace("test", 8, 2)


@contextlib.asynccontextmanager
async def nats_bus(server: NatsServer, namespace: Namespace | None = None) -> AsyncIterator[Bus]:
    transport = await connect_nats(server.url, timers=JetStreamTimers())
    try:
        spread = namespace or Namespace(f"lag{next(numbers)}", 8, 2)
        async with open_bus(transport, spread, clock=WallClock()) as bus:
            yield bus
    finally:
        await transport.close()


@pytest.fixture(params=["memory", "nats"])
async def bus(request: pytest.FixtureRequest) -> AsyncIterator[Bus]:
    """A bus of eight partitions in two shards, on either transport."""
    if request.param == "memory":
        async with open_bus(MemoryTransport(VirtualTimers()), WIDE, clock=WallClock()) as opened:
            yield opened
    else:
        async with nats_bus(request.getfixturevalue("nats_server")) as opened:
            yield opened


async def publish(bus: Bus, keys: int, numbers: range) -> None:
    async with bus.publisher() as publisher:
        for n in numbers:
            await publisher.publish(CartAbandoned(customer_id=f"c{n % keys}", n=n))


async def begin(bus: Bus, processor: Scripted, *, actions: bool = False) -> None:
    """Registers a processor and settles its group, as a worker does before it makes consumers."""
    await bus.registry.register(processor)
    present = {}
    for stream in bus.namespace.streams:
        state = await bus.transport.stream_state(stream)
        assert state is not None
        present[stream] = state.last
    await bus.registry.settle_group(processor.group, present=present, start=processor.start, actions=actions)


async def raw(server: NatsServer, bus: Bus, group: str) -> dict[int, tuple[int, int, int]]:
    """Pending, in flight and ack floor of each partition as nats-py shows them."""
    client = await nats.connect(server.url)
    try:
        found = {}
        for p in range(bus.namespace.partitions):
            info = await client.jetstream().consumer_info(bus.namespace.stream(p), f"{group}-{p}")
            assert info.num_pending is not None and info.num_ack_pending is not None and info.ack_floor is not None
            found[p] = (info.num_pending, info.num_ack_pending, info.ack_floor.stream_seq)
        return found
    finally:
        await client.close()


def by_name(lag: Lag) -> dict[str, GroupLag]:
    return {group.name: group for group in lag.groups}


async def one(bus: Bus, group: str) -> GroupLag:
    """The lag of one group. A new meter each time: what it says does not depend on what it saw before."""
    (found,) = (await Meter(bus, [group]).measure()).groups
    return found


async def check_raw(server: NatsServer, bus: Bus, group: str) -> GroupLag:
    """Holds the lag against raw consumer info, and the ages against the messages after the raw ack floors."""
    before = datetime.now(UTC).timestamp()
    lag = await one(bus, group)
    after = datetime.now(UTC).timestamp()
    consumers = await raw(server, bus, group)
    assert {p.partition: (p.figures.pending, p.figures.in_flight) for p in lag.partitions} == {
        p: (pending, flying) for p, (pending, flying, _) in consumers.items()
    }
    assert lag.figures.pending == sum(pending for pending, _, _ in consumers.values())
    assert lag.figures.in_flight == sum(flying for _, flying, _ in consumers.values())
    for partition in lag.partitions:
        pending, flying, floor = consumers[partition.partition]
        stream, filter = (
            bus.namespace.stream(partition.partition),
            bus.namespace.partition_filter(partition.partition, actions=False),
        )
        beyond = await bus.transport.read(stream, filter, floor + 1)
        if not pending and not flying:
            assert partition.figures.oldest is None
            continue
        assert partition.figures.oldest is not None
        stored = beyond[0].timestamp / 1e9
        assert before - stored - 0.05 <= partition.figures.oldest <= after - stored + 0.05
    return lag


# Against the server


async def test_it_agrees_with_raw_consumer_info_while_no_worker_runs(nats_server: NatsServer) -> None:
    async with nats_bus(nats_server) as bus:
        processor = Scripted()
        async with Worker(bus, [processor]) as worker:
            await publish(bus, 40, range(300))
            await worker.caught_up()
        lag = await check_raw(nats_server, bus, "win")
        assert lag.figures[:4] == (0, 0, 0, None)
        await publish(bus, 40, range(300, 500))
        lag = await check_raw(nats_server, bus, "win")
        assert lag.figures[:3] == (200, 0, 0)
        assert lag.figures.oldest is not None and lag.workers == 0


async def test_it_agrees_with_raw_consumer_info_while_a_worker_runs(nats_server: NatsServer) -> None:
    """Handlers that wait hold the numbers still, some at the head of their partition, so that acks go out of turn."""
    release = asyncio.Event()

    async def handle(resident: Resident, turn: Turn) -> Output:
        event = turn.recorded.envelope.event
        assert isinstance(event, CartAbandoned)
        if event.n % 7 == 0:
            await release.wait()
        return offer(resident, turn)

    async with nats_bus(nats_server) as bus, Worker(bus, [Scripted(handle)]) as worker:
        await publish(bus, 400, range(400))
        held = 400 - 400 * 6 // 7
        await until(lambda: worker.groups[0].counters.closed >= 400 - held)

        async def counted() -> bool:
            return sum(flying for _, flying, _ in (await raw(nats_server, bus, "win")).values()) == held

        await until(counted)
        lag = await check_raw(nats_server, bus, "win")
        assert lag.figures[:3] == (0, held, 0)
        assert lag.figures.oldest is not None
        release.set()
        await worker.caught_up()

        async def done() -> bool:
            return not any(flying for _, flying, _ in (await raw(nats_server, bus, "win")).values())

        await until(done)
        lag = await check_raw(nats_server, bus, "win")
        assert lag.figures[:4] == (0, 0, 0, None)


async def test_measuring_makes_no_consumer_and_moves_none(nats_server: NatsServer) -> None:
    async with nats_bus(nats_server) as bus:
        ran, waiting = Scripted(), Scripted(writer="later", start="beginning")
        async with Worker(bus, [ran]) as worker:
            await publish(bus, 10, range(50))
            await worker.caught_up()
        await begin(bus, waiting)
        await publish(bus, 10, range(50, 80))
        client = await nats.connect(nats_server.url)

        async def picture() -> Any:
            context = client.jetstream()
            streams = [(await context.stream_info(name)).state for name in bus.namespace.streams]
            consumers = [info for name in bus.namespace.streams for info in await context.consumers_info(name)]
            return (
                [(state.messages, state.last_seq, state.consumer_count) for state in streams],
                sorted((c.name, c.ack_floor, c.delivered, c.num_pending, c.num_ack_pending) for c in consumers),
                sorted(await bus.transport.streams(bus.namespace.prefix)),
            )

        before = await picture()
        meter = Meter(bus)
        for _ in range(2):
            await meter.measure()
        lag = await meter.measure()
        assert await picture() == before
        assert {name: group.figures.pending for name, group in by_name(lag).items()} == {"win": 30, "later": 80}
        await client.close()


# On either transport


async def test_a_group_without_consumers_waits_from_where_it_began(bus: Bus) -> None:
    await publish(bus, 10, range(20))
    await begin(bus, Scripted(writer="now"))
    await begin(bus, Scripted(writer="all", start="beginning"))
    lag = by_name(await Meter(bus).measure())
    assert (lag["now"].figures.pending, lag["now"].figures.oldest) == (0, None)
    assert lag["all"].figures.pending == 20
    await publish(bus, 10, range(20, 27))
    lag = by_name(await Meter(bus).measure())
    assert [lag[name].figures.pending for name in ("now", "all")] == [7, 27]
    seen = {
        name: {p.partition: (p.figures.pending, p.figures.oldest is None) for p in lag[name].partitions} for name in lag
    }
    for name in lag:
        record = await bus.registry.group(name)
        assert record is not None
        await ensure_consumers(bus.transport, bus.namespace, record)
    lag = by_name(await Meter(bus).measure())
    assert seen == {
        name: {p.partition: (p.figures.pending, p.figures.oldest is None) for p in lag[name].partitions} for name in lag
    }


async def test_a_group_that_reads_actions_counts_them_and_another_does_not(bus: Bus) -> None:
    await begin(bus, Scripted(writer="plain"))
    await begin(bus, Scripted(writer="nosy"), actions=True)
    at = bus.namespace.locate("c1")
    action = Append(bus.namespace.action(at, "somebody", "DiscountOffered"), b"{}")
    await bus.transport.commit(at.stream, [action, action])
    await publish(bus, 5, range(5))
    lag = by_name(await Meter(bus).measure())
    assert {name: group.figures.pending for name, group in lag.items()} == {"plain": 5, "nosy": 7}


async def test_a_registered_group_that_never_ran_is_told_apart(bus: Bus) -> None:
    await bus.registry.register(Scripted(writer="ahead"))
    await begin(bus, Scripted(writer="ran"))
    lag = await Meter(bus).measure()
    groups = by_name(lag)
    assert (groups["ahead"].ran, groups["ahead"].partitions, groups["ahead"].writers) == (False, (), ("ahead",))
    assert groups["ran"].ran and len(groups["ran"].partitions) == bus.namespace.partitions
    assert not lag.failures and not lag.truncated


async def test_a_group_that_is_not_there_is_refused(bus: Bus) -> None:
    await begin(bus, Scripted())
    with pytest.raises(NotFoundError, match=r"no group named 'wine' \(groups: win\)"):
        await Meter(bus, ["wine"]).measure()


async def test_a_poisonous_head_keeps_its_age_while_everything_behind_it_is_done(bus: Bus) -> None:
    """One customer's event that cannot be handled is in flight and the oldest; acks above it do not hide it."""
    broken = asyncio.Event()

    async def handle(resident: Resident, turn: Turn) -> Output:
        event = turn.recorded.envelope.event
        assert isinstance(event, CartAbandoned)
        if event.n == 0 and not broken.is_set():
            await broken.wait()
        return offer(resident, turn)

    async with Worker(bus, [Scripted(handle)]) as worker:
        await publish(bus, 100, range(1))
        await publish(bus, 100, range(1, 100))
        await until(lambda: worker.groups[0].counters.closed == 99)

        async def settled() -> bool:
            return (await one(bus, "win")).figures[:2] == (0, 1)

        await until(settled)
        home = bus.namespace.locate("c0")
        poison = await bus.transport.last(home.stream, bus.namespace.event(home, "CartAbandoned"))
        assert poison is not None
        lag = await one(bus, "win")
        state = await bus.transport.stream_state(home.stream)
        assert state is not None
        (place,) = (p for p in lag.partitions if p.figures.oldest is not None)
        assert place.partition == home.partition and place.figures.in_flight == 1
        assert place.figures.oldest == pytest.approx((state.time - poison.timestamp) / 1e9, abs=0.5)
        broken.set()
        await worker.caught_up()


async def test_paused_is_a_group_whose_writers_all_are(bus: Bus) -> None:
    for name, group in (("a", "pair"), ("b", "pair"), ("c", "c")):
        await begin(bus, Scripted(writer=name, group=group))
    assert not any(group.paused for group in (await Meter(bus).measure()).groups)
    for name in ("a", "c"):
        await set_mode(bus, name, "paused")
    lag = by_name(await Meter(bus).measure())
    assert (lag["pair"].paused, lag["c"].paused) == (False, True)
    await set_mode(bus, "b", "paused")
    assert (await one(bus, "pair")).paused


async def set_mode(bus: Bus, writer: str, mode: str) -> None:
    entry = await bus.registry.bucket.get(f"writer.{writer}")
    assert entry is not None and entry.value is not None
    document = json.loads(entry.value) | {"mode": mode}
    await bus.registry.bucket.put(f"writer.{writer}", json.dumps(document).encode())


async def test_who_owns_what_is_told_where_somebody_tells_it(bus: Bus) -> None:
    await begin(bus, Scripted())
    lag = await Meter(bus).measure()
    assert not lag.owned and lag.groups[0].workers == 0
    assert f"KV_{bus.namespace.bucket('leases')}" not in await bus.transport.streams()
    bucket = await bus.transport.bucket(bus.namespace.bucket("leases"))
    await bucket.put("member.s1", json.dumps({"worker": "w1", "groups": ["win"]}).encode(), ttl=60)
    await bucket.put("member.s2", json.dumps({"worker": "w2", "groups": ["win"]}).encode(), ttl=60)
    claims = {0: ("w1", "s1"), 1: ("w1", "s1"), 2: ("w2", "s2"), 3: ("w3", "dead"), 4: (None, None)}
    for partition, (worker, session) in claims.items():
        claim = {"worker": worker, "session": session, "crashes": 0}
        await bucket.put(f"owner.win.{partition}", json.dumps(claim).encode())
    await bucket.put("owner.win.x", b"{}")
    await bucket.put("owner.win.5", b"not json")
    lag = await Meter(bus).measure()
    assert lag.owned and lag.groups[0].workers == 2
    told = {p.partition: p.worker for p in lag.groups[0].partitions if p.worker is not None}
    assert told == {0: "w1", 1: "w1", 2: "w2"}


async def test_foreign_documents_that_wait_are_the_group_ingress(bus: Bus) -> None:
    await begin(bus, Scripted())
    assert [group.name for group in (await Meter(bus).measure()).groups] == ["win"]
    stream, namespace = bus.namespace.ingress_stream, bus.namespace
    await gather_sent(bus, stream, [Append(f"{namespace.name}.in.CartAbandoned", b"{}")] * 5)
    (ingress,) = (await Meter(bus, ["ingress"]).measure()).groups
    assert ingress.figures[:3] == (5, 0, 0) and ingress.figures.oldest is not None
    for shard, position in enumerate((5, 3)):
        cursor = Append(namespace.cursor("ingress", shard), json.dumps({"position": position}).encode())
        await bus.transport.commit(namespace.shard_stream(shard), [cursor])
    (ingress,) = (await Meter(bus, ["ingress"]).measure()).groups
    assert ingress.figures.pending == 2
    await bus.transport.commit(
        namespace.shard_stream(1), [Append(namespace.cursor("ingress", 1), json.dumps({"position": 5}).encode())]
    )
    await bus.transport.delete_messages(stream, range(1, 6))
    groups = by_name(await Meter(bus).measure())
    assert groups["ingress"].figures[:4] == (0, 0, 0, None)


async def gather_sent(bus: Bus, stream: str, appends: list[Append]) -> None:
    told: list[object] = []
    for append in appends:
        bus.transport.send(stream, append, told.append)
    await until(lambda: len(told) == len(appends))


# Parked customers


def record(bus: Bus, key: str, kind: str, writer: str = "win", *, since: int | None = None, **facts: int) -> Append:
    """A record of a lane as the design says it, put there by hand."""
    at = bus.namespace.locate(key)
    document = {"kind": kind, **facts} | ({} if since is None else {"from": since})
    return Append(bus.namespace.record(at, writer, kind), json.dumps(document).encode())


async def put(bus: Bus, key: str, kind: str, writer: str = "win", *, since: int | None = None, **facts: int) -> None:
    appended = record(bus, key, kind, writer, since=since, **facts)
    await bus.transport.commit(bus.namespace.locate(key).stream, [appended])


async def test_parked_customers_are_counted_and_keep_their_age(bus: Bus) -> None:
    for writer, group in (("win", "win"), ("a", "pair"), ("b", "pair")):
        await begin(bus, Scripted(writer=writer, group=group))
    await publish(bus, 6, range(6))
    for group in ("win", "pair"):
        await drain(bus, group)
    assert all(g.figures[:4] == (0, 0, 0, None) for g in (await Meter(bus).measure()).groups)
    sequences = {key: await event_of(bus, key) for key in ("c0", "c1", "c2")}
    meter = Meter(bus)
    await meter.measure()
    for key, writer in (("c0", "win"), ("c1", "win"), ("c2", "win"), ("c0", "a"), ("c0", "b"), ("c0", "stranger")):
        await put(bus, key, "parked", writer, since=sequences[key][0], attempts=3)
    await put(bus, "c0", "parked", since=sequences["c0"][0], attempts=4)
    await put(bus, "c1", "unparked", cause=sequences["c1"][0])
    await put(bus, "c2", "unparked", cause=sequences["c2"][0])
    await put(bus, "c2", "parked", since=sequences["c2"][0], attempts=1)
    for measured in (await meter.measure(), await Meter(bus).measure()):
        lag = by_name(measured)
        assert {name: group.figures.parked for name, group in lag.items()} == {"win": 2, "pair": 2}
        where: dict[int, int] = {}
        for key in ("c0", "c2"):
            where[bus.namespace.locate(key).partition] = where.get(bus.namespace.locate(key).partition, 0) + 1
        assert {p.partition: p.figures.parked for p in lag["win"].partitions if p.figures.parked} == where
        state = await bus.transport.stream_state(bus.namespace.locate("c0").stream)
        assert state is not None and lag["pair"].figures.oldest == pytest.approx(
            (state.time - sequences["c0"][1]) / 1e9, abs=0.5
        )
    for key, writer in (("c0", "win"), ("c2", "win"), ("c0", "a"), ("c0", "b")):
        await put(bus, key, "unparked", writer, cause=sequences[key][0])
    for measured in (await meter.measure(), await Meter(bus).measure()):
        assert all(g.figures[:4] == (0, 0, 0, None) for g in measured.groups)


async def test_the_age_of_a_parked_customer_is_that_of_its_event_not_of_its_parking() -> None:
    clock = VirtualClock(START)
    transport = MemoryTransport(VirtualTimers(), clock=clock)
    async with memory_bus(transport, WIDE, clock) as bus:
        await begin(bus, Scripted())
        await publish(bus, 1, range(1))
        await drain(bus, "win")
        sequence, _ = await event_of(bus, "c0")
        clock.advance_to(START + timedelta(hours=1))
        await put(bus, "c0", "parked", since=sequence)
        clock.advance_to(START + timedelta(hours=2))
        (lag,) = (await Meter(bus).measure()).groups
        assert lag.figures.oldest == 7200
        await transport.delete_messages(bus.namespace.locate("c0").stream, [sequence])
        (lag,) = (await Meter(bus).measure()).groups
        assert lag.figures.oldest == 3600, "what is left of it is the record"


async def test_a_first_look_at_many_records_of_parking_is_bounded(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sojourn.bus.lag.parked.LIMIT", 20)
    at = bus.namespace.locate("c0")
    appends = []
    for n in range(100):
        key = next(f"k{n}-{m}" for m in range(1000) if bus.namespace.locate(f"k{n}-{m}").partition == at.partition)
        appends.append(record(bus, key, "parked", since=1))
        appends.append(Append(bus.namespace.event(bus.namespace.locate(key), "CartAbandoned"), b"{}"))
    await bus.transport.commit(at.stream, appends)
    keys = ParkedKeys(bus.transport, at.stream, bus.namespace.name, [at.partition])
    found = await keys.look(200)
    assert keys.truncated and len(found) == 20
    assert [one.token.split("-")[0] for one in found] == [f"k{n}" for n in range(80, 100)]
    whole = ParkedKeys(bus.transport, at.stream, bus.namespace.name, [at.partition])
    monkeypatch.setattr("sojourn.bus.lag.parked.LIMIT", 100)
    assert len(await whole.look(200)) == 100 and not whole.truncated


async def test_records_that_are_not_understood_count_as_parked(bus: Bus) -> None:
    await begin(bus, Scripted())
    at = bus.namespace.locate("c0")
    await bus.transport.commit(at.stream, [Append(bus.namespace.record(at, "win", "parked"), b"\xff")])
    (lag,) = (await Meter(bus).measure()).groups
    assert lag.figures.parked == 1 and lag.figures.oldest is not None


async def drain(bus: Bus, group: str) -> None:
    """Handles all there is of a group, without a worker."""
    record = await bus.registry.group(group)
    assert record is not None
    await ensure_consumers(bus.transport, bus.namespace, record)
    for p in range(bus.namespace.partitions):
        await take(bus, group, p, 10_000)


async def take(bus: Bus, group: str, partition: int, at_most: int) -> int:
    """Acks up to that many deliveries of one partition, and returns how many."""
    stream, name = bus.namespace.stream(partition), f"{group}-{partition}"
    taken: list[Delivery] = []
    lag = await bus.transport.consumer_lag(stream, name)
    assert lag is not None
    wanted = min(at_most, lag.pending)
    flow = bus.transport.consume(stream, name, taken.append, lambda reason: None)
    await flow.restart()
    await until(lambda: len(taken) >= wanted)
    for delivery in taken[:wanted]:
        flow.ack(delivery.token)
    await flow.close()

    async def acked() -> bool:
        now = await bus.transport.consumer_lag(stream, name)
        return now is not None and now.in_flight == len(taken) - wanted

    await until(acked)
    return wanted


async def event_of(bus: Bus, key: str) -> tuple[int, int]:
    at = bus.namespace.locate(key)
    stored = await bus.transport.last(at.stream, bus.namespace.event(at, "CartAbandoned"))
    assert stored is not None
    return stored.sequence, stored.timestamp


# Rates


async def test_rates_come_from_two_looks(bus: Bus) -> None:
    await begin(bus, Scripted())
    record = await bus.registry.group("win")
    assert record is not None
    await ensure_consumers(bus.transport, bus.namespace, record)
    meter = Meter(bus)
    first = (await meter.measure()).groups[0].figures
    assert (first.arriving, first.leaving, first.trend) == (None, None, "unknown")
    quiet = (await meter.measure()).groups[0].figures
    assert (quiet.arriving, quiet.leaving, quiet.trend) == (0, 0, "idle")
    await publish(bus, 40, range(60))
    growing = (await meter.measure()).groups[0].figures
    assert growing.arriving and growing.leaving == pytest.approx(0, abs=growing.arriving / 2)
    assert (growing.pending, growing.trend, growing.drain) == (60, "growing", None)
    standing = (await meter.measure()).groups[0].figures
    assert (standing.trend, standing.drain) == ("standing", None)
    done = 0
    for p in range(bus.namespace.partitions):
        done += await take(bus, "win", p, 4)
    assert done > 10
    draining = (await meter.measure()).groups[0].figures
    assert draining.arriving == 0 and draining.leaving and draining.trend == "draining"
    assert draining.drain == pytest.approx((60 - done) / draining.leaving)


async def test_the_rate_in_counts_only_what_the_group_sees(bus: Bus) -> None:
    await begin(bus, Scripted(writer="plain"))
    await begin(bus, Scripted(writer="nosy"), actions=True)
    meter = Meter(bus)
    await meter.measure()
    await asyncio.sleep(0.05)
    at = bus.namespace.locate("c1")
    action = Append(bus.namespace.action(at, "somebody", "DiscountOffered"), b"{}")
    await bus.transport.commit(at.stream, [action] * 30 + [record(bus, "c1", "out", cause=1)] * 30)
    await publish(bus, 1, range(10))
    lag = by_name(await meter.measure())
    plain, nosy = lag["plain"].figures.arriving, lag["nosy"].figures.arriving
    assert plain and nosy
    counted = (await one(bus, "plain")).figures.pending, (await one(bus, "nosy")).figures.pending
    assert counted == (10, 40)


FIGURES = st.builds(
    Figures,
    st.integers(0, 10**9),
    st.integers(0, 10**4),
    st.integers(0, 100),
    st.none() | st.floats(0, 1e9),
    st.none() | st.floats(0, 1e6),
    st.none() | st.floats(0, 1e6),
)


@given(FIGURES)
def test_it_drains_exactly_where_more_leaves_than_comes(figures: Figures) -> None:
    assert (figures.drain is not None) == (figures.trend == "draining")
    if figures.drain is not None:
        assert figures.drain > 0 and figures.waiting > 0
    if figures.trend == "idle":
        assert figures.waiting == 0


@given(st.lists(FIGURES, min_size=1, max_size=5))
def test_a_total_is_the_sum_and_the_highest_age(parts: list[Figures]) -> None:
    whole = total(parts)
    assert whole.waiting == sum(part.waiting for part in parts)
    assert whole.oldest is None or all(part.oldest is None or part.oldest <= whole.oldest for part in parts)
    assert (whole.arriving is None) == any(part.arriving is None for part in parts)


# What does not answer


class Silent(MemoryTransport):
    """The twin, of which some streams do not answer."""

    def __init__(self) -> None:
        super().__init__(VirtualTimers())
        self.silent: dict[str, type[TransientError] | None] = {}

    async def consumer_lag(self, stream: str, name: str) -> ConsumerLag | None:
        await self._answer(stream)
        return await super().consumer_lag(stream, name)

    async def stream_state(self, name: str) -> StreamState | None:
        await self._answer(name)
        return await super().stream_state(name)

    async def _answer(self, stream: str) -> None:
        if stream in self.silent:
            error = self.silent[stream]
            if error is None:
                await asyncio.Event().wait()
            else:
                raise error("no leader today")


@pytest.mark.parametrize("how", [None, UnavailableError, TimedOutError])
async def test_a_shard_that_does_not_answer_is_left_out_and_named(how: type[TransientError] | None) -> None:
    transport = Silent()
    async with open_bus(transport, WIDE, clock=WallClock()) as bus:
        await begin(bus, Scripted(start="beginning"))
        await publish(bus, 40, range(80))
        meter = Meter(bus, patience=0.1)
        whole = (await meter.measure()).groups[0]
        transport.silent["TEST_1"] = how
        lag = await meter.measure()
        (group,) = lag.groups
        assert list(lag.failures) == ["TEST_1"]
        assert group.unmeasured == (1, 3, 5, 7)
        assert [p.partition for p in group.partitions] == [0, 2, 4, 6]
        assert group.figures.pending == sum(p.figures.pending for p in whole.partitions if p.partition % 2 == 0) > 0
        transport.silent["TEST_0"] = how
        with pytest.raises(TransientError, match="nothing could be measured"):
            await meter.measure()
        transport.silent.clear()
        assert (await meter.measure()).groups[0].figures.pending == 80


async def test_a_server_that_is_gone_is_unavailable(private_server: Any) -> None:
    server: NatsServer = private_server()
    async with nats_bus(server) as bus:
        await begin(bus, Scripted())
        meter = Meter(bus)
        await meter.measure()
        server.kill9()
        with pytest.raises(TransientError):
            await meter.measure()
        await asyncio.to_thread(server.restart)

        async def back() -> bool:
            with contextlib.suppress(TransientError):
                return bool((await meter.measure()).groups)
            return False

        await until(back)


async def test_events_that_nobody_handles_count_until_they_were_delivered(bus: Bus) -> None:
    await begin(bus, Scripted(start="beginning"))
    async with bus.publisher() as publisher:
        for n in range(12):
            await publisher.publish(OrderPlaced(customer_id=f"c{n}", n=n))
    assert (await one(bus, "win")).figures.pending == 12
    async with Worker(bus, [Scripted(start="beginning")]) as worker:
        await worker.caught_up()

        async def passed() -> bool:
            return (await one(bus, "win")).figures[:2] == (0, 0)

        await until(passed)
