"""A lane applied live is the lane rebuilt from what was stored, whatever its writer did and however it timed it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import from_json

from sojourn.bus.appends import check_batch
from sojourn.bus.delivery.failure import dead_facts
from sojourn.bus.envelope import Cause, decode
from sojourn.bus.event import Event, Key
from sojourn.bus.grammar import matcher
from sojourn.bus.lane import Change, Lane, OpenTimer, Writer, dead_change, once_change, output_change
from sojourn.bus.ports import Append, Expectation, Stored
from sojourn.bus.processor import CancelTimer, Output, SetTimer
from sojourn.bus.subjects import Namespace

NOW = datetime(2026, 1, 1, tzinfo=UTC)
NAMESPACE = Namespace("test")
AT = NAMESPACE.locate("c.1")
WRITER = Writer(NAMESPACE, "win-back", 3)
FILTER = NAMESPACE.lane_filter(AT, "win-back")


class DiscountOffered(Event):
    customer_id: Key
    percent: int = 10


class LapsePeriodEnded(Event):
    customer_id: Key


def cause(sequence: int) -> Cause:
    return Cause(f"e-{sequence}", "OrderPlaced", "j-1", sequence, 2, "00-trace")


def offers(count: int) -> list[Event]:
    return [DiscountOffered(customer_id="c.1", percent=number) for number in range(count)]


def set_timer(name: str, at: datetime = NOW + timedelta(days=3)) -> SetTimer:
    return SetTimer(name, LapsePeriodEnded(customer_id="c.1"), at)


@dataclass
class Store:
    """A stream as far as one lane sees it: sequences count up, some are somebody else's; timers wait in the server."""

    last: int = 0
    messages: list[Stored] = field(default_factory=list)
    waiting: dict[str, tuple[int, datetime]] = field(default_factory=dict)
    """Pending timers: generation and due time, by subject."""
    generations: list[int] = field(default_factory=list)

    def store(self, appends: list[Append], others: int = 0) -> list[int]:
        check_batch(appends)
        tail = self.messages[-1].sequence if self.messages else 0
        self.last += others
        sequences = []
        for append in appends:
            self.last += 1
            sequences.append(self.last)
            if append.unschedule is not None:
                self.waiting.pop(append.unschedule, None)
            if append.schedule is not None:
                assert append.expect is None and append.subject.startswith("test.timer.")
                document = decode(append.payload, LapsePeriodEnded)
                assert document.timer_generation is not None
                self.generations.append(document.timer_generation)
                self.waiting[append.subject] = (document.timer_generation, append.schedule.at)
            else:
                assert append.expect == Expectation(FILTER, tail)
                assert matcher(FILTER)(append.subject)
                self.messages.append(Stored(append.subject, self.last, append.payload, 0))
        return sequences

    def rebuilt(self) -> Lane:
        lane = Lane()
        for message in self.messages:
            lane.replay(message)
        return lane

    def timers(self) -> dict[str, OpenTimer]:
        """What waits in the server, as a lane would say it."""
        return {subject.rsplit(".", 1)[1]: OpenTimer(*timer) for subject, timer in self.waiting.items()}


def apply(store: Store, lane: Lane, change: Change, others: int = 0) -> None:
    members = change.appends[: change.lane_members]
    assert all(append.schedule is None for append in members)
    assert all(append.schedule is not None for append in change.appends[change.lane_members :])
    assert [".log." in append.subject for append in members] == [
        number < change.actions for number in range(len(members))
    ]
    change.apply(lane, store.store(change.appends, others))


def put_out(
    store: Store, lane: Lane, sequence: int, output: Output, fired: str | None = None, others: int = 0
) -> Change:
    if fired is not None:
        store.waiting.pop(NAMESPACE.timer(AT, "win-back", fired), None)
    change = output_change(WRITER, AT, lane, cause(sequence), output, NOW, fired=fired)
    apply(store, lane, change, others)
    return change


NAMES = st.sampled_from(["lapse", "nudge", "x"])
MOMENTS = st.integers(-1000, 1000).flatmap(
    lambda hours: st.sampled_from([UTC, ZoneInfo("Europe/Berlin"), ZoneInfo("America/New_York")]).map(
        (NOW + timedelta(hours=hours)).astimezone
    )
)
TIMERS = st.lists(st.builds(set_timer, NAMES, MOMENTS) | st.builds(CancelTimer, NAMES), max_size=6)
RESULTS = st.dictionaries(st.text(max_size=4), st.integers() | st.none() | st.text(max_size=3), max_size=2)
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["out", "dead"]),
        st.integers(0, 3),
        TIMERS,
        st.lists(st.tuples(st.text(max_size=3), RESULTS), max_size=3),
        st.booleans(),
        st.integers(0, 3),
    ),
    max_size=8,
)


