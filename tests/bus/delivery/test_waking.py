"""What wakes a parked customer finds whoever has to know, whatever that one remembers."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from sojourn.bus.client import Bus
from sojourn.bus.delivery.waking import CROWD
from sojourn.bus.delivery.worker import Worker
from sojourn.bus.errors import PermanentError, TransientError
from sojourn.bus.lane import Lane, Writer, parked_change
from sojourn.bus.memory import MemoryTransport
from sojourn.bus.ports import Append
from sojourn.bus.processor import Output, Retry, Turn
from sojourn.bus.timers import VirtualTimers
from sojourn.bus.verdicts import verdict_payload
from tests.bus.delivery.processors import (
    CartAbandoned,
    Resident,
    Scripted,
    actions,
    dead,
    log_of,
    memory_bus,
    offer,
    turbo,
    until,
)


def sparing(resident: Resident, turn: Turn) -> Output:
    """An offer for every event but the first two."""
    event = turn.recorded.envelope.event
    assert isinstance(event, CartAbandoned)
    return offer(resident, turn) if event.n > 1 else Output()


async def park(bus: Bus, key: str, since: int, *, wake: bool) -> int:
    """As whoever ran the customer before may still do, late: its record is the first of the lane."""
    at = bus.namespace.locate(key)
    due = bus.clock.now() + timedelta(seconds=1) if wake else None
    facts = {"reason": "the endpoint is down", "error": "TransientError", "time": "2026-01-01T00:00:00Z"}
    change = parked_change(Writer(bus.namespace, "win"), at, Lane(), since, facts, wake=due, attempts=3)
    return (await bus.committer.store(at.stream, change.appends))[0]


async def fire(bus: Bus, timers: VirtualTimers) -> None:
    due = timers.next_due()
    assert due is not None
    for timer in timers.pop_due(due):
        await bus.committer.store(timer.stream, [Append(timer.target, timer.payload)])


def test_a_wake_up_reaches_a_worker_that_never_heard_of_the_parking() -> None:
    """The record of an owner that froze may come after its successor has opened the customer."""

    async def main() -> None:
        timers = VirtualTimers()
        async with memory_bus(MemoryTransport(timers)) as bus:
            async with Worker(bus, [Scripted(sparing)]) as worker:
                first = await bus.publish(CartAbandoned(customer_id="c0", n=0))
                await worker.caught_up()
                await park(bus, "c0", first.sequence, wake=True)
                await bus.publish(CartAbandoned(customer_id="c0", n=1))
                await worker.caught_up()
                await fire(bus, timers)
                await worker.caught_up()
                assert len(await log_of(bus.transport, bus.namespace, "lane.*.*.act.win.unparked")) == 1
            async with Worker(bus, [Scripted(sparing)]) as worker:
                await bus.publish(CartAbandoned(customer_id="c0", n=2))
                await worker.caught_up()
                assert [d["data"]["n"] for d in await actions(bus)] == [2]
                assert [d["data"]["seen"] for d in await actions(bus)] == [3]

    turbo(main())


def test_so_does_a_decision() -> None:
    async def main() -> None:
        async with memory_bus() as bus, Worker(bus, [Scripted(sparing, on_poison="park")]) as worker:
            first = await bus.publish(CartAbandoned(customer_id="c0", n=0))
            await worker.caught_up()
            record = await park(bus, "c0", first.sequence, wake=False)
            subject = bus.namespace.redrive(bus.namespace.locate("c0"), "win", record)
            await bus.committer.store(
                bus.namespace.locate("c0").stream, [Append(subject, verdict_payload("drop", by="tests"))]
            )
            await worker.caught_up()
            assert [letter["cause"] for letter in await dead(bus)] == [first.sequence]
            assert len(await log_of(bus.transport, bus.namespace, "lane.*.*.act.win.unparked")) == 1

    turbo(main())


def test_giving_up_a_cause_that_has_left_the_log_gives_up_no_other() -> None:
    async def main() -> None:
        async with memory_bus() as bus:
            async with Worker(bus, [Scripted(sparing, on_poison="park")]):
                pass  # its group begins here
            first = await bus.publish(CartAbandoned(customer_id="c0", n=2))
            await bus.publish(CartAbandoned(customer_id="c0", n=3))
            record = await park(bus, "c0", first.sequence, wake=False)
            at = bus.namespace.locate("c0")
            await bus.transport.delete_messages(at.stream, [first.sequence])
            async with Worker(bus, [Scripted(sparing, on_poison="park")]) as worker:
                await bus.committer.store(
                    at.stream, [Append(bus.namespace.redrive(at, "win", record), verdict_payload("drop", by="tests"))]
                )
                await worker.caught_up()
                assert await dead(bus) == []
                assert [d["data"]["n"] for d in await actions(bus)] == [3]

    turbo(main())


def test_what_is_given_up_is_known_to_what_comes_after_it() -> None:
    def handle(resident: Resident, turn: Turn) -> Output:
        event = turn.recorded.envelope.event
        assert isinstance(event, CartAbandoned)
        if event.n == 1:
            raise PermanentError("not this one")
        return offer(resident, turn)

    async def main() -> None:
        async with memory_bus() as bus, Worker(bus, [Scripted(handle, on_poison="park")]) as worker:
            for n in range(4):
                await bus.publish(CartAbandoned(customer_id="c0", n=n))
            await worker.caught_up()
            [record] = await log_of(bus.transport, bus.namespace, "lane.*.*.act.win.parked")
            at = bus.namespace.locate("c0")
            subject = bus.namespace.redrive(at, "win", record.sequence)
            await bus.committer.store(at.stream, [Append(subject, verdict_payload("drop", by="tests"))])
            await worker.caught_up()
            assert [(d["data"]["n"], d["data"]["seen"]) for d in await actions(bus)] == [(0, 1), (2, 3), (3, 4)]
            [letter] = await dead(bus)
            assert letter["reason"] == "given up by an operator"

    turbo(main())


def test_what_came_after_the_suspects_of_a_crash_is_read_by_a_customer_that_was_woken_among_them() -> None:
    """It must not wait until the wake-up is closed, which waits for it."""
    ill = True
    gate = asyncio.Event()

    async def handle(resident: Resident, turn: Turn) -> Output:
        if ill:
            raise TransientError("not today")
        await gate.wait()
        return offer(resident, turn)

    async def main() -> None:
        nonlocal ill
        timers = VirtualTimers()
        patient = Retry(1_000, timedelta(minutes=1), timedelta(minutes=1))
        async with memory_bus(MemoryTransport(timers)) as bus, Worker(bus, [Scripted(handle, retry=patient)]) as worker:
            await bus.publish(CartAbandoned(customer_id="c0", n=0))
            await worker.caught_up()
            ill = False
            await fire(bus, timers)
            await until(lambda: len(worker.runners.calls) == 1)
            at = bus.namespace.locate("c0")
            partition = worker.groups[0].partitions[at.partition]
            # As its next owner runs it, after two deaths.
            partition.crashes, partition.suspect = 2, partition._delivered
            for n in range(1, 4):
                await bus.publish(CartAbandoned(customer_id="c0", n=n))
            gate.set()
            await until(lambda: worker.groups[0].idle)
            await worker.caught_up()
            assert [d["data"]["n"] for d in await actions(bus)] == [0, 1, 2, 3]

    turbo(main())


def test_a_wake_up_that_waited_while_the_customer_caught_up_takes_nothing_from_its_state() -> None:
    """What came after it was read from the log, and is not delivered: it is in the state all the same."""
    passes = asyncio.Semaphore(0)

    async def handle(resident: Resident, turn: Turn) -> Output:
        await passes.acquire()
        return offer(resident, turn)

    async def main() -> None:
        timers = VirtualTimers()
        async with memory_bus(MemoryTransport(timers)) as bus, Worker(bus, [Scripted(handle)]) as worker:
            for n in range(CROWD + 10):
                await bus.publish(CartAbandoned(customer_id="c0", n=n))
            passes.release()
            await until(lambda: any(partition.catching for partition in worker.groups[0].partitions.values()))
            await fire(bus, timers)
            for n in range(CROWD + 10, CROWD + 20):
                await bus.publish(CartAbandoned(customer_id="c0", n=n))
            for _ in range(CROWD + 21):
                passes.release()
            await worker.caught_up()
            await bus.publish(CartAbandoned(customer_id="c0", n=CROWD + 20))
            await worker.caught_up()
            places = list(range(CROWD + 21))
            assert [(d["data"]["n"], d["data"]["seen"] - 1) for d in await actions(bus)] == [(n, n) for n in places]
            assert len(await log_of(bus.transport, bus.namespace, "lane.*.*.act.win.unparked")) == 1

    turbo(main())
