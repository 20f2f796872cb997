from __future__ import annotations

import asyncio
from typing import Any

from sojourn.bus.breaker import Breakers
from sojourn.bus.delivery.budget import Budget
from sojourn.bus.delivery.group import Group, group_processors
from sojourn.bus.delivery.probation import Probation
from sojourn.bus.delivery.runners import Runners
from sojourn.bus.delivery.session import Session
from sojourn.bus.delivery.worker import Worker
from sojourn.bus.memory import MemoryTransport
from sojourn.bus.memory.consumer import MemoryFlow
from sojourn.bus.timers import VirtualTimers
from tests.bus.delivery.processors import (
    CartAbandoned,
    DiscountOffered,
    OrderPlaced,
    Scripted,
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
