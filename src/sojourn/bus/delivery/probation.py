"""Probation: finds the event that kills its process, without stopping all the others for it.

After one crash everything that was in flight simply runs again. Where the next owner dies too before all of that is
closed, one of those events may be the reason. From then on each of them runs only after an ``attempt`` record, which
survives the process, and few of them at a time; whoever has a record already runs alone, and what came later waits. So
the guilty one gathers records and the others do not, and is dead-lettered unexecuted in the end.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

CRASHES = 2
"""Owners in a row that died with an event in flight, from which on it runs on probation."""

ATTEMPTS = 3
"""Attempt records after which an event is not run any more."""

TOGETHER = 16
"""Events on probation that run at a time, unless one of them runs alone."""


class Probation:
    """Who of the suspects of one worker may run."""

    def __init__(self) -> None:
        self._running = 0
        self._alone = False
        self._waiting: deque[tuple[bool, Callable[[], None]]] = deque()

    def enter(self, alone: bool, again: Callable[[], None]) -> bool:
        """Whether a suspect may run now. Where not, ``again`` is called once it is worth another try."""
        if self._alone or self._running >= (1 if alone else TOGETHER):
            self._waiting.append((alone, again))
            return False
        self._running += 1
        self._alone = alone
        return True

    def leave(self) -> None:
        """One that ran has ended."""
        self._running -= 1
        self._alone = False
        waiting, self._waiting = self._waiting, deque()
        # Those that run alone come first: one of them is the most likely reason.
        for _, again in sorted(waiting, key=lambda one: not one[0]):
            again()
