from __future__ import annotations

from datetime import timedelta

from sojourn.bus.durations import days, hours, minutes


def test_durations_are_timedeltas() -> None:
    assert days(3) == timedelta(days=3)
    assert hours(36) == days(1.5)
    assert minutes(90) == hours(1.5)
