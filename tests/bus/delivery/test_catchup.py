"""Catching up with the log, whatever comes, fails or is forgotten meanwhile: nothing lost, nothing twice, each state as
of its event."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest

from sojourn.bus.client import Bus
from sojourn.bus.delivery import group as groups
from sojourn.bus.delivery import handling, pages, waking
from sojourn.bus.delivery.budget import Budget
from sojourn.bus.delivery.catchup import CatchUp
from sojourn.bus.delivery.customer import Customer
from sojourn.bus.delivery.member import Member
from sojourn.bus.delivery.partition import Partition
from sojourn.bus.delivery.worker import Worker
from sojourn.bus.errors import TransientError, UnavailableError
from sojourn.bus.lane import Lane
from sojourn.bus.memory import MemoryTransport
from sojourn.bus.ports import Append, Delivery, Stored
from sojourn.bus.processor import Output, Retry, Turn
from sojourn.bus.timers import VirtualTimers
from tests.bus.delivery.processors import (
    CartAbandoned,
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
from tests.bus.delivery.test_waking import fire

KEY = "c0"


@pytest.fixture(autouse=True)
def crowds_are_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waking, "CROWD", 5)


class Gate:
    """A handler that lets only so many through, and does the rest by ``then``."""

    def __init__(self, then: Callable[[Resident, Turn], Any] = offer) -> None:
        self.waiting = 0
        self._passes = asyncio.Semaphore(0)
        self._then = then

    def let(self, count: int = 1_000) -> None:
        for _ in range(count):
            self._passes.release()

    def close(self) -> None:
        self._passes = asyncio.Semaphore(0)

    async def __call__(self, resident: Resident, turn: Turn) -> Output:
        self.waiting += 1
        try:
            await self._passes.acquire()
        finally:
            self.waiting -= 1
        output = self._then(resident, turn)
        assert isinstance(output, Output)
        return output


def number(turn: Turn) -> int:
    event = turn.recorded.envelope.event
    assert isinstance(event, CartAbandoned)
    return event.n


def partition_of(bus: Bus, worker: Worker, key: str = KEY) -> Partition:
    return worker.groups[0].partitions[bus.namespace.locate(key).partition]


async def publish(bus: Bus, first: int, beyond: int, key: str = KEY) -> None:
    for n in range(first, beyond):
        await bus.publish(CartAbandoned(customer_id=key, n=n))


async def catching_up(bus: Bus, worker: Worker, gate: Gate) -> None:
    """Returns once the customer was parked for its crowd, and the first event that was left waits in the gate."""
    await publish(bus, 0, 10)
    await until(lambda: gate.waiting == 1 and len(partition_of(bus, worker)._keys[KEY].queue) == 10)
    gate.let(1)
    await until(lambda: gate.waiting == 1 and bool(partition_of(bus, worker).catching))


def test_a_handler_that_fails_while_its_customer_catches_up_leaves_the_state_of_others_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What it got to see of the log still waits for the other processor of the group."""
    monkeypatch.setattr(waking, "CROWD", 50)
    gate = Gate()
    calls: Counter[int] = Counter()

    async def handle(resident: Resident, turn: Turn) -> Output:
        calls[number(turn)] += 1
        if number(turn) == 1 and calls[1] == 1:
            raise TransientError("not yet")
        if number(turn) == 5 and calls[5] == 1:
            raise TransientError("not yet")
        return await gate(resident, turn) if number(turn) == 1 else offer(resident, turn)

    async def main() -> None:
        timers = VirtualTimers()
        retry = Retry(100, timedelta(hours=1), timedelta(hours=1))
        both = [Scripted(handle, group="light", retry=retry), Scripted(writer="second", group="light")]
        async with memory_bus(MemoryTransport(timers)) as bus, Worker(bus, both) as worker:
            await publish(bus, 0, 2)
            await worker.caught_up()
            await fire(bus, timers)
            await until(lambda: gate.waiting == 1)
            # They wait behind the wake-up, and are read from the log by the first.
            await publish(bus, 2, 6)
            gate.let()
            await worker.caught_up()
            assert [d["data"]["n"] for d in await actions(bus)] == [0, 1, 2, 3, 4]
            assert [d["data"]["seen"] for d in await actions(bus, "second")] == [1, 2, 3, 4, 5, 6]
            await fire(bus, timers)
            await worker.caught_up()
            assert await check_effects(bus) == await check_effects(bus, "second") == 6

    turbo(main())


