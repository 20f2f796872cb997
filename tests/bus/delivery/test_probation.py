"""What kills its worker, over and over, is found and given up; whoever is beside it is handled."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections import Counter

import pytest

from sojourn.bus.client import Bus
from sojourn.bus.delivery import ownership
from sojourn.bus.delivery.probation import ATTEMPTS, CRASHES, TOGETHER, Probation
from sojourn.bus.delivery.processes import is_alive
from sojourn.bus.delivery.worker import Worker
from sojourn.bus.memory import MemoryTransport
from sojourn.bus.processor import NOTHING, Output, Turn
from sojourn.bus.subjects import Namespace
from sojourn.bus.timers import VirtualTimers
from tests.bus.delivery.processors import (
    CartAbandoned,
    Resident,
    Scripted,
    actions,
    dead,
    memory_bus,
    offer,
    turbo,
    until,
)
from tests.bus.delivery.test_ownership import vanish


def test_suspects_run_a_few_at_a_time_and_fewer_the_more_records_they_have() -> None:
    async def main() -> None:
        told: list[str] = []
        probation = Probation()

        async def comes(cause: str, tried: int) -> None:
            """It has waited its moment."""
            came = asyncio.Event()
            assert not probation.enter(cause, tried, came.set)
            await came.wait()

        for n in range(TOGETHER[0]):
            assert probation.enter(f"new {n}", 0, lambda: told.append("more"))
        await comes("once", 1)
        await comes("often", 2)
        assert not probation.enter("new", 0, lambda: told.append("many"))
        assert not probation.enter("once", 1, lambda: told.append("once"))
        assert not probation.enter("often", 2, lambda: told.append("often"))
        probation.leave()
        assert told == ["many", "once", "often"], "those with the fewest records are called first"
        for _ in range(TOGETHER[0] - TOGETHER[1]):
            probation.leave()
        assert probation.enter("once", 1, lambda: None)
        assert not probation.enter("new", 0, lambda: told.append("after"))
        for _ in range(TOGETHER[1]):
            assert not probation.enter("often", 2, lambda: told.append("after"))
            probation.leave()
        assert probation.enter("often", 2, lambda: None)
        assert not probation.enter("new", 0, lambda: told.append("at last"))
        probation.leave()
        assert told[-1] == "at last"
        assert probation.enter("new", 0, lambda: None)

    turbo(main())


def test_deaths_at_random_accuse_nobody() -> None:
    """As where a machine kills its workers every second while all they do is on probation."""
    chance = random.Random(3)
    records: Counter[int] = Counter()
    done: set[int] = set()

    async def handle(suspect: int, probation: Probation) -> None:
        while True:
            again = asyncio.Event()
            if probation.enter(suspect, records[suspect], again.set):
                break
            await again.wait()
        records[suspect] += 1
        await asyncio.sleep(0.03)
        done.add(suspect)
        probation.leave()

    async def main() -> None:
        came = 0
        for death in range(50):
            came += 100
            probation = Probation(random.Random(death))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(chance.uniform(0.1, 2)):
                    suspects = sorted(set(range(came)) - done)
                    await asyncio.gather(*(handle(suspect, probation) for suspect in suspects))
        assert len(done) > 4_500
        assert max(records.values()) < ATTEMPTS

    turbo(main())


def test_an_event_that_kills_its_worker_is_dead_lettered_unexecuted_and_its_neighbours_are_not() -> None:
    runs: Counter[int] = Counter()
    killed = asyncio.Event()

    async def handle(resident: Resident, turn: Turn) -> Output:
        event = turn.recorded.envelope.event
        assert isinstance(event, CartAbandoned)
        runs[event.n] += 1
        if event.n == 7:
            killed.set()
            await asyncio.Event().wait()
        await asyncio.sleep(0.05)
        return offer(resident, turn)

    async def main() -> None:
        async with memory_bus(MemoryTransport(VirtualTimers())) as bus:
            async with Worker(bus, [Scripted(handle)]):
                pass  # its groups begin here
            for n in range(40):
                await bus.publish(CartAbandoned(customer_id=f"c{n}", n=n))
            deaths = 0
            while True:
                worker = Worker(bus, [Scripted(handle)])
                await worker.__aenter__()
                if not await dies(worker, bus):
                    break
                deaths += 1
                await bus.publish(CartAbandoned(customer_id=f"d{deaths}", n=100 + deaths))
            await worker.__aexit__(None, None, None)
            assert runs[7] == deaths == CRASHES + ATTEMPTS == 6
            [letter] = await dead(bus)
            assert letter["attempts"] == 6 and "not run again" in letter["reason"]
            done = [d["data"]["n"] for d in await actions(bus)]
            assert sorted(done) == sorted({*range(40), *range(101, 107)} - {7})

    async def dies(worker: Worker, bus: Bus) -> bool:
        """Whether its handler killed it, before all was done."""
        killed.clear()

        async def all_done() -> bool:
            return killed.is_set() or (bool(await dead(bus)) and worker.groups[0].idle)

        await until(all_done)
        if not killed.is_set():
            return False
        await asyncio.sleep(0)
        assert worker._ownership is not None
        await vanish(worker)
        bucket = await bus.transport.bucket("TEST_leases")
        await bucket.delete(f"member.{worker._ownership.session.token}")
        await worker.__aexit__(None, None, None)
        return True

    turbo(main())


def test_one_crash_costs_nobody_a_record() -> None:
    async def main() -> None:
        async with memory_bus(MemoryTransport(VirtualTimers())) as bus:
            gate = asyncio.Event()

            async def handle(resident: Resident, turn: Turn) -> Output:
                await gate.wait()
                return offer(resident, turn)

            worker = Worker(bus, [Scripted(handle)])
            await worker.__aenter__()
            for n in range(20):
                await bus.publish(CartAbandoned(customer_id=f"c{n}", n=n))
            await until(lambda: len(worker.runners.calls) == 20)
            assert worker._ownership is not None
            await vanish(worker)
            await (await bus.transport.bucket("TEST_leases")).delete(f"member.{worker._ownership.session.token}")
            await worker.__aexit__(None, None, None)
            gate.set()
            async with Worker(bus, [Scripted(handle)]) as second:
                await until(lambda: second.groups[0].counters.closed == 20)
            for stream in bus.namespace.streams:
                assert await bus.transport.read(stream, "test.lane.*.*.act.win.attempt") == []
            assert len(await actions(bus)) == 20

    turbo(main())


def test_a_process_that_was_only_frozen_is_no_death(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ownership, "is_alive", is_alive)

    async def main() -> None:
        async with memory_bus(MemoryTransport(VirtualTimers())) as bus:
            gate = asyncio.Event()

            async def handle(resident: Resident, turn: Turn) -> Output:
                await gate.wait()
                return offer(resident, turn)

            worker = Worker(bus, [Scripted(handle)])
            await worker.__aenter__()
            await bus.publish(CartAbandoned(customer_id="c1", n=1))
            await until(lambda: bool(worker.runners.calls))
            assert worker._ownership is not None
            await vanish(worker)
            bucket = await bus.transport.bucket("TEST_leases")
            await bucket.delete(f"member.{worker._ownership.session.token}")
            async with Worker(bus, [Scripted(handle)]) as second:
                await until(lambda: bool(second.runners.calls))
                claims = [json.loads(entry.value or b"") for entry in await bucket.entries("owner.")]
                assert [claim["crashes"] for claim in claims] == [0, 0]
                gate.set()
            await worker.__aexit__(None, None, None)

    turbo(main())


def test_what_was_handled_on_probation_is_not_tried_again_though_it_put_out_nothing() -> None:
    """It comes again with whatever is open before it."""
    gate = asyncio.Event()
    runs: Counter[int] = Counter()

    async def handle(resident: Resident, turn: Turn) -> Output:
        event = turn.recorded.envelope.event
        assert isinstance(event, CartAbandoned)
        runs[event.n] += 1
        if event.n == 0:
            await gate.wait()
        return NOTHING

    async def main() -> None:
        async with memory_bus(MemoryTransport(VirtualTimers()), Namespace("test", 1, 1)) as bus:
            bucket = await bus.transport.bucket("TEST_leases")
            async with Worker(bus, [Scripted(handle)]):
                pass  # its group begins here
            for n in range(10):
                await bus.publish(CartAbandoned(customer_id=f"c{n}", n=n))
            for death in range(1, 5):
                worker = Worker(bus, [Scripted(handle)])
                await worker.__aenter__()
                # Once there are suspects, whoever was handled to the end is done with.
                await until(lambda death=death: runs[0] == death)  # type: ignore[misc]  # a default binds it
                await until(lambda: len(worker.groups[0].partitions[0]._open) == 1)  # noqa: B023 - awaited at once
                assert worker._ownership is not None
                await vanish(worker)
                await bucket.delete(f"member.{worker._ownership.session.token}")
                await worker.__aexit__(None, None, None)
            assert [runs[n] for n in range(10)] == [4, *[3] * 9]
            gate.set()
            async with Worker(bus, [Scripted(handle)]) as worker:
                await until(lambda: worker.groups[0].idle)
            assert await dead(bus) == []

    turbo(main())
