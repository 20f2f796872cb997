from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal

import pytest

from sojourn.agents.processor import AgentProcessor
from sojourn.bus.clock import VirtualClock
from sojourn.bus.delivery.worker import Worker
from sojourn.bus.envelope import Cause, encode
from sojourn.bus.ids import uuid7
from sojourn.bus.ports import Append, Stored
from sojourn.bus.processor import Output, Processor
from sojourn.bus.subjects import Namespace
from sojourn.simulation.audit import Book, Tally, audit, unhandled
from sojourn.simulation.timers import CustomerTimers
from tests.bus.delivery.processors import NARROW, memory_bus
from tests.bus.relay_shop import Courier, LetterPosted
from tests.simulation import shop
from tests.simulation.shop import CartAbandoned, CustomerLapsed, DiscountOffered, Lapse, Recovery
from tests.simulation.world import MEMORY, Scripted, World, abandoned, at, ordered, world

END = at(14)
SIM = Namespace("sim")


async def run(w: World, processors: Sequence[Processor]) -> tuple[set[str], Tally]:
    """Two customers, one of whom abandons a cart and one of whom orders and lapses."""
    driver = w.driver([Scripted("a", [abandoned("a", 1)]), Scripted("b", [ordered("b", 2)])])
    await driver.run()
    return driver.published, await tally_of(w, processors, driver.published)


async def tally_of(w: World, processors: Sequence[Processor], published: set[str]) -> Tally:
    return await audit(w.bus.transport, w.bus.namespace, processors, published=published, end=END)


async def test_what_ran_well_is_clean_and_counted() -> None:
    processors: list[Processor] = [Recovery(), Lapse(days=3)]
    async with world(*processors) as w:
        _, tally = await run(w, processors)
    assert tally.clean
    assert tally.to_json() == {
        "events": {"total": 2, "by_type": {"CartAbandoned": 1, "OrderPlaced": 1}},
        "actions": {"total": 2, "by_agent": {"lapse": {"CustomerLapsed": 1}, "recovery": {"DiscountOffered": 1}}},
        "timers_fired": 1,
        "journeys": 2,
        "dead_letters": {"total": 0, "by_agent": {}},
        "duplicates": 0,
        "lost": {"total": 0, "by_kind": {}},
        "digest": tally.digest,
    }


async def relayed() -> list[Stored]:
    """A letter from ann over bob to eve, as the log tells of it."""
    async with memory_bus() as bus, Worker(bus, [AgentProcessor(Courier)], ingress=False) as worker:
        await bus.publish(LetterPosted(customer_id="ann", n=0, route=("bob", "eve")))
        await worker.caught_up()
        return await bus.transport.read("TEST_0", "test.>")


def counted(log: Sequence[Stored]) -> Tally:
    book = Book(NARROW, END)
    book.enter(log)
    return book.close([], 0)


async def test_what_was_put_out_for_other_customers_is_their_agents() -> None:
    tally = counted(await relayed())
    assert tally.clean
    assert tally.actions == {"courier": {"LetterForwarded": 2}}


async def test_what_did_not_reach_another_customer_is_lost() -> None:
    tally = counted((await relayed())[:-1])
    assert (tally.lost, tally.duplicates) == ({"relays": 1}, 0)


async def test_what_reached_another_customer_twice_is_a_duplicate() -> None:
    log = await relayed()
    tally = counted([*log, log[-1]._replace(sequence=log[-1].sequence + 1)])
    assert tally.duplicates
    assert not tally.lost


async def test_what_nobody_put_out_for_a_customer_has_no_cause() -> None:
    log = await relayed()
    assert counted([message for message in log if not message.subject.endswith(".relay")]).lost == {"causes": 2}
    payload = log[-1].payload.replace(b'"causeseq":', b'"causeseq":1')
    assert counted([*log[:-1], log[-1]._replace(payload=payload)]).lost == {"causes": 1}


async def last_action(w: World, key: str) -> Stored:
    where = w.bus.namespace.locate(key)
    stored = await w.bus.transport.last(where.stream, f"{w.bus.namespace.name}.log.*.{where.token}.act.>")
    assert stored is not None
    return stored


async def put(w: World, stored: Stored, **changes: object) -> None:
    """Stores a message again as somebody would who goes round every check, with some attributes changed."""
    document = json.loads(stored.payload) | changes
    stream = w.bus.namespace.locate(document["subject"]).stream
    await w.bus.transport.commit(stream, [Append(stored.subject, json.dumps(document).encode())])


