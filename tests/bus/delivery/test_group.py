from __future__ import annotations

import asyncio

from sojourn.bus.breaker import Breakers
from sojourn.bus.delivery.budget import Budget
from sojourn.bus.delivery.group import Group, group_processors
from sojourn.bus.delivery.probation import Probation
from sojourn.bus.delivery.runners import Runners
from sojourn.bus.delivery.session import Session
from tests.bus.delivery.processors import DiscountOffered, OrderPlaced, Scripted, memory_bus, turbo


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
