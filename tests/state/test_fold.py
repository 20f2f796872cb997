"""Live state is the state of the log: a brute-force model says what a handler must see."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from sojourn import Event, Journey, Key, PermanentError, evolve
from sojourn.bus.envelope import Envelope, decode, encode
from sojourn.bus.processor import Recorded
from sojourn.state.fold import JourneyState, fold

START = datetime(2026, 1, 1, tzinfo=UTC)


class StepTaken(Event):
    customer_id: Key
    label: int
    marks: list[int] = Field(default_factory=list)


class OfferMade(Event):
    customer_id: Key
    label: int


class Trail(Journey):
    """Remembers everything in order, so that any difference shows."""

    seen: tuple[str, ...] = ()
    marks: list[int] = Field(default_factory=list)
    last: datetime | None = None

    @evolve(StepTaken)
    def stepped(self, event: StepTaken, envelope: Envelope[StepTaken]) -> None:
        self.seen += (f"step {event.label}",)
        self.marks = event.marks
        self.last = envelope.time
        if event.label < 0:
            self.marks.append(-1)
            raise ValueError("a negative step")

    @evolve(OfferMade)
    def offered(self, event: OfferMade) -> None:
        self.seen += (f"offer {event.label}",)
        if event.label < 0:
            raise ValueError("a negative offer")


def recorded(event: Event, sequence: int, *, writer: str | None = None, due: bool = False) -> Recorded:
    time = START + timedelta(seconds=sequence)
    document = encode(event, id=f"id-{sequence}", source="/test", key="c1", time=time)
    return Recorded(decode(document, type(event)), sequence, writer, due)


def step(sequence: int, label: int | None = None, *, due: bool = False) -> Recorded:
    return recorded(StepTaken(customer_id="c1", label=sequence if label is None else label), sequence, due=due)


def offer(sequence: int, label: int | None = None, writer: str = "me") -> Recorded:
    return recorded(OfferMade(customer_id="c1", label=sequence if label is None else label), sequence, writer=writer)


class Line(NamedTuple):
    """One message of the log. ``cause`` is 0 for what this writer did not write."""

    recorded: Recorded
    cause: int


def model(log: list[Line], sequence: int) -> tuple[str, ...]:
    """What a handler of the event at ``sequence`` must see."""
    base = [line for line in log if line.recorded.sequence <= sequence]
    overlay = [line for line in log if line.recorded.sequence > sequence and 0 < line.cause < sequence]
    events = [line.recorded.envelope.event for line in base + overlay if not line.recorded.due]
    labels = [(event.label, event) for event in events if isinstance(event, (StepTaken, OfferMade))]
    return tuple(f"{'step' if isinstance(e, StepTaken) else 'offer'} {label}" for label, e in labels if label >= 0)


Moves = st.lists(
    st.sampled_from(
        ["step", "bad step", "other's offer", "timer", "handle", "handle and offer", "handle and offer badly"]
    ),
    max_size=40,
)


@given(Moves, st.integers(0, 3))
def test_live_state_is_the_state_of_the_log(moves: list[str], gap: int) -> None:
    """One writer handles events in order, while others write; its actions land wherever the log has got to."""
    log: list[Line] = []
    handled: list[tuple[int, tuple[str, ...]]] = []
    live = JourneyState(Trail)
    waiting: list[Recorded] = []

    def store(make: object, cause: int = 0) -> Recorded:
        assert callable(make)
        stored: Recorded = make(len(log) * (gap + 1) + 1)
        log.append(Line(stored, cause))
        return stored

    for move in [*moves, *["handle"] * len(moves)]:
        if move == "step":
            waiting.append(store(step))
        elif move == "bad step":
            waiting.append(store(lambda n: step(n, -1)))
        elif move == "other's offer":
            waiting.append(store(lambda n: offer(n, writer="other")))
        elif move == "timer":
            waiting.append(store(lambda n: step(n, due=True)))
        elif waiting:
            cause = waiting.pop(0)
            try:
                live.observe(cause)
            except PermanentError:
                continue  # a dead letter
            handled.append((cause.sequence, live.view(cause.sequence).seen))
            if move == "handle and offer":
                live.acted(store(offer, cause.sequence), cause.sequence)
            elif move == "handle and offer badly":
                live.acted(store(lambda n: offer(n, -1), cause.sequence), cause.sequence)

    for sequence, seen in handled:
        assert seen == model(log, sequence)
        assert cold(log, sequence).seen == seen


def cold(log: list[Line], sequence: int) -> Trail:
    """The state at an event as a worker that just took over reads it: everything there is, in order."""
    state = JourneyState(Trail)
    for line in log:
        try:
            if line.cause:
                state.acted(line.recorded, line.cause)
            elif line.recorded.sequence <= sequence:
                state.observe(line.recorded)
        except PermanentError:
            pass
    return state.view(sequence)


def test_a_burst_of_two_sees_its_own_first_answer() -> None:
    state = JourneyState(Trail)
    state.observe(step(1))
    state.acted(offer(3), cause=1)  # stored after the second step, which is yet to be handled
    state.observe(step(2))
    assert state.view(2).seen == ("step 1", "step 2", "offer 3")
    state.observe(step(4))
    assert state.view(4).seen == ("step 1", "step 2", "offer 3", "step 4")


def test_an_action_is_not_seen_by_its_own_cause_nor_by_earlier_events() -> None:
    state = JourneyState(Trail)
    state.observe(step(1))
    state.acted(offer(5), cause=2)
    assert state.view(1).seen == ("step 1",)
    state.observe(step(2))
    assert state.view(2).seen == ("step 1", "step 2")


def test_what_is_known_is_not_folded_again() -> None:
    state = JourneyState(Trail)
    for _ in range(2):
        state.observe(step(1))
        state.acted(offer(2), cause=1)
    state.observe(offer(2))  # an action that comes back by way of the log
    state.acted(offer(2), cause=1)
    assert state.view(2).seen == ("step 1", "offer 2")
    assert state.sequence == 2


def test_actions_of_a_type_that_is_not_folded_are_not_kept() -> None:
    class Steps(Journey):
        steps: int = 0

        @evolve(StepTaken)
        def stepped(self, event: StepTaken) -> None:
            self.steps += 1

    state = JourneyState(Steps)
    state.acted(offer(3), cause=1)
    state.observe(step(4))
    assert state.view(4).steps == 1
    assert state.sequence == 4


def test_a_view_cannot_go_back() -> None:
    state = JourneyState(Trail)
    state.observe(step(5))
    with pytest.raises(ValueError, match="gone on to 5 and cannot go back to 4"):
        state.view(4)


def test_an_event_that_cannot_be_folded_leaves_no_trace() -> None:
    state = JourneyState(Trail)
    state.observe(step(1))
    before = state.view(1)
    with pytest.raises(
        PermanentError, match=r"Trail.stepped \(.*test_fold.py:\d+\) failed on StepTaken at sequence 2: "
    ):
        state.observe(step(2, -1))
    assert state.view(2) == before
    state.observe(step(3))
    assert state.view(3).seen == ("step 1", "step 3")


def test_an_own_action_that_cannot_be_folded_is_left_out_and_told() -> None:
    state = JourneyState(Trail)
    state.observe(step(1))
    state.acted(offer(3, -1), cause=1)
    state.observe(step(2))
    assert state.view(2).seen == ("step 1", "step 2")
    state.observe(step(4))
    assert state.view(4).seen == ("step 1", "step 2", "step 4")
    assert [str(failure).rsplit(": ", 1)[1] for failure in state.failures] == ["a negative offer"]


def test_views_and_events_share_nothing_that_can_be_changed() -> None:
    event = recorded(StepTaken(customer_id="c1", label=1, marks=[7]), 1)
    state = JourneyState(Trail)
    state.observe(event)
    state.view(1).marks.append(8)
    assert isinstance(event.envelope.event, StepTaken)
    event.envelope.event.marks.append(9)
    assert state.view(1).marks == [7]


def test_a_story_folds_without_timers_and_what_fails() -> None:
    trail = fold(Trail, [step(1), step(2, due=True), step(3, -1), offer(4)])
    assert trail.seen == ("step 1", "offer 4")
    assert trail.last == START + timedelta(seconds=1)