async def test_an_action_stored_again_for_the_same_cause_is_a_duplicate() -> None:
    async with world(Recovery()) as w:
        published, _ = await run(w, [Recovery()])
        await put(w, await last_action(w, "a"), id="another")
        assert (await tally_of(w, [Recovery()], published)).duplicates == 1


async def test_another_action_for_a_closed_cause_is_a_duplicate() -> None:
    async with world(Recovery()) as w:
        published, _ = await run(w, [Recovery()])
        action = await last_action(w, "a")
        noise = Append(SIM.event(SIM.locate("a"), "OrderPlaced"), ordered_payload("a", "x"))
        await w.bus.transport.commit(w.bus.namespace.locate("a").stream, [noise])
        await put(w, action, id="another", data={"customer_id": "a", "percent": 99})
        assert (await tally_of(w, [Recovery()], published)).duplicates == 1


async def test_an_event_stored_twice_is_a_duplicate() -> None:
    async with world() as w:
        published, tally = await run(w, [])
        assert tally.clean
        where = w.bus.namespace.locate("a")
        event = await w.bus.transport.last(where.stream, w.bus.namespace.story_filter(where))
        assert event is not None
        await put(w, event)
        after = await tally_of(w, [], published)
        assert (after.duplicates, after.clean) == (1, False)


async def test_an_event_that_is_not_in_the_log_is_lost() -> None:
    async with world(Recovery()) as w:
        published, _ = await run(w, [Recovery()])
        where = w.bus.namespace.locate("b")
        event = await w.bus.transport.last(where.stream, w.bus.namespace.story_filter(where))
        assert event is not None
        await w.bus.transport.delete_messages(where.stream, [event.sequence])
        tally = await tally_of(w, [Recovery()], published)
        assert tally.lost == {"events": 1}
        assert not tally.clean


async def test_an_action_without_its_cause_is_lost_sight_of() -> None:
    async with world(Recovery()) as w:
        published, _ = await run(w, [Recovery()])
        await put(w, await last_action(w, "a"), id="x", causeseq=999)
        await put(w, await last_action(w, "a"), id="y", causationid="somebody-else", causeseq=1000)
        assert (await tally_of(w, [Recovery()], published)).lost == {"causes": 2}


async def test_what_no_worker_has_closed_is_lost() -> None:
    idle = Recovery(writer="idle")
    clock, timers = VirtualClock(at(0)), CustomerTimers()
    async with MEMORY.open(clock=clock, timers=timers, catalog=shop.CATALOG) as bus:
        async with Worker(bus, [idle], catalog=shop.CATALOG, ingress=False):
            pass
        for number in range(3):
            await bus.publish(CartAbandoned(customer_id=f"c{number}", cart_value=Decimal(80)), id=str(number))
        assert await unhandled(bus.transport, bus.namespace, [idle], patience=0) == 3
        # A group that never ran has closed nothing either.
        never = Recovery(writer="never")
        assert await unhandled(bus.transport, bus.namespace, [never], patience=0) == 3


async def test_a_dead_letter_is_counted_and_not_clean() -> None:
    processors = [Failing()]
    async with world(*processors) as w:
        _, tally = await run(w, processors)
        assert tally.dead == {"failing": 1}
        assert not tally.clean
        assert tally.lost == {}
        assert tally.duplicates == 0


class Failing(Recovery):
    def __init__(self) -> None:
        super().__init__(writer="failing")

    def open(self, key: str) -> FailingResident:
        return FailingResident()


class FailingResident(shop.RecoveryResident):
    def run(self, turn: object) -> Output:
        raise ValueError("no")


def ordered_payload(key: str, id: str) -> bytes:
    return encode(ordered(key, 3).event, id=id, source="/sim", key=key, time=at(3))


# What follows is counted from messages written by hand, as no worker would write them.