def test_a_customer_goes_on_after_a_restart_though_the_next_message_is_somebody_elses() -> None:
    gate = Gate()

    async def main() -> None:
        async with memory_bus() as bus, Worker(bus, [Scripted(gate)]) as worker:
            at = bus.namespace.locate(KEY)
            other = next(k for k in (f"k{n}" for n in range(40)) if bus.namespace.locate(k).partition == at.partition)
            await catching_up(bus, worker, gate)
            await publish(bus, 10, 12)
            await publish(bus, 0, 1, other)
            gate.let()
            partition_of(bus, worker).restart("test")
            await worker.caught_up()
            assert await check_effects(bus) == 13

    turbo(main())


def test_what_comes_while_the_last_page_is_read_is_read_next_and_nothing_is_begun_anew() -> None:
    calls: Counter[int] = Counter()

    def handle(resident: Resident, turn: Turn) -> Output:
        calls[number(turn)] += 1
        # Silent ones leave no trace: begun anew, they would be handled twice.
        return offer(resident, turn) if number(turn) < 2 else Output()

    class Busy(MemoryTransport):
        """Another event comes while the log is read."""

        bus: Bus
        left = 4

        async def read(self, stream: str, filter: str, start: int = 1, limit: int = 0, size: int = 0) -> list[Stored]:
            found = await super().read(stream, filter, start, limit, size)
            if start > 1 and not any(".evt." in message.subject for message in found) and self.left:
                self.left -= 1
                await publish(self.bus, 10 + self.left, 11 + self.left)
                await asyncio.sleep(0.01)
            return found

    gate = Gate(handle)

    async def main() -> None:
        transport = Busy(VirtualTimers())
        async with memory_bus(transport) as bus, Worker(bus, [Scripted(gate)]) as worker:
            transport.bus = bus
            await catching_up(bus, worker, gate)
            gate.let()
            await worker.caught_up()
            assert transport.left == 0
            assert calls == Counter(range(14))

    turbo(main())


class Late(MemoryTransport):
    """Delivers after a while, once it is slow."""

    slow = False

    def consume(
        self,
        stream: str,
        name: str,
        receive: Callable[[Delivery], None],
        broken: Callable[[str], None],
        budget: Budget | None = None,
        left: Callable[[], float] | None = None,
    ) -> Any:
        def later(delivery: Delivery) -> None:
            asyncio.get_running_loop().call_later(0.2 if self.slow else 0, receive, delivery)

        return super().consume(stream, name, later, broken, budget, left)


def test_a_customer_that_goes_on_before_its_deliveries_come_again_has_its_state_all_the_same() -> None:
    """One processor of the group has caught up, the other is at it, when the partition starts over: what is delivered
    again comes later."""

    def quiet(n: int) -> bool:
        return n < 11

    gate, second = Gate(lambda resident, turn: Output() if quiet(number(turn)) else offer(resident, turn)), Gate()
    second.let()

    async def main() -> None:
        both = [Scripted(gate, group="light"), Scripted(second, writer="second", group="light")]
        transport = Late(VirtualTimers())
        async with memory_bus(transport) as bus:
            async with Worker(bus, both, name="w1") as worker:
                await catching_up(bus, worker, gate)
            second.close()
            gate.let()
            async with Worker(bus, both, name="w2") as worker:
                await publish(bus, 10, 11)
                await until(lambda: second.waiting == 1)
                await asyncio.sleep(0.1)
                transport.slow = True
                partition_of(bus, worker).restart("test")
                second.let()
                await worker.caught_up()
                await publish(bus, 11, 12)
                await worker.caught_up()
                assert await check_effects(bus, quiet=quiet) == 1
                assert await check_effects(bus, "second") == 12

    turbo(main())


