"""Time as a parameter: the wall clock in production, a virtual one in tests and simulation."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Tells the time. All times are aware and in UTC."""

    @property
    def virtual(self) -> bool:
        """True where time passes only when somebody advances it; timers then live in a heap, not in the server."""
        ...

    def now(self) -> datetime:
        """The present."""
        ...

    def handling(self, event_time: datetime) -> datetime:
        """The moment at which an event of ``event_time`` counts as handled: the present on the wall clock,
        the event's own time on a virtual one, so that what agents see does not depend on the machine's speed."""
        ...


class WallClock:
    """The machine's clock."""

    virtual = False

    def now(self) -> datetime:
        return datetime.now(UTC)

    def handling(self, event_time: datetime) -> datetime:
        return datetime.now(UTC)


class VirtualClock:
    """A clock that moves only when told to, and never backwards."""

    virtual = True

    def __init__(self, start: datetime) -> None:
        if start.tzinfo is None:
            raise ValueError("a virtual clock starts at an aware datetime; add tzinfo=UTC")
        self._now = start.astimezone(UTC)

    def now(self) -> datetime:
        return self._now

    def handling(self, event_time: datetime) -> datetime:
        return event_time

    def advance_to(self, moment: datetime) -> None:
        """Moves on to ``moment``; an earlier one changes nothing."""
        self._now = max(self._now, moment.astimezone(UTC))
