"""How long customers wait when their worker is killed, frozen or cut off: from the raw log's own times."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from itertools import chain
from typing import NamedTuple

from tests.prove.rawlog import VALUABLE, Logs

UNDERWAY = 0.1
"""Seconds after a fault in which an action still counts as its victim's: it may have been on its way."""


class Fault(NamedTuple):
    """Something that happened to a worker or the server. ``time``: seconds since the epoch, on the server's machine;
    ``partitions``: those that its victim owned."""

    kind: str
    time: float
    partitions: frozenset[int]


def handovers(logs: Logs, faults: Iterable[Fault], *, undisturbed: float | None = None) -> dict[str, float]:
    """The longest hand-over of each kind of fault, in seconds: from the fault to the next action in a partition of
    its victim, where one was due there. What else happened meanwhile (the server was killed too) is part of it.

    With ``undisturbed`` only those count during which, and for so many seconds before, nothing else happened."""
    due, actions = _times(logs)
    longest: dict[str, float] = {}
    faults = list(faults)
    times = sorted(fault.time for fault in faults)
    for kind, time, partitions in faults:
        if partitions:
            longest.setdefault(kind, 0.0)
        for partition in partitions:
            there = actions.get(partition, [])
            done = bisect_right(there, time + UNDERWAY)
            # More were due than had been answered: somebody was waiting.
            if done < len(there) and bisect_right(due.get(partition, []), time + UNDERWAY) > done:
                if undisturbed is not None:
                    others = bisect_right(times, there[done]) - bisect_left(times, time - undisturbed)
                    if others > 1:
                        continue
                longest[kind] = max(longest[kind], there[done] - time)
    return longest


def waiting(logs: Logs, times: Iterable[float]) -> list[int]:
    """How many events that deserve an action were stored at each of those times and had none."""
    due, actions = (sorted(chain.from_iterable(found.values())) for found in _times(logs))
    return [bisect_right(due, time) - bisect_right(actions, time) for time in times]


def _times(logs: Logs) -> tuple[dict[int, list[float]], dict[int, list[float]]]:
    """When what deserves an action was stored, and when the actions were, by partition."""
    due: dict[int, list[float]] = {}
    actions: dict[int, list[float]] = {}
    for log in logs.values():
        for record in log:
            _, room, number, _, kind, what, *_ = record.subject.split(".")
            if (room, kind) == ("log", "act"):
                actions.setdefault(int(number), []).append(record.time)
            elif (room, kind) == ("log", "evt") and what != "due" and record.document["data"]["value"] > VALUABLE:
                due.setdefault(int(number), []).append(record.time)
    return due, actions
