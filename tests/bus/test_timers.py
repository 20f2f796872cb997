"""Timers: what the server is told, and the heap that stands in for it on virtual time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

from hypothesis import given
from hypothesis import strategies as st

from sojourn.bus.ports import Append, Schedule
from sojourn.bus.timers import DueTimer, JetStreamTimers, VirtualTimers

START = datetime(2026, 1, 1, tzinfo=UTC)


def timer(name: str, seconds: float, payload: bytes = b"") -> Append:
    return Append(f"s.timer.1.{name}", payload, schedule=Schedule(START + timedelta(seconds=seconds), f"s.due.{name}"))


def names(due: list[DueTimer]) -> list[str]:
    return [one.subject.removeprefix("s.timer.1.") for one in due]


def test_the_server_is_told_in_utc_with_microseconds() -> None:
    at = datetime(2026, 3, 1, 14, 30, 0, 5, tzinfo=timezone(timedelta(hours=2)))
    append = Append("s.timer.1.k", b"", schedule=Schedule(at, "s.due.k"), unschedule="s.timer.1.old")
    assert JetStreamTimers().headers(append) == {
        "Nats-Schedule": "@at 2026-03-01T12:30:00.000005Z",
        "Nats-Schedule-Target": "s.due.k",
        "Nats-Schedule-Next": "purge",
        "Nats-Scheduler": "s.timer.1.old",
    }
    assert JetStreamTimers().headers(Append("s.log.1.k", b"")) == {}
    assert VirtualTimers().headers(append) == {}


def test_timers_come_due_in_order_of_time_and_then_of_name() -> None:
    timers = VirtualTimers()
    timers.stored("S", [timer("late", 9), timer("b", 5), timer("a", 5), timer("early", 1)])
    assert timers.next_due() == START + timedelta(seconds=1)
    assert names(timers.pop_due(START + timedelta(seconds=5))) == ["early", "a", "b"]
    assert timers.pop_due(START + timedelta(seconds=8.9)) == []
    assert names(timers.pop_due(START + timedelta(seconds=9))) == ["late"]
    assert timers.next_due() is None


def test_a_later_one_replaces_and_unschedule_drops() -> None:
    timers = VirtualTimers()
    timers.stored("S", [timer("moved", 1, b"old"), timer("dropped", 1)])
    timers.stored("S", [timer("moved", 3, b"new"), Append("s.lane.1", b"", unschedule="s.timer.1.dropped")])
    assert timers.next_due() == START + timedelta(seconds=3)
    due = timers.pop_due(START + timedelta(days=1))
    assert [(one.stream, one.target, one.payload) for one in due] == [("S", "s.due.moved", b"new")]


def test_one_append_may_drop_the_old_timer_and_set_the_new_one() -> None:
    timers = VirtualTimers()
    timers.stored("S", [timer("t", 1)])
    again = Append("s.timer.1.t", b"", schedule=Schedule(START, "s.due.t"), unschedule="s.timer.1.t")
    timers.stored("S", [again])
    assert names(timers.pop_due(START)) == ["t"]


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 50), st.booleans())))
def test_each_open_timer_fires_exactly_once(steps: list[tuple[int, int, bool]]) -> None:
    timers = VirtualTimers()
    opened: dict[str, int] = {}
    for number, seconds, drop in steps:
        name = f"t{number}"
        if drop:
            timers.stored("S", [Append("s.lane.1", b"", unschedule=f"s.timer.1.{name}")])
            opened.pop(name, None)
        else:
            timers.stored("S", [timer(name, seconds)])
            opened[name] = seconds
    fired: list[str] = []
    while (at := timers.next_due()) is not None:
        due = timers.pop_due(at)
        assert due and all(one.at == at for one in due)
        fired += names(due)
    assert fired == sorted(opened, key=lambda name: (opened[name], name))