@given(STEPS)
def test_applied_live_it_is_what_is_rebuilt(steps: list[tuple[str, int, list[Any], list[Any], bool, int]]) -> None:
    store, lane = Store(), Lane()
    for number, (kind, count, timers, journalled, fires, others) in enumerate(steps, 1):
        sequence = number * 10
        fired = next(iter(lane.timers), None) if fires else None
        results: dict[str, Any] = {}
        for name, result in journalled:
            if name in results:
                continue
            results[name] = result
            # As the worker's turn does it.
            [lane.tail] = store.store([once_change(WRITER, AT, lane, sequence, name, result)])
            if lane.journal_cause != sequence:
                lane.journal_cause, lane.journal = sequence, {}
            lane.journal[name] = result
            assert store.rebuilt() == lane
            assert store.rebuilt().journalled(sequence) == results
        before = dict(lane.timers)
        if kind == "dead":
            if fired is not None:
                store.waiting.pop(NAMESPACE.timer(AT, "win-back", fired))
            facts = {"reason": "x", "version": 3, "time": "2026", "type": "OrderPlaced"}
            apply(store, lane, dead_change(WRITER, AT, lane, sequence, facts, fired=fired), others)
            assert lane.timers == {name: timer for name, timer in before.items() if name != fired}
        else:
            put_out(store, lane, sequence, Output(offers(count), timers), fired, others)
        assert lane.closed == sequence
        assert store.rebuilt() == lane
        assert lane.journalled(sequence) == {}
        # What the lane says is open is what the server will fire.
        assert store.timers() == lane.timers
        assert store.generations == sorted(set(store.generations))
        assert lane.generation >= max(store.generations, default=0)


def opened(*names: str) -> tuple[Store, Lane]:
    store, lane = Store(), Lane()
    put_out(store, lane, 10, Output([], [set_timer(name) for name in names]))
    return store, lane


def test_one_action_is_one_append_without_a_record() -> None:
    store, lane = Store(), Lane()
    change = put_out(store, lane, 10, Output(offers(1)))
    assert [append.subject for append in change.appends] == [NAMESPACE.action(AT, "win-back", "DiscountOffered")]
    envelope = decode(change.appends[0].payload, DiscountOffered)
    assert (envelope.kind, envelope.cause_sequence, envelope.causation_id, envelope.hops) == ("out", 10, "e-10", 3)
    assert (envelope.correlation_id, envelope.source, envelope.time) == ("j-1", "/test/win-back", NOW)
    assert change.appends[0].message_id is None
    assert lane == Lane(tail=1, closed=10)


def test_several_actions_expect_the_same() -> None:
    store, lane = opened("lapse")
    change = put_out(store, lane, 20, Output(offers(3), [set_timer("nudge"), CancelTimer("lapse")]))
    assert len({append.expect for append in change.appends[: change.lane_members]}) == 1
    assert (change.actions, change.lane_members, len(change.appends)) == (3, 4, 5)
    assert len({decode(append.payload, DiscountOffered).id for append in change.appends[:3]}) == 3


def test_setting_again_replaces() -> None:
    store, lane = opened("lapse")
    later = NOW + timedelta(days=9)
    put_out(store, lane, 20, Output([], [set_timer("lapse", later)]))
    assert lane.timers == {"lapse": OpenTimer(2, later)} == store.timers()


def test_set_cancel_set_in_one_output_leaves_the_last() -> None:
    for before in ((), ("lapse",)):
        store, lane = opened(*before) if before else (Store(), Lane())
        first = lane.generation
        later = NOW + timedelta(days=9)
        change = put_out(
            store, lane, 20, Output([], [set_timer("lapse"), CancelTimer("lapse"), set_timer("lapse", later)])
        )
        assert lane.timers == {"lapse": OpenTimer(first + 2, later)} == store.timers()
        assert [append.unschedule for append in change.appends] == [None, None]


def test_a_timer_set_and_cancelled_in_one_output_was_never_there() -> None:
    store, lane = Store(), Lane()
    change = put_out(store, lane, 20, Output([], [set_timer("lapse"), CancelTimer("lapse")]))
    assert len(change.appends) == 1 and change.appends[0].unschedule is None
    assert lane.timers == store.timers() == {}
    # Its generation is spent all the same.
    assert lane.generation == store.rebuilt().generation == 1


def test_several_are_cancelled_in_one_output() -> None:
    store, lane = opened("lapse", "nudge", "x")
    change = put_out(store, lane, 20, Output(offers(1), [CancelTimer("x"), CancelTimer("lapse"), CancelTimer("x")]))
    assert [append.unschedule for append in change.appends] == [
        None,
        NAMESPACE.timer(AT, "win-back", "x"),
        NAMESPACE.timer(AT, "win-back", "lapse"),
    ]
    assert list(lane.timers) == ["nudge"] == list(store.timers())


