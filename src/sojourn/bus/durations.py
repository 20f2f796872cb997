"""Durations, said as they are spoken: ``days(3)``, ``hours(12)``, ``minutes(30)``."""

from __future__ import annotations

from datetime import timedelta


def days(count: float) -> timedelta:
    """That many days of 24 hours each, whatever the calendar does in between."""
    return timedelta(days=count)


def hours(count: float) -> timedelta:
    """That many hours."""
    return timedelta(hours=count)


def minutes(count: float) -> timedelta:
    """That many minutes."""
    return timedelta(minutes=count)
