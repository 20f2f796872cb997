"""Virtual timers by customer: customers are at different moments of virtual time, so each has timers of its own."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import count

from sojourn.bus.ports import Append
from sojourn.bus.timers import DueTimer


class CustomerTimers:
    """Timers on virtual time, kept apart by customer (`sojourn.bus.timers.Timers`). Customers are named by their
    escaped keys.

    A timer that is replaced or cancelled is gone at once. Of timers due at the same moment, the one with the smaller
    subject comes first, so that the order does not depend on who was faster.
    """

    def __init__(self) -> None:
        self._open: dict[str, dict[str, DueTimer]] = {}
        self._order = count()
        self._changed: set[str] = set()

    def headers(self, append: Append) -> dict[str, str]:
        return {}

    def stored(self, stream: str, appends: Iterable[Append]) -> None:
        for append in appends:
            if append.unschedule is not None:
                self._drop(append.unschedule)
            if append.schedule is not None:
                at, target = append.schedule
                token = _token(append.subject)
                self._open.setdefault(token, {})[append.subject] = DueTimer(
                    at, append.subject, next(self._order), stream, target, append.payload
                )
                self._changed.add(token)

    def next(self, token: str) -> DueTimer | None:
        """The customer's earliest open timer."""
        timers = self._open.get(token)
        return min(timers.values()) if timers else None

    def pop(self, token: str) -> DueTimer:
        """Removes and returns the customer's earliest open timer. Raises `LookupError` where none is open."""
        timer = min(self._open[token].values())
        self._drop(timer.subject)
        return timer

    def subjects(self, token: str) -> list[str]:
        """The subjects of the customer's open timers."""
        return list(self._open.get(token, ()))

    def changed(self) -> set[str]:
        """Customers whose timers were set or cancelled since the last call."""
        changed, self._changed = self._changed, set()
        return changed

    def __len__(self) -> int:
        return sum(map(len, self._open.values()))

    def _drop(self, subject: str) -> None:
        token = _token(subject)
        timers = self._open.get(token)
        if timers is None or timers.pop(subject, None) is None:
            return
        self._changed.add(token)
        if not timers:
            del self._open[token]


def _token(subject: str) -> str:
    # {ns}.timer.{p}.{key}.{writer}.…
    return subject.split(".", 4)[3]