def test_cancelled_twice_with_a_set_between_is_cancelled_once() -> None:
    store, lane = opened("lapse")
    timers: list[SetTimer | CancelTimer] = [CancelTimer("lapse"), set_timer("lapse"), CancelTimer("lapse")]
    change = put_out(store, lane, 20, Output([], timers))
    assert [append.unschedule for append in change.appends] == [NAMESPACE.timer(AT, "win-back", "lapse")]
    assert lane.timers == store.timers() == {}


def test_what_is_not_open_is_cancelled_without_a_trace_but_a_record() -> None:
    store, lane = Store(), Lane()
    change = put_out(store, lane, 20, Output([], [CancelTimer("lapse")]))
    assert [append.unschedule for append in change.appends] == [None]
    assert store.rebuilt() == lane == Lane(tail=1, closed=20)


def test_firing_closes_even_without_output() -> None:
    store, lane = opened("lapse", "nudge")
    put_out(store, lane, 20, Output(), fired="lapse")
    assert list(lane.timers) == ["nudge"] == list(store.timers())
    assert lane.closed == 20


def test_fired_and_set_anew_has_a_generation_of_its_own() -> None:
    store, lane = opened("lapse")
    later = NOW + timedelta(days=9)
    put_out(store, lane, 20, Output(offers(1), [set_timer("lapse", later)]), fired="lapse")
    assert lane.timers == {"lapse": OpenTimer(2, later)} == store.timers()


def test_a_timers_message_is_the_same_however_often_it_fires() -> None:
    store, lane = Store(), Lane()
    payloads = [
        output_change(WRITER, AT, lane, cause(10), Output([], [set_timer("lapse")]), NOW).appends[-1].payload
        for _ in "ab"
    ]
    assert payloads[0] == payloads[1]
    envelope = decode(payloads[0], LapsePeriodEnded)
    assert (envelope.kind, envelope.timer_generation, envelope.time) == ("due", 1, NOW + timedelta(days=3))
    assert (envelope.causation_id, envelope.traceparent) == ("e-10", "00-trace")
    put_out(store, lane, 10, Output([], [set_timer("lapse")]))
    again = output_change(WRITER, AT, lane, cause(20), Output([], [set_timer("lapse")]), NOW).appends[-1]
    assert decode(again.payload, LapsePeriodEnded).id != envelope.id
    assert again.schedule is not None and again.schedule.target == NAMESPACE.due(AT, "win-back", "lapse")


@pytest.mark.parametrize(("seconds", "hops"), [(-5, 3), (0, 3), (59, 3), (60, 0), (86_400, 0)])
def test_who_waits_a_minute_begins_a_new_chain_of_causes(seconds: int, hops: int) -> None:
    timer = set_timer("lapse", NOW + timedelta(seconds=seconds))
    schedule = output_change(WRITER, AT, Lane(), cause(10), Output([], [timer]), NOW).appends[-1]
    assert decode(schedule.payload, LapsePeriodEnded).hops == hops


def test_an_hour_that_comes_twice_is_the_same_after_a_reload() -> None:
    store, lane = Store(), Lane()
    # Such times are equal to no time of another zone (PEP 495), so a lane keeps all of them in UTC.
    twice = datetime(2026, 10, 25, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"), fold=1)
    put_out(store, lane, 10, Output([], [set_timer("lapse", twice)]))
    assert store.rebuilt() == lane
    assert lane.timers["lapse"].at.tzinfo is UTC


def test_a_dead_letter_is_closed_and_says_why() -> None:
    store, lane = opened("lapse")
    facts = dead_facts(ValueError("\ud800 no"), recorded=None, subject="s.T", attempts=2, version=3, now=NOW)
    apply(store, lane, dead_change(WRITER, AT, lane, 20, facts))
    assert lane == store.rebuilt() and lane.closed == 20 and list(lane.timers) == ["lapse"]
    document = from_json(store.messages[-1].payload)
    assert store.messages[-1].subject == NAMESPACE.record(AT, "win-back", "dead")
    assert (document["kind"], document["cause"], document["reason"]) == ("dead", 20, "\\ud800 no")


def test_results_are_of_one_cause() -> None:
    store, lane = Store(), Lane()
    for sequence in (10, 20):
        [lane.tail] = store.store([once_change(WRITER, AT, lane, sequence, "price", sequence)])
    rebuilt = store.rebuilt()
    assert rebuilt.journalled(10) == {}
    assert rebuilt.journalled(20) == {"price": 20}
    assert rebuilt.closed == 0


@pytest.mark.parametrize("count", [0, 1, 5])
def test_an_outputs_causes_may_come_in_any_order_and_the_highest_counts(count: int) -> None:
    store, lane = Store(), Lane()
    put_out(store, lane, 20, Output(offers(1)))
    put_out(store, lane, 10, Output(offers(count), [set_timer("lapse")]))
    assert lane.closed == store.rebuilt().closed == 20
