"""The figures of lag, for a partition, a group or all of them, and what follows from them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, NamedTuple

Trend = Literal["idle", "steady", "draining", "growing", "standing", "unknown"]


class Figures(NamedTuple):
    """How much waits, for how long, and what becomes of it.

    ``pending`` was not delivered yet, ``in_flight`` was, and is not handled. ``parked`` counts customers whose events
    wait for a later attempt or for an operator. ``oldest`` is the age in seconds of the oldest event that is not
    handled, parked ones included, None where there is none. ``arriving`` and ``leaving`` are events a second between
    two looks, None after the first.
    """

    pending: int = 0
    in_flight: int = 0
    parked: int = 0
    oldest: float | None = None
    arriving: float | None = None
    leaving: float | None = None

    @property
    def waiting(self) -> int:
        """Events that are not handled, parked ones aside."""
        return self.pending + self.in_flight

    @property
    def drain(self) -> float | None:
        """Seconds until nothing waits, should things go on like this; None where it does not get less."""
        if self.arriving is None or self.leaving is None or not self.waiting or self.leaving <= self.arriving:
            return None
        return self.waiting / (self.leaving - self.arriving)

    @property
    def trend(self) -> Trend:
        """Where it is heading. ``steady``: as much leaves as comes; ``standing``: something waits and nothing moves."""
        if self.arriving is None or self.leaving is None:
            return "unknown"
        if not self.waiting:
            return "steady" if self.arriving else "idle"
        if self.leaving > self.arriving:
            return "draining"
        if self.arriving > self.leaving:
            return "growing"
        return "steady" if self.arriving else "standing"


def total(figures: Iterable[Figures]) -> Figures:
    """The sum; of the ages the highest. Rates are known where all of them are."""
    parts = list(figures)
    if not parts:
        return Figures()
    return Figures(
        sum(one.pending for one in parts),
        sum(one.in_flight for one in parts),
        sum(one.parked for one in parts),
        max((one.oldest for one in parts if one.oldest is not None), default=None),
        _sum(one.arriving for one in parts),
        _sum(one.leaving for one in parts),
    )


def _sum(rates: Iterable[float | None]) -> float | None:
    result = 0.0
    for rate in rates:
        if rate is None:
            return None
        result += rate
    return result


@dataclass(frozen=True, slots=True)
class PartitionLag:
    """One partition of one group. ``worker`` runs it, None where nobody does, or nothing tells."""

    partition: int
    figures: Figures
    worker: str | None = None


@dataclass(frozen=True, slots=True)
class GroupLag:
    """One group. ``ran``: it has a position; one that never ran begins at the present, so nothing waits for it.

    ``paused``: all its ``writers`` are. ``unmeasured`` are partitions whose stream did not answer; the figures leave
    them out.
    """

    name: str
    figures: Figures
    partitions: tuple[PartitionLag, ...] = ()
    unmeasured: tuple[int, ...] = ()
    writers: tuple[str, ...] = ()
    paused: bool = False
    ran: bool = True

    @property
    def workers(self) -> int:
        """How many workers run partitions of it."""
        return len({one.worker for one in self.partitions if one.worker is not None})


@dataclass(frozen=True, slots=True)
class Lag:
    """The lag of a namespace at ``time``.

    ``owned``: the bucket that tells who runs what is there. ``failures``: by stream, why it could not be measured.
    ``truncated``: there were so many records of parking that only the latest were read.
    """

    namespace: str
    time: datetime
    groups: tuple[GroupLag, ...]
    owned: bool = False
    failures: Mapping[str, str] = field(default_factory=dict)
    truncated: bool = False

    @property
    def figures(self) -> Figures:
        return total(group.figures for group in self.groups if group.ran)
