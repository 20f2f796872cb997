"""What a benchmark measures, and what its rounds say together: medians, and the range that holds them. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import comb
from statistics import median
from typing import NamedTuple


class Pass(NamedTuple):
    """One variant, once: how many events it took, for how long, in seconds, and this process's share of them in seconds
    of CPU."""

    events: int
    seconds: float
    cpu: float

    @property
    def rate(self) -> float:
        """Events a second."""
        return self.events / self.seconds


class Spread(NamedTuple):
    """The median of several rounds; ``low`` to ``high`` holds the true one with a certainty of 95 % or more, as far as
    the rounds are independent."""

    median: float
    low: float
    high: float


def spread(values: Sequence[float]) -> Spread:
    """The median and its range between two of the values, which supposes nothing about how they are distributed.

    Fewer than six values tell no such range: then it is that of all of them. Source: order statistics, the number of
    values below the median is binomial.
    """
    ordered = sorted(values)
    n = len(ordered)
    cut, outside = 0, 2 / 2**n
    while cut + 1 < n - cut - 1 and outside + 2 * comb(n, cut + 1) / 2**n <= 0.05:
        cut += 1
        outside += 2 * comb(n, cut) / 2**n
    return Spread(median(ordered), ordered[cut], ordered[n - 1 - cut])


@dataclass
class Comparison:
    """A variant held against another one, in rounds. ``promise``: what it may cost at most, as a share of the first
    one's throughput; None where that is only information."""

    name: str
    title: str
    first: str
    second: str
    promise: float | None = None
    fsync: str = ""
    rounds: list[tuple[Pass, Pass]] = field(default_factory=list)
    notes: dict[str, float | str] = field(default_factory=dict)

    @property
    def cost(self) -> Spread:
        """The share of its throughput that the first loses by what the second adds; below 0 it gains."""
        return spread([1 - second.rate / first.rate for first, second in self.rounds])

    @property
    def cpu_cost(self) -> Spread:
        """How much more of this process's CPU an event takes, as a share."""
        return spread([(second.cpu / second.events) / (first.cpu / first.events) - 1 for first, second in self.rounds])

    @property
    def rates(self) -> tuple[float, float]:
        """Median events a second of both."""
        return median(a.rate for a, _ in self.rounds), median(b.rate for _, b in self.rounds)

    @property
    def cpu(self) -> tuple[float, float]:
        """Median microseconds of this process's CPU for an event, of both."""
        return (
            median(a.cpu / a.events for a, _ in self.rounds) * 1e6,
            median(b.cpu / b.events for _, b in self.rounds) * 1e6,
        )

    @property
    def verdict(self) -> str:
        """What became of the promise: ``kept``, ``broken``, or ``open`` where it lies within the noise of the rounds;
        nothing where none was made."""
        if self.promise is None:
            return ""
        return "kept" if self.cost.high < self.promise else "broken" if self.cost.low > self.promise else "open"

    def facts(self) -> dict[str, object]:
        """All of it, for a JSON document."""
        return {
            "name": self.name,
            "title": self.title,
            "first": self.first,
            "second": self.second,
            "fsync": self.fsync,
            "promise": self.promise,
            "verdict": self.verdict,
            "cost": self.cost._asdict(),
            "cpu_cost": self.cpu_cost._asdict(),
            "events_per_second": self.rates,
            "cpu_us_per_event": self.cpu,
            "rounds": [[one._asdict() for one in pair] for pair in self.rounds],
            "notes": self.notes,
        }