class Log:
    """Messages of one customer's stream."""

    def __init__(self) -> None:
        self.messages: list[Stored] = []
        self.where = SIM.locate("a")

    def event(self, id: str) -> Cause:
        payload = encode(ordered("a", 1).event, id=id, source="/sim", key="a", time=at(1))
        return Cause(id, "OrderPlaced", id, self._add(SIM.event(self.where, "OrderPlaced"), payload), 0)

    def act(self, cause: Cause, *, writer: str = "x", percent: int = 5) -> None:
        event = DiscountOffered(customer_id="a", percent=percent)
        payload = encode(event, id=uuid7(), source=f"/sim/{writer}", key="a", time=at(1), cause=cause, kind="out")
        self._add(SIM.action(self.where, writer, "DiscountOffered"), payload)

    def record(self, cause: Cause, timers: dict[str, datetime] | None = None, *, kind: str = "out") -> None:
        table = {name: [1, due.isoformat()] for name, due in (timers or {}).items()}
        document = {"kind": kind, "cause": cause.sequence, "generation": 1, "timers": table}
        self._add(SIM.record(self.where, "x", kind), json.dumps(document).encode())

    def due(self, id: str) -> None:
        event = CustomerLapsed(customer_id="a", orders=1)
        payload = encode(event, id=id, source="/sim/x", key="a", time=at(2), kind="due", timer_generation=1)
        self._add(SIM.due(self.where, "x", "lapse"), payload)

    def gap(self) -> None:
        self._add("sim.timer.1.a.x.lapse", b"{}")

    def tally(self) -> Tally:
        book = Book(SIM, END)
        book.enter(self.messages)
        return book.close([], 0)

    def _add(self, subject: str, payload: bytes) -> int:
        sequence = len(self.messages) + 1
        self.messages.append(Stored(subject, sequence, payload, 0))
        return sequence


def test_an_output_of_several_actions_is_one_answer() -> None:
    log = Log()
    cause = log.event("1")
    log.act(cause, percent=5)
    log.act(cause, percent=6)
    log.record(cause, {"lapse": END})
    assert log.tally().clean


def test_the_same_action_twice_in_one_output_is_a_duplicate() -> None:
    log = Log()
    cause = log.event("1")
    log.act(cause)
    log.act(cause)
    assert log.tally().duplicates == 1


@pytest.mark.parametrize("kind", ["out", "dead"])
def test_a_cause_that_is_closed_again_later_is_a_duplicate(kind: str) -> None:
    log = Log()
    cause = log.event("1")
    log.act(cause)
    log.gap()
    log.record(cause, kind=kind)
    assert log.tally().duplicates == 1


def test_an_older_cause_answered_after_a_newer_one_is_a_duplicate() -> None:
    log = Log()
    first, second = log.event("1"), log.event("2")
    log.act(second)
    log.act(first)
    assert log.tally().duplicates == 1


def test_two_writers_may_answer_the_same_cause() -> None:
    log = Log()
    cause = log.event("1")
    log.act(cause, writer="x")
    log.act(cause, writer="y")
    assert log.tally().clean


def test_an_action_may_be_the_cause_of_another_writers_action() -> None:
    log = Log()
    log.act(log.event("1"), writer="x")
    document = json.loads(log.messages[-1].payload)
    log.act(Cause(document["id"], "DiscountOffered", "1", log.messages[-1].sequence, 1), writer="y")
    assert log.tally().clean


def test_a_timer_that_should_have_fired_is_lost_and_one_due_at_the_end_is_not() -> None:
    log = Log()
    log.record(log.event("1"), {"lapse": END, "soon": END - timedelta(seconds=1)})
    assert log.tally().lost == {"timers": 1}


def test_a_timer_that_fired_twice_is_a_duplicate() -> None:
    log = Log()
    log.due("t1")
    log.due("t1")
    assert (log.tally().fired, log.tally().duplicates) == (2, 1)


def test_the_digest_does_not_depend_on_sequences_and_ids_but_on_what_was_done() -> None:
    one, two, other = Log(), Log(), Log()
    one.act(one.event("1"))
    two.gap()
    two.act(two.event("1"))
    other.act(other.event("1"), percent=6)
    assert one.tally().digest == two.tally().digest != other.tally().digest


def test_the_order_of_actions_in_the_log_is_not_in_the_digest() -> None:
    one, two = Log(), Log()
    for log, writers in ((one, "xy"), (two, "yx")):
        cause = log.event("1")
        for writer in writers:
            log.act(cause, writer=writer)
    assert one.tally().digest == two.tally().digest


def test_a_tally_with_anything_wrong_is_not_clean() -> None:
    clean = Log().tally()
    assert clean.clean
    for wrong in (replace(clean, duplicates=1), replace(clean, lost={"events": 1}), replace(clean, dead={"x": 1})):
        assert not wrong.clean
