"""Clocks tell aware times in UTC; a virtual one moves only when told to, and never back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sojourn.bus.clock import Clock, VirtualClock, WallClock

START = datetime(2026, 1, 1, tzinfo=UTC)
FAR = timezone(timedelta(hours=14))


def test_the_wall_clock_handles_everything_now() -> None:
    clock: Clock = WallClock()
    before = datetime.now(UTC)
    told, handled = clock.now(), clock.handling(START)
    assert before <= told <= handled <= datetime.now(UTC)
    assert told.tzinfo is UTC and not clock.virtual


def test_a_virtual_clock_handles_events_at_their_own_time() -> None:
    clock: Clock = VirtualClock(START)
    assert clock.virtual
    assert clock.handling(START - timedelta(days=3)) == START - timedelta(days=3)
    assert clock.now() == START


@given(st.lists(st.datetimes(timezones=st.timezones()).filter(lambda moment: 1 < moment.year < 9999)))
def test_a_virtual_clock_never_goes_back_and_stays_in_utc(moments: list[datetime]) -> None:
    clock = VirtualClock(START.astimezone(FAR))
    latest = START
    for moment in moments:
        clock.advance_to(moment)
        latest = max(latest, moment)
        assert clock.now() == latest
        assert clock.now().tzinfo is UTC


def test_a_naive_start_is_refused() -> None:
    with pytest.raises(ValueError, match="add tzinfo=UTC"):
        VirtualClock(datetime(2026, 1, 1))  # noqa: DTZ001 - that is the point
