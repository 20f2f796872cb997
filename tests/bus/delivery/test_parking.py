"""Parked customers: whoever waits for long, or has too much waiting, is left to the log and loses nothing."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest

from sojourn.bus.client import Bus
from sojourn.bus.delivery.worker import Worker
from sojourn.bus.errors import PermanentError, TransientError
from sojourn.bus.memory import MemoryTransport
from sojourn.bus.ports import Append, Expectation
from sojourn.bus.processor import Output, Retry, Turn
from sojourn.bus.timers import VirtualTimers
from sojourn.bus.verdicts import verdict_payload
from tests.bus.delivery.processors import (
    START,
    CartAbandoned,
    DiscountOffered,
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

PATIENT = Retry(1_000, timedelta(seconds=1), timedelta(hours=6))


class World:
    """A bus on virtual time whose timers fire as it advances."""

    def __init__(self) -> None:
        self.timers = VirtualTimers()
        self.transport = MemoryTransport(self.timers)

    async def advance(self, bus: Bus, span: timedelta, worker: Worker) -> None:
        end = bus.clock.now() + span
        while (at := self.timers.next_due()) is not None and at <= end:
            bus.clock.advance_to(at)  # type: ignore[attr-defined]
            for timer in self.timers.pop_due(at):
                await bus.committer.store(timer.stream, [Append(timer.target, timer.payload)])
            await worker.caught_up()
            await until(lambda: all(group.idle for group in worker.groups))
        bus.clock.advance_to(end)  # type: ignore[attr-defined]


async def records(bus: Bus, kind: str, writer: str = "win") -> list[dict[str, Any]]:
    return [
        {**json.loads(stored.payload), "sequence": stored.sequence, "subject": stored.subject}
        for stream in bus.namespace.streams
        for stored in await bus.transport.read(stream, f"test.lane.*.*.act.{writer}.{kind}")
    ]


async def order(bus: Bus, key: str) -> list[int]:
    return [d["data"]["n"] for d in await actions(bus) if d["subject"] == key]


def test_a_customer_that_fails_for_a_week_is_handled_in_order_once_healed_and_held_up_nobody() -> None:
    ill = True
    calls: Counter[str] = Counter()

    def handle(resident: Resident, turn: Turn) -> Output:
        calls[resident.key] += 1
        if ill and resident.key == "c0":
            raise TransientError("not today")
        return offer(resident, turn)

    async def main() -> None:
        nonlocal ill
        world = World()
        async with memory_bus(world.transport) as bus, Worker(bus, [Scripted(handle, retry=PATIENT)]) as worker:
            floors = []
            for day in range(7):
                for n in range(10):
                    await bus.publish(CartAbandoned(customer_id=f"c{n % 5}", n=day * 10 + n))
                await worker.caught_up()
                await world.advance(bus, timedelta(days=1), worker)
                state = worker.groups[0]
                floors.append(sum(partition.floor for partition in state.partitions.values()))
                for number, partition in state.partitions.items():
                    lag = await bus.transport.consumer_lag(partition.stream, partition.consumer)
                    assert lag is not None and lag.in_flight == 0 and lag.pending == 0, number
            assert floors == sorted(set(floors)), "the ack floor moved on all along"
            assert await order(bus, "c0") == []
            assert await order(bus, "c1") == [n for n in range(70) if n % 5 == 1]
            assert 20 < calls["c0"] < 60, "the waits grow"
            ill = False
            await world.advance(bus, timedelta(hours=10), worker)
            await worker.caught_up()
            assert await order(bus, "c0") == [n for n in range(70) if n % 5 == 0]
            [ended] = await records(bus, "unparked")
            assert ended["timers"] == {} and not await dead(bus)
            await bus.publish(CartAbandoned(customer_id="c0", n=70))
            await worker.caught_up()
            assert await check_effects(bus) == 71
        assert world.timers.next_due() is None

    turbo(main(), seconds=6_000)


def test_a_new_owner_need_not_know_that_a_customer_is_parked() -> None:
    ill = True

    def handle(resident: Resident, turn: Turn) -> Output:
        if ill and resident.key == "c0":
            raise TransientError("not today")
        return offer(resident, turn)

    async def main() -> None:
        nonlocal ill
        world = World()
        async with memory_bus(world.transport) as bus:
            for life in range(4):
                async with Worker(bus, [Scripted(handle, retry=PATIENT)]) as worker:
                    for n in range(4):
                        await bus.publish(CartAbandoned(customer_id=f"c{n % 2}", n=life * 4 + n))
                    await worker.caught_up()
                    await world.advance(bus, timedelta(minutes=10), worker)
            ill = False
            async with Worker(bus, [Scripted(handle, retry=PATIENT)]) as worker:
                await world.advance(bus, timedelta(hours=12), worker)
                assert await order(bus, "c0") == [0, 2, 4, 6, 8, 10, 12, 14]
                assert await check_effects(bus) == 16

    turbo(main(), seconds=6_000)


def test_attempts_go_on_counting_over_parkings_until_the_last_one() -> None:
    attempts: list[int] = []

    def handle(resident: Resident, turn: Turn) -> Output:
        attempts.append(turn.attempt)
        raise TransientError("never")

    async def main() -> None:
        world = World()
        retry = Retry(12, timedelta(seconds=4), timedelta(minutes=1))
        async with memory_bus(world.transport) as bus, Worker(bus, [Scripted(handle, retry=retry)]) as worker:
            await bus.publish(CartAbandoned(customer_id="c0", n=0))
            await bus.publish(CartAbandoned(customer_id="c0", n=1))
            await worker.caught_up()
            await world.advance(bus, timedelta(hours=2), worker)
            assert attempts == [*range(1, 13), *range(1, 13)]
            assert [letter["attempts"] for letter in await dead(bus)] == [12, 12]
            assert len(await records(bus, "unparked")) >= 1

    turbo(main(), seconds=6_000)


@pytest.mark.parametrize("decision", ["wake", "drop"])
def test_on_poison_park_holds_the_customer_until_somebody_decides(decision: str) -> None:
    broken = True

    def handle(resident: Resident, turn: Turn) -> Output:
        event = turn.recorded.envelope.event
        assert isinstance(event, CartAbandoned)
        if broken and event.n == 1:
            raise PermanentError("not this one")
        return offer(resident, turn)

    async def main() -> None:
        nonlocal broken
        world = World()
        processor = Scripted(handle, on_poison="park")
        async with memory_bus(world.transport) as bus, Worker(bus, [processor]) as worker:
            for n in range(6):
                await bus.publish(CartAbandoned(customer_id="c0", n=n))
            await worker.caught_up()
            await world.advance(bus, timedelta(days=30), worker)
            assert await order(bus, "c0") == [0]
            [parked] = await records(bus, "parked")
            assert parked["timers"] == {} and parked["error"] == "PermanentError"
            broken = decision == "drop"
            at = bus.namespace.locate("c0")
            subject = f"test.log.{at.partition}.c0.evt.redrive.win.{parked['sequence']}"
            payload = verdict_payload(decision)  # type: ignore[arg-type]
            await bus.committer.store(at.stream, [Append(subject, payload, Expectation(subject, 0))])
            await until(lambda: worker.groups[0].idle)
            await worker.caught_up()
            expected = [0, 1, 2, 3, 4, 5] if decision == "wake" else [0, 2, 3, 4, 5]

            async def done() -> bool:
                return await order(bus, "c0") == expected

            await until(done)
            assert [letter["reason"] for letter in await dead(bus)] == (
                [] if decision == "wake" else ["given up by an operator"]
            )
            await bus.publish(CartAbandoned(customer_id="c0", n=6))
            await worker.caught_up()
            assert await order(bus, "c0") == [*expected, 6]

    turbo(main())


def test_a_busy_customer_is_left_to_the_log_and_others_keep_flowing() -> None:
    gate = asyncio.Event()
    most = 0

    async def handle(resident: Resident, turn: Turn) -> Output:
        if resident.key == "c0":
            await gate.wait()
        return offer(resident, turn)

    async def main() -> None:
        nonlocal most
        async with memory_bus() as bus, Worker(bus, [Scripted(handle)]) as worker:
            at = bus.namespace.locate("c0")
            others = [k for k in (f"k{n}" for n in range(40)) if bus.namespace.locate(k).partition == at.partition]
            async with bus.publisher() as publisher:
                for n in range(3):
                    await publisher.publish(CartAbandoned(customer_id="c0", n=n))
            gate.set()
            async with bus.publisher() as publisher:
                for n in range(3, 2_000):
                    await publisher.publish(CartAbandoned(customer_id="c0", n=n))
                    if n % 50 == 0:
                        await publisher.publish(CartAbandoned(customer_id=others[n % len(others)], n=n))
                    queue = worker.groups[0].partitions[at.partition]._keys.get("c0")
                    most = max(most, len(queue.queue) if queue is not None else 0)
            await worker.caught_up()
            assert await order(bus, "c0") == list(range(2_000))
            assert await check_effects(bus) == 2_000 + len(range(50, 2_000, 50))

    turbo(main())


def test_a_crowd_that_waits_for_one_handler_is_parked_when_that_one_ends() -> None:
    gate = asyncio.Event()

    async def handle(resident: Resident, turn: Turn) -> Output:
        if resident.key == "c0" and not gate.is_set():
            await gate.wait()
        return offer(resident, turn)

    async def main() -> None:
        async with memory_bus() as bus, Worker(bus, [Scripted(handle)]) as worker:
            at = bus.namespace.locate("c0")
            for n in range(300):
                await bus.publish(CartAbandoned(customer_id="c0", n=n))
            partition = worker.groups[0].partitions[at.partition]
            await until(lambda: len(partition._keys["c0"].queue) == 300)
            gate.set()
            await worker.caught_up()
            assert await order(bus, "c0") == list(range(300))
            parked = await records(bus, "parked")
            assert parked and parked[0]["eager"]
            assert len(await records(bus, "unparked")) == len(parked)
            assert await check_effects(bus) == 300

    turbo(main())


def test_processors_of_one_group_are_parked_each_for_itself() -> None:
    ill = True

    def handle(resident: Resident, turn: Turn) -> Output:
        if ill:
            raise TransientError("not today")
        return offer(resident, turn)

    async def main() -> None:
        nonlocal ill
        world = World()
        both = [Scripted(handle, group="light", retry=PATIENT), Scripted(writer="second", group="light")]
        async with memory_bus(world.transport) as bus, Worker(bus, both) as worker:
            for n in range(5):
                await bus.publish(CartAbandoned(customer_id="c0", n=n))
            await worker.caught_up()
            await world.advance(bus, timedelta(hours=1), worker)
            assert await order(bus, "c0") == []
            assert len(await actions(bus, "second")) == 5
            ill = False
            await world.advance(bus, timedelta(hours=12), worker)
            assert await order(bus, "c0") == [0, 1, 2, 3, 4]
            assert len(await actions(bus, "second")) == 5

    turbo(main())


def test_actions_fold_once_where_a_customer_caught_up() -> None:
    """What is read from the log while it waits in memory as well is folded once."""
    ill = True

    def handle(resident: Resident, turn: Turn) -> Output:
        if ill:
            raise TransientError("not today")
        return Output([DiscountOffered(customer_id=resident.key, n=_n(turn), seen=resident.seen(CartAbandoned))])

    async def main() -> None:
        nonlocal ill
        world = World()
        async with memory_bus(world.transport) as bus, Worker(bus, [Scripted(handle, retry=PATIENT)]) as worker:
            for n in range(30):
                await bus.publish(CartAbandoned(customer_id="c0", n=n))
            await worker.caught_up()
            await world.advance(bus, timedelta(minutes=1), worker)
            ill = False
            publishing = asyncio.create_task(_more(bus))
            await world.advance(bus, timedelta(hours=12), worker)
            await publishing
            await worker.caught_up()
            seen = [d["data"]["seen"] for d in await actions(bus)]
            assert seen == list(range(1, 61))

    async def _more(bus: Bus) -> None:
        for n in range(30, 60):
            await bus.publish(CartAbandoned(customer_id="c0", n=n), time=START)
            await asyncio.sleep(0)

    turbo(main())


def _n(turn: Turn) -> int:
    event = turn.recorded.envelope.event
    assert isinstance(event, CartAbandoned)
    return event.n
