from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from sojourn.bus.breaker import Breakers
from sojourn.bus.client import Bus
from sojourn.bus.delivery.budget import Budget
from sojourn.bus.delivery.group import Group, ensure_consumers, group_processors
from sojourn.bus.delivery.probation import Probation
from sojourn.bus.delivery.runners import Runners
from sojourn.bus.delivery.session import Session
from sojourn.bus.delivery.worker import Worker
from sojourn.bus.memory import MemoryTransport
from sojourn.bus.memory.consumer import MemoryFlow
from sojourn.bus.processor import Output, Turn
from sojourn.bus.timers import VirtualTimers
from tests.bus.delivery.processors import (
    CartAbandoned,
    DiscountOffered,
    OfferPrinted,
    OrderPlaced,
    Resident,
    Scripted,
    actions,
    check_effects,
    memory_bus,
    turbo,
    until,
)


def make(*processors: Scripted) -> Group:
    async def main() -> Group:
        async with memory_bus() as bus:
            bucket = await bus.transport.bucket("TEST_leases")
            return Group(
                processors[0].group,
                processors,
                transport=bus.transport,
                namespace=bus.namespace,
                registry=bus.registry,
                committer=bus.committer,
                schemas=bus.schemas,
                keys=bus.keys,
                clock=bus.clock,
                runners=Runners(),
                budget=Budget(),
                breakers=Breakers(),
                probation=Probation(),
                session=Session(bucket, "test", [processors[0].group]),
                progress=asyncio.Event(),
            )

    return turbo(main())


def wants(group: Group, subject: str) -> bool:
    return group.wants(subject.split("."))


def test_a_group_wants_what_its_processors_handle_or_fold_and_its_own_timers() -> None:
    group = make(Scripted())
    assert wants(group, "test.log.0.c1.evt.CartAbandoned")
    assert not wants(group, "test.log.0.c1.evt.OrderPlaced")
    assert wants(group, "test.log.0.c1.act.other.DiscountOffered")
    assert not wants(group, "test.log.0.c1.act.win.DiscountOffered"), "its own, which it knows"
    assert wants(group, "test.log.0.c1.evt.due.win.wait")
    assert wants(group, "test.log.0.c1.evt.due.win.a.b.c"), "names of saga timers have several tokens"
    assert not wants(group, "test.log.0.c1.evt.due.other.wait")
    assert not wants(group, "test.log.0.c1.evt.due.win")
    assert not wants(group, "test.log.0.c1.evt")
    assert not wants(group, "test.log.0.c1")


def test_members_of_a_group_get_each_others_actions() -> None:
    group = make(Scripted(group="light"), Scripted(writer="second", group="light"))
    assert wants(group, "test.log.0.c1.act.win.DiscountOffered")


def test_a_group_reads_others_where_somebody_else_publishes_what_it_wants() -> None:
    group = make(Scripted())
    assert not group.reads_others({"win": frozenset({"DiscountOffered"})})
    assert not group.reads_others({"other": frozenset({"OfferPrinted"})})
    assert group.reads_others({"other": frozenset({"DiscountOffered"})})
    pair = make(Scripted(group="light"), Scripted(writer="second", group="light", publishes=()))
    assert pair.reads_others({"win": frozenset({"DiscountOffered"})})


def test_processors_are_grouped_in_their_order() -> None:
    one, two, three = Scripted(group="a"), Scripted(writer="two"), Scripted(writer="three", group="a")
    assert group_processors([one, two, three]) == {"a": [one, three], "two": [two]}


def test_a_group_begins_at_the_beginning_if_one_of_its_processors_does() -> None:
    assert make(Scripted()).start_at == "now"
    late = Scripted(writer="second", group="light", start="beginning", handles=(OrderPlaced, DiscountOffered))
    assert make(Scripted(group="light"), late).start_at == "beginning"


