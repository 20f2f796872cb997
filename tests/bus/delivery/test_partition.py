"""Contiguity: whatever a network, a zombie or a crash does, each event has one effect, in order, with its state."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sojourn.bus.client import Bus, open_bus
from sojourn.bus.clock import VirtualClock
from sojourn.bus.delivery.session import Session
from sojourn.bus.delivery.worker import Worker
from sojourn.bus.errors import PermanentError, SojournError, TransientError
from sojourn.bus.memory import MemoryTransport
from sojourn.bus.ports import Append
from sojourn.bus.processor import NOTHING, Output, Turn
from sojourn.bus.timers import VirtualTimers
from tests.bus.delivery.processors import (
    NARROW,
    START,
    CartAbandoned,
    DiscountOffered,
    Faults,
    FaultyTransport,
    OfferPrinted,
    OrderPlaced,
    Resident,
    Scripted,
    actions,
    check_effects,
    dead,
    memory_bus,
    offer,
    turbo,
    until,
)

EVERYTHING = {
    "lost": 0.1,
    "refused": 0.1,
    "conflict": 0.05,
    "late": 0.05,
    "slow": 1.0,
    "gap": 0.03,
    "again": 0.05,
    "broken": 0.03,
    "stuck": 0.3,
    "unread": 0.1,
    "unacked": 0.1,
}
"""Chances of the faults of `FaultyTransport`."""


def quiet(n: int) -> bool:
    return n % 10 == 3


def dies(n: int) -> bool:
    return n % 10 == 7


class Moody:
    """A handler that waits a little, sometimes fails in passing, is silent on some events and fails on others."""

    def __init__(self, faults: Faults) -> None:
        self.random = faults.random

    async def __call__(self, resident: Resident, turn: Turn) -> Output:
        event = turn.recorded.envelope.event
        assert isinstance(event, CartAbandoned)
        for _ in range(self.random.randrange(3)):
            await asyncio.sleep(self.random.random() * 0.01)
        if self.random.random() < 0.1 and turn.attempt < 3:
            raise TransientError("a mood")
        if quiet(event.n):
            return NOTHING
        if dies(event.n):
            raise PermanentError("not this one")
        output = offer(resident, turn)
        if event.n % 10 == 5:
            output.events.append(OfferPrinted(customer_id=resident.key, n=event.n))
        return output


async def publish(bus: Bus, keys: int, count: int) -> None:
    async with bus.publisher() as publisher:
        for n in range(count):
            await publisher.publish(CartAbandoned(customer_id=f"c{n % keys}", n=n))


async def check_printed(bus: Bus) -> None:
    printed = [d["causeseq"] for d in await actions(bus) if d["type"] == "OfferPrinted"]
    assert len(printed) == len(set(printed)), "an output of two events was torn or doubled"


async def fire(bus: Bus, transport: FaultyTransport) -> None:
    """Wakes customers that are parked, again and again."""
    assert isinstance(transport._timers, VirtualTimers)
    while True:
        await asyncio.sleep(1)
        for timer in transport._timers.pop_due(START + timedelta(days=1)):
            stored = False
            while not stored:  # the server that holds a schedule does not lose it
                with contextlib.suppress(SojournError):
                    await bus.committer.store(timer.stream, [Append(timer.target, timer.payload)])
                    stored = True


async def everything_closed(bus: Bus, count: int) -> bool:
    closing = {d["causeseq"] for d in await actions(bus)} | {d["cause"] for d in await dead(bus)}
    return len(closing) >= sum(1 for n in range(count) if not quiet(n))


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    seed=st.integers(0, 2**32),
    keys=st.sampled_from([1, 3, 40]),
    count=st.integers(1, 90),
    crashes=st.lists(st.floats(0.001, 0.5), max_size=4),
    chances=st.fixed_dictionaries({}, optional={name: st.just(chance) for name, chance in EVERYTHING.items()}),
)
def test_exactly_one_effect_each_whatever_goes_wrong(
    seed: int, keys: int, count: int, crashes: list[float], chances: dict[str, float]
) -> None:
    faults = Faults(seed, **chances)
    processor = Scripted(Moody(faults), start="beginning", publishes=(DiscountOffered, OfferPrinted))

    async def life(bus: Bus, seconds: float) -> None:
        async with asyncio.timeout(seconds), Worker(bus, [processor], ingress=False) as worker:
            await worker.wait()

    async def main() -> None:
        faults.on = False
        transport = FaultyTransport(faults)
        async with memory_bus(transport) as bus:
            await publish(bus, keys, count)
            for seconds in crashes:
                faults.on = True
                with pytest.raises(TimeoutError):
                    # Cancelled, without drain. Entering is part of it, and may be hit.
                    await life(bus, seconds)
                faults.on = False
            async with Worker(bus, [processor], ingress=False) as worker:
                faults.on = True
                firing = asyncio.create_task(fire(bus, transport))
                await asyncio.sleep(5)
                transport.heal()
                worker._behind = dict.fromkeys(range(2), (0, 0))
                await until(lambda: everything_closed(bus, count), 300)
                firing.cancel()
                await worker.caught_up()
            due = sum(1 for n in range(count) if not quiet(n))
            assert await check_effects(bus, quiet=quiet, dies=dies) == due
            await check_printed(bus)

    turbo(main(), seconds=3_000)


class Gated(MemoryTransport):
    """Holds batches back while its gate is closed."""

    gate: asyncio.Event | None = None

    async def commit(self, stream: str, appends: Sequence[Append]) -> list[int]:
        if self.gate is not None:
            await self.gate.wait()
        return await super().commit(stream, appends)


def test_a_discarded_output_that_still_waits_does_not_go_out_beside_its_successor() -> None:
    def handle(resident: Resident, turn: Turn) -> Output:
        output = offer(resident, turn)
        output.events.append(OfferPrinted(customer_id=resident.key, n=0))
        return output

    async def main() -> None:
        transport = Gated(VirtualTimers())
        async with memory_bus(transport) as bus, Worker(bus, [Scripted(handle)]) as worker:
            published = await bus.publish(CartAbandoned(customer_id="c1", n=0))
            await worker.caught_up()
            [message] = await transport.read(published.stream, "test.log.*.c1.evt.>")
            transport.gate = asyncio.Event()
            # Something else is on its way, so outputs wait in the committer.
            two = [Append("test.log.1.x.evt.Seen", b""), Append("test.log.1.x.evt.Heard", b"")]
            bus.committer.submit("TEST_0", two, lambda result: None)
            await asyncio.sleep(0)
            transport.send(
                "TEST_0", Append(message.subject, message.payload.replace(b'"n":0', b'"n":1')), lambda _: None
            )
            await until(lambda: bus.committer.pending == 2)
            for partition in worker.groups[0].partitions.values():
                partition.restart("test")
            await until(lambda: bus.committer.pending == 3)
            transport.gate.set()
            await worker.caught_up()

            async def done() -> bool:
                return len(await actions(bus)) >= 4

            await until(done)
            await asyncio.sleep(5)
            assert len(await actions(bus)) == 4
            await check_printed(bus)

    turbo(main())


@pytest.mark.parametrize("seed", range(3))
def test_two_owners_at_once_still_give_one_effect_each(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    async def unseen(self: Session) -> bool:
        return True

    # Neither knows of the other, and each believes that the partitions are its own.
    monkeypatch.setattr(Session, "renew", unseen)
    monkeypatch.setattr(Session, "held", True)
    faults = Faults(seed, slow=1.0, lost=0.05, gap=0.02, unacked=0.05)

    async def main() -> None:
        faults.on = False
        transport = FaultyTransport(faults)
        async with memory_bus(transport) as one, open_bus(transport, NARROW, clock=VirtualClock(START)) as two:
            await publish(one, 20, 200)
            processor = Scripted(Moody(faults), start="beginning", publishes=(DiscountOffered, OfferPrinted))
            async with Worker(one, [processor], ingress=False) as first:
                async with Worker(two, [processor], ingress=False) as second:
                    faults.on = True
                    await asyncio.sleep(0.3)
                    assert sum(worker.groups[0].counters.restarts for worker in (first, second)) > 2
                transport.heal()
                await until(lambda: everything_closed(one, 200), 300)
            assert await check_effects(one, quiet=quiet, dies=dies) == 180
            await check_printed(one)

    turbo(main())


def test_a_discard_ends_the_handlers_that_run_so_that_no_two_work_on_one_event() -> None:
    running = highest = started = 0

    async def handle(resident: Resident, turn: Turn) -> Output:
        nonlocal running, highest, started
        started += 1
        running += 1
        highest = max(highest, running)
        try:
            await asyncio.sleep(10)
        finally:
            running -= 1
        return offer(resident, turn)

    async def main() -> None:
        async with memory_bus() as bus, Worker(bus, [Scripted(handle)]) as worker:
            await bus.publish(CartAbandoned(customer_id="c1", n=1))
            await until(lambda: running == 1)
            for partition in worker.groups[0].partitions.values():
                partition.restart("test")
            await until(lambda: started == 2)
            await worker.caught_up()
            assert highest == 1
            assert await check_effects(bus) == 1

    turbo(main())


def test_a_consumer_is_not_reset_while_the_session_has_run_out() -> None:
    async def main() -> None:
        async with memory_bus() as bus, Worker(bus, [Scripted()]) as worker:
            [group] = worker.groups
            partition = group.partitions[0]
            group.session._until = 0.0
            resets: list[int] = []
            assert partition._consumption is not None
            restart = partition._consumption.restart

            async def counted() -> None:
                resets.append(1)
                await restart()

            partition._consumption.restart = counted  # type: ignore[method-assign]
            partition.restart("test")
            await asyncio.sleep(0.3)
            assert not resets or group.session.held
            await until(lambda: group.session.held)
            await until(lambda: bool(resets))

    turbo(main())


def test_a_beat_while_partitions_open_does_no_harm() -> None:
    async def main() -> None:
        async with memory_bus() as bus, Worker(bus, [Scripted()]) as worker:
            [group] = worker.groups
            group.partitions[0]._consumption = None
            group.beat()

    turbo(main())


def test_whoever_registers_later_is_seen_by_those_who_read_its_actions() -> None:
    handled: list[int] = []

    def read(resident: Resident, turn: Turn) -> Output:
        event = turn.recorded.envelope.event
        assert isinstance(event, DiscountOffered)
        handled.append(event.n)
        return Output([OfferPrinted(customer_id=resident.key, n=event.n, seen=resident.seen(DiscountOffered))])

    async def main() -> None:
        reader = Scripted(
            read, writer="reader", handles=(DiscountOffered,), folds=(DiscountOffered,), publishes=(OfferPrinted,)
        )
        async with memory_bus() as bus, Worker(bus, [reader], ingress=False) as first:
            assert not first.groups[0].actions
            async with Worker(bus, [Scripted()], ingress=False) as second:
                # At once, while the reader's consumers may still be narrow.
                await publish(bus, 5, 100)
                await second.caught_up()
            await until(lambda: first.groups[0].actions)
            await first.caught_up()
            printed = await actions(bus, "reader")
            assert len(printed) == 100
            for key in range(5):
                mine = [d["data"]["seen"] for d in printed if d["subject"] == f"c{key}"]
                assert mine == list(range(1, 21)), "each sees all that came before"

    turbo(main())


def test_no_action_is_missed_by_a_reader_that_hears_late_of_its_writer() -> None:
    def read(resident: Resident, turn: Turn) -> Output:
        event = turn.recorded.envelope.event
        assert isinstance(event, DiscountOffered | OrderPlaced)
        return Output([OfferPrinted(customer_id=resident.key, n=event.n)])

    async def main() -> None:
        reader = Scripted(
            read, writer="reader", handles=(DiscountOffered, OrderPlaced), folds=(), publishes=(OfferPrinted,)
        )
        async with memory_bus() as bus:
            heard = asyncio.Event()
            first = Worker(bus, [reader], ingress=False)
            widen = first.widen

            async def late() -> None:
                await heard.wait()
                await widen()

            async with first:
                first.widen = late  # type: ignore[method-assign]
                async with Worker(bus, [Scripted()], ingress=False) as second:
                    await bus.publish(CartAbandoned(customer_id="c1", n=1))
                    await second.caught_up()
                    # Its position moves on, past the action.
                    await bus.publish(OrderPlaced(customer_id="c1", n=2))
                    await first.caught_up()
                    heard.set()
                    await until(lambda: first.groups[0].actions)
                    await first.caught_up()
                    assert [d["data"]["n"] for d in await actions(bus, "reader")] == [1, 2]

    turbo(main())


def test_caught_up_returns_after_a_reset_and_never_before_all_is_closed() -> None:
    open_: set[int] = set()

    async def handle(resident: Resident, turn: Turn) -> Output:
        open_.add(turn.recorded.sequence)
        await asyncio.sleep(1)
        open_.discard(turn.recorded.sequence)
        return offer(resident, turn)

    async def main() -> None:
        async with memory_bus() as bus, Worker(bus, [Scripted(handle)]) as worker:
            for n in range(10):
                await publish(bus, 3, 6)
                if n % 3 == 0:
                    await asyncio.sleep(n / 10)
                    for partition in worker.groups[0].partitions.values():
                        partition.restart("test")
                await worker.caught_up()
                assert not open_ and len(await actions(bus)) == 6 * (n + 1)
                for partition in worker.groups[0].partitions.values():
                    partition.restart("nothing is left to be delivered")
                await bus.committer.store("TEST_0", [Append("test.log.0.x.act.other.Seen", b"")])
                await worker.caught_up()

    turbo(main())


def test_an_event_stored_before_the_group_began_is_not_waited_for() -> None:
    async def main() -> None:
        async with memory_bus() as bus:
            worker = Worker(bus, [Scripted()])
            settle = worker._settle

            async def slow(group: Any) -> Any:
                await bus.publish(CartAbandoned(customer_id="c1", n=0))
                return await settle(group)

            worker._settle = slow  # type: ignore[method-assign]
            async with worker:
                await worker.caught_up()

    turbo(main())
