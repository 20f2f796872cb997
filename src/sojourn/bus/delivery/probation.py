"""Probation: finds the event that kills its process, without stopping all the others for it.

After one crash everything that was in flight simply runs again. Where the next owner dies too before all of that is
closed, one of those events may be the reason. From then on each of them runs only after an ``attempt`` record, which
survives the process, and few of them at a time: the fewer, the more records it has, in the end alone; what came later
waits. So the guilty one gathers records and the others do not, and is dead-lettered unexecuted in the end.

Workers also die for reasons of their own, again and again where something is wrong with their machine. Whoever has
records therefore comes after those that have fewer, after a moment and in an order of chance: so what can be handled is
handled before the guilty one runs, and it is not always the same innocent, the first in the log, that is in flight when
a worker dies.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Hashable

CRASHES = 2
"""Owners in a row that died with an event in flight, from which on it runs on probation."""

ATTEMPTS = 4
"""Attempt records after which an event is not run any more."""

TOGETHER = (16, 4, 1)
"""Events on probation that run at a time, by the records that the most tried of them has."""

MOMENT = 0.5
"""Seconds that an event which has a record waits at most before it runs for the first time in a process."""


class Probation:
    """Who of the suspects of one worker may run."""

    def __init__(self, chance: random.Random | None = None) -> None:
        self._chance = chance or random.Random()  # noqa: S311 - guards nothing
        self._running = 0
        self._limit = TOGETHER[0]
        self._came: set[Hashable] = set()
        self._waiting: list[tuple[int, Callable[[], None]]] = []

    def enter(self, cause: Hashable, tried: int, again: Callable[[], None]) -> bool:
        """Whether a suspect with that many records may run now. Where not, ``again`` is called once it is worth another
        try."""
        if tried and cause not in self._came:
            self._came.add(cause)
            asyncio.get_running_loop().call_later(self._chance.random() * MOMENT, again)
            return False
        limit = min(self._limit, TOGETHER[min(tried, len(TOGETHER) - 1)])
        if self._running >= limit:
            self._waiting.append((tried, again))
            return False
        self._running += 1
        self._limit = limit
        self._came.discard(cause)
        return True

    def leave(self) -> None:
        """One that ran has ended."""
        self._running -= 1
        if not self._running:
            self._limit = TOGETHER[0]
        waiting, self._waiting = self._waiting, []
        self._chance.shuffle(waiting)
        for _, again in sorted(waiting, key=lambda one: one[0]):
            again()
