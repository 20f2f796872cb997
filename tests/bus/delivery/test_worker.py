"""A worker's life: entering, standing by, taking over, leaving in every state, and nothing left behind."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from sojourn.bus.client import Bus
from sojourn.bus.delivery.worker import Worker
from sojourn.bus.errors import ConfigurationError, TransientError, UnavailableError
from sojourn.bus.memory import MemoryTransport
from sojourn.bus.processor import Output, Retry, Turn
from sojourn.bus.registry import Registry
from sojourn.bus.timers import VirtualTimers
from tests.bus.delivery.processors import (
    CartAbandoned,
    DiscountOffered,
    Faults,
    FaultyTransport,
    OfferPrinted,
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

WAITING = Retry(5, timedelta(seconds=3), timedelta(seconds=3))
SLOW = Retry(5, timedelta(seconds=60), timedelta(seconds=600))


@contextlib.asynccontextmanager
async def nothing_left(bus: Bus) -> AsyncIterator[None]:
    """Holds its block to leaving neither tasks, threads, observers nor claims behind."""
    await bus.schemas.record("Unheard")  # The bus watches schemas for as long as it is open.
    await asyncio.sleep(0)
    tasks, threads, observers = asyncio.all_tasks(), threading.active_count(), list(bus.committer.observers)
    yield
    leases = await bus.transport.bucket(bus.namespace.bucket("leases"))
    assert await leases.entries("member.") == []
    assert all(json.loads(entry.value or b"")["session"] is None for entry in await leases.entries("owner."))
    assert bus.committer.observers == observers
    assert threading.active_count() == threads

    def gone() -> bool:
        return not {task for task in asyncio.all_tasks() - tasks if task.get_name() != "allowed"}

    await until(gone, 1)


class Stuck:
    """A handler that waits for ever, and may ignore that it is cancelled."""

    def __init__(self, *, ignoring: bool = False) -> None:
        self.ignoring = ignoring
        self.running = 0
        self.cancelled = 0
        self.free = asyncio.Event()

    async def __call__(self, resident: Resident, turn: Turn) -> Output:
        self.running += 1
        while not self.free.is_set():
            try:
                await self.free.wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                if not self.ignoring:
                    raise
        return offer(resident, turn)


def test_leaving_lets_running_handlers_finish_and_leaves_nothing() -> None:
    async def handle(resident: Resident, turn: Turn) -> Output:
        await asyncio.sleep(3)
        return offer(resident, turn)

    async def main() -> None:
        async with memory_bus() as bus:
            async with nothing_left(bus), Worker(bus, [Scripted(handle)]) as worker:
                for n in range(20):
                    await bus.publish(CartAbandoned(customer_id=f"c{n % 10}", n=n))
                await until(lambda: len(worker.runners.calls) == 10)
            # The first of each key was running and has ended; the second comes to the next owner.
            assert len(await actions(bus)) == 10
            async with Worker(bus, [Scripted()]) as worker:
                await until(lambda: worker.groups[0].counters.closed == 10)
            assert await check_effects(bus) == 20

    turbo(main())


@pytest.mark.parametrize("ignoring", [False, True])
def test_leaving_takes_less_than_ten_seconds_whatever_handlers_do(ignoring: bool) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        stuck = Stuck(ignoring=ignoring)
        async with memory_bus() as bus:
            async with Worker(bus, [Scripted(stuck)]):
                await bus.publish(CartAbandoned(customer_id="c1", n=1))
                await until(lambda: stuck.running == 1)
                begun = loop.time()
            assert 5 < loop.time() - begun < 10 and stuck.cancelled
            # The event goes to the next owner, while the one that ignores everything comes back too late.
            async with Worker(bus, [Scripted()]) as worker:
                await until(lambda: worker.groups[0].counters.closed == 1)
                stuck.free.set()
                await asyncio.sleep(1)
            assert await check_effects(bus) == 1

    turbo(main())


def test_leaving_does_not_wait_for_retries() -> None:
    def handle(resident: Resident, turn: Turn) -> Output:
        raise TransientError("later")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with memory_bus() as bus:
            async with nothing_left(bus), Worker(bus, [Scripted(handle, retry=WAITING)]) as worker:
                await bus.publish(CartAbandoned(customer_id="c1", n=1))
                await until(lambda: _waiting(worker))
                begun = loop.time()
            assert loop.time() - begun < 1
            assert await dead(bus) == []

    turbo(main())


def test_leaving_during_an_outage_is_quick_and_loses_nothing() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        faults = Faults(refused=1.0, unread=1.0, stuck=1.0)
        faults.on = False
        async with memory_bus(FaultyTransport(faults)) as bus:
            async with Worker(bus, [Scripted()]):
                for n in range(20):
                    await bus.publish(CartAbandoned(customer_id=f"c{n % 10}", n=n))
                faults.on = True
                begun = loop.time()
            assert loop.time() - begun < 10
            faults.on = False
            async with Worker(bus, [Scripted()]) as worker:
                await until(lambda: worker.groups[0].idle)
                await asyncio.sleep(1)
            assert await check_effects(bus) == 20
            assert await dead(bus) == []

    turbo(main())


@pytest.mark.parametrize("twice", [False, True])
def test_cancelling_who_runs_the_worker_ends_it_at_any_moment(twice: bool) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with memory_bus() as bus:
            for delay in range(60):
                async with nothing_left(bus):

                    async def life(drains: bool = delay >= 50) -> None:
                        async with Worker(bus, [Scripted(Stuck())]) as worker:
                            await bus.publish(CartAbandoned(customer_id="c1", n=1))
                            if not drains:
                                await worker.wait()
                            await until(lambda: bool(worker.runners.calls))
                        # Beyond that, the cancellation meets it while it drains.

                    task = loop.create_task(life())
                    for _ in range(delay):
                        await asyncio.sleep(0)
                    if delay >= 50:
                        await asyncio.sleep(1)
                    task.cancel()
                    if twice:
                        await asyncio.sleep(0)
                        task.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await task
                    if twice:
                        await asyncio.sleep(2)  # what was cancelled while it cleaned up goes on by itself

    turbo(main())


def test_a_registration_that_is_refused_leaves_nothing() -> None:
    async def main() -> None:
        async with memory_bus() as bus:
            async with Worker(bus, [Scripted()]):
                pass
            other = Scripted()
            other.description = {"reference": "elsewhere:Other"}
            async with nothing_left(bus):
                with pytest.raises(ConfigurationError, match="taken by"):
                    async with Worker(bus, [other]):
                        pytest.fail("it must not run")

    turbo(main())


def test_two_processors_of_one_name_are_refused() -> None:
    async def main() -> None:
        async with memory_bus() as bus:
            with pytest.raises(ConfigurationError, match="two processors are named 'win'"):
                async with Worker(bus, [Scripted(), Scripted()]):
                    pytest.fail("it must not run")

    turbo(main())


def test_a_second_worker_takes_its_share_and_gives_it_back() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with memory_bus() as bus, Worker(bus, [Scripted()], name="one") as one:
            assert one.groups[0].partitions.keys() == {0, 1}
            async with memory_bus(_memory(bus)) as other:
                async with Worker(other, [Scripted()], name="three") as three:
                    await until(lambda: len(three.groups[0].partitions) == 1)
                    assert not one.groups[0].partitions.keys() & three.groups[0].partitions.keys()
                    for n in range(20):
                        await bus.publish(CartAbandoned(customer_id=f"c{n}", n=n))
                    await one.caught_up()
                    assert one.groups[0].counters.closed and three.groups[0].counters.closed
                    begun = loop.time()
                await until(lambda: len(one.groups[0].partitions) == 2)
                assert loop.time() - begun < 2
                await other.publish(CartAbandoned(customer_id="c1", n=20))
            await until(lambda: one.groups[0].idle)
            await one.caught_up()
            assert await check_effects(bus) == 21

    turbo(main())


def test_caught_up_and_wait_tell_of_the_workers_end() -> None:
    async def main() -> None:
        async with memory_bus() as bus:
            worker = Worker(bus, [Scripted(Stuck())])

            def broken() -> None:
                raise RuntimeError("a bug in the worker")

            async def life() -> None:
                async with worker:
                    worker.groups[0].beat = broken  # type: ignore[method-assign]
                    await bus.publish(CartAbandoned(customer_id="c1", n=1))
                    await worker.caught_up()

            with pytest.raises(ExceptionGroup) as caught:
                await life()
            assert caught.group_contains(RuntimeError)
            with pytest.raises(ExceptionGroup):
                await worker.wait()

    turbo(main())


def test_caught_up_includes_what_handling_led_to() -> None:
    def printed(resident: Resident, turn: Turn) -> Output:
        event = turn.recorded.envelope.event
        assert isinstance(event, DiscountOffered)
        return Output([OfferPrinted(customer_id=resident.key, n=event.n)])

    async def main() -> None:
        reader = Scripted(printed, writer="reader", handles=(DiscountOffered,), folds=(), publishes=(OfferPrinted,))
        async with memory_bus() as bus, Worker(bus, [reader, Scripted()]) as worker:
            for n in range(50):
                await bus.publish(CartAbandoned(customer_id=f"c{n % 3}", n=n))
                await worker.caught_up()
                assert len(await actions(bus, "reader")) == n + 1

    turbo(main())


def test_a_registry_that_cannot_be_watched_for_a_while_does_not_end_the_worker() -> None:
    async def main() -> None:
        async with memory_bus() as bus:
            bucket = bus.registry.bucket
            failures: list[int] = []

            class Flaky:
                def __getattr__(self, name: str) -> Any:
                    return getattr(bucket, name)

                async def watch(self, prefix: str = "") -> AsyncIterator[Any]:
                    if len(failures) < 3:
                        failures.append(1)
                        raise UnavailableError("no registry today")
                    async for entry in bucket.watch(prefix):
                        yield entry

            bus.registry = Registry(Flaky())  # type: ignore[arg-type]
            reader = Scripted(writer="reader", handles=(DiscountOffered,), folds=(), publishes=())
            async with Worker(bus, [reader]) as worker:
                assert not worker.groups[0].actions
                await asyncio.sleep(5)
                await bus.registry.register(Scripted())
                await until(lambda: worker.groups[0].actions)
                assert len(failures) == 3

    turbo(main())


def test_an_opening_that_fails_half_way_is_repeated_without_ghosts() -> None:
    class Opening(MemoryTransport):
        failures = 3
        opened = 0

        async def ensure_consumer(self, stream: str, name: str, filter: str, **rest: Any) -> None:
            if name == "win-1" and self.failures:
                self.failures -= 1
                raise UnavailableError("not now")
            await asyncio.sleep(0.01)
            await super().ensure_consumer(stream, name, filter, **rest)

        def consume(self, *arguments: Any, **rest: Any) -> Any:
            self.opened += 1
            flow = super().consume(*arguments, **rest)
            close = flow.close

            async def counted() -> None:
                self.opened -= 1
                await close()

            flow.close = counted  # type: ignore[method-assign]
            return flow

    async def main() -> None:
        transport = Opening(VirtualTimers())
        async with memory_bus(transport) as bus, Worker(bus, [Scripted()]) as worker:
            assert transport.failures < 3
            await until(lambda: transport.opened == 2)
            assert transport.failures == 0
            await bus.publish(CartAbandoned(customer_id="c1", n=1))
            await worker.caught_up()
            assert await check_effects(bus) == 1

    turbo(main())


def test_a_long_outage_ends_and_everything_goes_on() -> None:
    """Longer than the session, and than any number of retries: nothing becomes a dead letter."""

    async def main() -> None:
        faults = Faults(refused=1.0, unread=1.0, stuck=1.0)
        faults.on = False
        transport = FaultyTransport(faults)
        async with memory_bus(transport) as bus, Worker(bus, [Scripted()]) as worker:
            [group] = worker.groups
            for n in range(100):
                await bus.publish(CartAbandoned(customer_id=f"c{n % 10}", n=n))
            faults.on = True
            group.session._until = 0.0
            renew = group.session.renew

            async def unreachable() -> bool:
                raise UnavailableError("no server")

            group.session.renew = unreachable  # type: ignore[method-assign]
            await asyncio.sleep(2_000)
            faults.on = False
            group.session.renew = renew  # type: ignore[method-assign]
            transport.heal()
            await worker.caught_up()
            assert await check_effects(bus) == 100
            assert await dead(bus) == []

    turbo(main(), seconds=6_000)


def test_a_key_that_cannot_store_for_hours_goes_on_at_last() -> None:
    async def main() -> None:
        faults = Faults(refused=1.0)
        faults.on = False
        async with memory_bus(FaultyTransport(faults)) as bus, Worker(bus, [Scripted()]) as worker:
            await bus.publish(CartAbandoned(customer_id="c1", n=1))
            faults.on = True
            await asyncio.sleep(7_000)
            faults.on = False
            await worker.caught_up()
            assert await check_effects(bus) == 1

    turbo(main(), seconds=20_000)


def _memory(bus: Bus) -> MemoryTransport:
    assert isinstance(bus.transport, MemoryTransport)
    return bus.transport


def _waiting(worker: Worker) -> bool:
    return any(
        queue.waiting for partition in worker.groups[0].partitions.values() for queue in partition._keys.values()
    )