class Hesitant(MemoryTransport):
    """Takes its time with consumers, and knows the flows that it opened."""

    def __init__(self) -> None:
        super().__init__(VirtualTimers())
        self.gate = asyncio.Event()
        self.gate.set()
        self.flows: list[MemoryFlow] = []

    async def ensure_consumer(self, *arguments: Any, **named: Any) -> None:
        await super().ensure_consumer(*arguments, **named)
        await self.gate.wait()

    def consume(self, *arguments: Any, **named: Any) -> MemoryFlow:
        self.flows.append(super().consume(*arguments, **named))
        return self.flows[-1]

    @property
    def open(self) -> int:
        return sum(not flow._closed for flow in self.flows)


def test_a_group_that_is_paused_while_its_flows_begin_leaves_none_of_them_open() -> None:
    """One would go on taking what is the next owner's."""

    async def main() -> None:
        transport = Hesitant()
        async with memory_bus(transport) as bus, Worker(bus, [Scripted()]) as worker:
            [group] = worker.groups
            assert transport.open == bus.namespace.partitions
            await group.pause()
            assert transport.open == 0
            transport.gate.clear()
            group.resume()
            await until(lambda: len(group.partitions) == bus.namespace.partitions)
            await group.pause()
            transport.gate.set()
            await asyncio.sleep(5)
            assert transport.open == 0 and not group.partitions
            group.resume()
            await until(lambda: transport.open == bus.namespace.partitions)
            await bus.publish(CartAbandoned(customer_id="c0", n=0))
            await worker.caught_up()
            assert await check_effects(bus) == 1
        assert transport.open == 0

    turbo(main())


class Between(MemoryTransport):
    """Lets somebody else have a turn just before the first consumer of a group is set again."""

    def __init__(self) -> None:
        super().__init__(VirtualTimers())
        self.hook: Callable[[], Awaitable[None]] | None = None

    async def ensure_consumer(self, stream: str, name: str, *arguments: Any, **named: Any) -> None:
        if self.hook is not None and name.startswith("reader-"):
            hook, self.hook = self.hook, None
            await hook()
        await super().ensure_consumer(stream, name, *arguments, **named)

    def filter(self, bus: Bus, number: int) -> str:
        consumer = self._find_consumer(bus.namespace.stream(number), f"reader-{number}")
        assert consumer is not None
        return consumer.filter


def print_offer(resident: Resident, turn: Turn) -> Output:
    event = turn.recorded.envelope.event
    assert isinstance(event, DiscountOffered)
    return Output([OfferPrinted(customer_id=resident.key, n=event.n)])


def reading() -> Scripted:
    handles = (DiscountOffered,)
    return Scripted(print_offer, writer="reader", handles=handles, folds=(), publishes=(OfferPrinted,))


async def publish(bus: Bus, count: int) -> None:
    for n in range(count):
        await bus.publish(CartAbandoned(customer_id=f"c{n % 4}", n=n))


async def never() -> None:
    """A worker that does not hear of others."""


@pytest.mark.parametrize("here", [False, True], ids=["another worker", "the same worker"])
def test_a_group_that_is_widened_while_a_partition_of_it_begins_is_not_narrowed_again(here: bool) -> None:
    async def main() -> None:
        transport = Between()
        async with memory_bus(transport) as bus, Worker(bus, [reading()], ingress=False) as worker:
            worker.widen = never  # type: ignore[method-assign]
            [group] = worker.groups
            assert not group.actions
            await group.pause()

            async def widen() -> None:
                wide = await bus.registry.settle_group("reader", present={}, start="now", actions=True)
                if here:
                    await group.widen(wide)
                else:
                    await ensure_consumers(transport, bus.namespace, wide)

            transport.hook = widen
            group.resume()
            numbers = range(bus.namespace.partitions)
            await until(lambda: len(group.partitions) == len(numbers) and transport.hook is None)
            await until(lambda: group.actions)
            assert [transport.filter(bus, number) for number in numbers] == [
                bus.namespace.partition_filter(number, actions=True) for number in numbers
            ]
            async with Worker(bus, [Scripted()], ingress=False) as other:
                await publish(bus, 40)
                await other.caught_up()
                await worker.caught_up()
                # A flow that begins anew goes on all the same.
                for partition in group.partitions.values():
                    partition.restart("test")
                await publish(bus, 40)
                await other.caught_up()
                await worker.caught_up()
            assert len(await actions(bus, "reader")) == 80

    turbo(main())
