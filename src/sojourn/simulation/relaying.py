"""Output for other customers on virtual time: taken to them in an order in which the speed of nothing shows.

Workers take each event along as soon as it is stored, so what comes first at a customer who is told of something by
several others, or does something meanwhile, is a matter of speed. Here all of them wait until nothing else goes on.
Then each customer gets one: of the first events of each lane the earliest, and where several are from the same time the
one of the smaller lane.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Awaitable, Callable
from datetime import datetime
from functools import partial
from typing import NamedTuple

from pydantic_core import from_json

from sojourn.bus.client import Bus
from sojourn.bus.crossing import Crossing, read_record
from sojourn.bus.ports import Append, Expectation
from sojourn.simulation.receipts import patiently


class _Waiting(NamedTuple):
    """A record, by its sequence in the stream of the customer it is from."""

    sequence: int
    time: datetime
    crossing: Crossing


class Relaying:
    """Takes the place of the workers' relay. ``hear`` has them take account of what was registered last: the first
    event for another customer may be one that an agent here has not been reading so far."""

    def __init__(self, bus: Bus, hear: Callable[[], Awaitable[None]]) -> None:
        self._bus = bus
        self._hear = hear
        self._heard: set[str] = set()
        self._room = f"{bus.namespace.name}.lane."
        self._waiting: dict[str, dict[str, list[_Waiting]]] = {}
        """By customer and lane; of each lane a heap."""

    def note(self, append: Append, sequence: int) -> None:
        """Takes note of what was stored: records of events for others are kept."""
        if not (append.subject.startswith(self._room) and append.subject.endswith(".relay")):
            return
        crossing = read_record(self._bus.namespace, append.subject, append.payload, sequence)
        time = datetime.fromisoformat(from_json(crossing.payload)["time"])
        lanes = self._waiting.setdefault(crossing.subject.split(".")[3], {})
        heapq.heappush(lanes.setdefault(crossing.lane, []), _Waiting(sequence, time, crossing))

    async def deliver(self) -> bool:
        """Stores the next event for each customer for whom one waits; False where there is none. Raises what an outage
        of more than a minute met."""
        due = [self._next(token) for token in list(self._waiting)]
        if not due:
            return False
        kinds = {one.crossing.subject.partition(".act.")[2].partition("~")[0] for one in due}
        kinds |= {one.crossing.subject.rpartition(".")[2] for one in due}
        if not kinds <= self._heard:
            await self._hear()
            self._heard |= kinds
        await asyncio.gather(*(patiently(partial(self._take, one)) for one in due))
        return True

    def _next(self, token: str) -> _Waiting:
        lanes = self._waiting[token]
        lane = min(lanes, key=lambda lane: (lanes[lane][0].time, lane))
        taken = heapq.heappop(lanes[lane])
        if not lanes[lane]:
            del lanes[lane]
        if not lanes:
            del self._waiting[token]
        return taken

    async def _take(self, one: _Waiting) -> None:
        """As the relay does: the last event of the lane tells whether an answer was lost."""
        stream, lane, subject, payload = one.crossing
        last = await self._bus.transport.last(stream, lane)
        if last is None or from_json(last.payload)["causeseq"] < one.sequence:
            expect = Expectation(lane, last.sequence if last is not None else 0)
            await self._bus.committer.store(stream, [Append(subject, payload, expect)])