@pytest.mark.parametrize("how", ["erased", "unread"])
def test_a_customer_that_is_begun_anew_while_it_catches_up_is_not_taken_for_done(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "PAGE", 4)

    class Unsteady(MemoryTransport):
        fails = slow = False

        async def read(self, stream: str, filter: str, start: int = 1, limit: int = 0, size: int = 0) -> list[Stored]:
            if self.fails and start > 1:
                self.fails = False
                raise UnavailableError("no answer today")
            if self.slow:
                await asyncio.sleep(0.01)
            return await super().read(stream, filter, start, limit, size)

    def quiet(n: int) -> bool:
        return n == 1

    gate = Gate(lambda resident, turn: Output() if quiet(number(turn)) else offer(resident, turn))

    async def main() -> None:
        transport = Unsteady(VirtualTimers())
        async with memory_bus(transport) as bus, Worker(bus, [Scripted(gate)]) as worker:
            await catching_up(bus, worker, gate)
            transport.slow = True
            if how == "erased":
                worker._forget(KEY)
            else:
                transport.fails = True
            gate.let()
            # No wake-up comes to its help: nobody fires the timers.
            await worker.caught_up()
            assert await check_effects(bus, quiet=quiet) == 9

    turbo(main())


def test_a_new_owner_reads_all_that_was_left_to_the_log_though_a_replica_lags() -> None:
    class Lagging(MemoryTransport):
        """From the second page on, another replica answers for a while."""

        shown = 0

        async def read(self, stream: str, filter: str, start: int = 1, limit: int = 0, size: int = 0) -> list[Stored]:
            found = await super().read(stream, filter, start, limit, size)
            if start > 1 and self.shown:
                return [message for message in found if message.sequence <= self.shown]
            return found

    gate = Gate()

    async def main() -> None:
        transport = Lagging(VirtualTimers())
        async with memory_bus(transport) as bus:
            async with Worker(bus, [Scripted(gate)], name="w1") as worker:
                await catching_up(bus, worker, gate)
                last = (await bus.publish(CartAbandoned(customer_id=KEY, n=10))).sequence
                await publish(bus, 11, 13)
                await until(lambda: partition_of(bus, worker)._keys[KEY].skipped > last)
            transport.shown = last
            gate.let()
            async with Worker(bus, [Scripted(gate)], name="w2") as worker:
                await publish(bus, 13, 14)
                await asyncio.sleep(1)
                transport.shown = 0
                await worker.caught_up()
                assert await check_effects(bus) == 14

    turbo(main())


def test_a_busy_customer_whose_endpoint_is_down_keeps_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    down = True
    # While the breaker is open, nothing counts as an attempt, and nothing is parked for having failed.
    monkeypatch.setattr(groups, "MAX_ACK_PENDING", 20)
    monkeypatch.setattr(handling, "BRIEF", 1e9)

    def handle(resident: Resident, turn: Turn) -> Output:
        if down and resident.key == KEY:
            raise TransientError("the endpoint is down")
        return offer(resident, turn)

    async def main() -> None:
        nonlocal down
        retry = Retry(10_000, timedelta(milliseconds=10), timedelta(seconds=1))
        async with memory_bus() as bus, Worker(bus, [Scripted(handle, retry=retry)]) as worker:
            at = bus.namespace.locate(KEY)
            other = next(k for k in (f"k{n}" for n in range(40)) if bus.namespace.locate(k).partition == at.partition)
            await publish(bus, 0, 40)
            await publish(bus, 0, 1, other)

            async def served() -> bool:
                return len(await actions(bus)) == 1

            await until(served, 60)
            down = False
            await worker.caught_up()
            assert await check_effects(bus) == 41

    turbo(main())


def test_many_messages_without_a_usable_key_are_dead_letters_each() -> None:
    async def main() -> None:
        async with memory_bus() as bus, Worker(bus, [Scripted()]) as worker:
            subject = "test.log.0.%zz.evt.CartAbandoned"
            await bus.committer.store(bus.namespace.stream(0), [Append(subject, b"{}") for _ in range(20)])
            await worker.caught_up()
            assert len(await dead(bus)) == 20

    turbo(main())


async def test_whoever_was_parked_no_longer_all_the_while_is_begun_anew() -> None:
    """A replica that is behind shows a customer as parked who has caught up, and the next one asked does not."""

    class Behind:
        async def reopen(self, member: Member, upto: int) -> Member:
            return cast("Member", SimpleNamespace(lane=Lane(tail=9, closed=8)))

    member = cast("Member", SimpleNamespace(lane=Lane(tail=7, closed=3, parked=4, eager=True)))
    with pytest.raises(UnavailableError, match="parked no longer"):
        await CatchUp.begin(cast("pages.Pages", None), cast("Customer", Behind()), member)
