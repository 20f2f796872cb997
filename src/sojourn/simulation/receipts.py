"""What is stored, and what only the log knows of: answers that an outage swallowed are made up for.

On virtual time, the timers, the driver and the worker's idea of being caught up live by what the committer tells
them. After an outage it may not have learnt that something was stored. All messages of a run come through one
committer, so the sequences that it told of show whether any is missing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from time import monotonic
from typing import TypeVar

import structlog
from pydantic_core import from_json

from sojourn.bus.client import Bus
from sojourn.bus.errors import TransientError
from sojourn.bus.ports import Append, Schedule, Stored
from sojourn.bus.publisher import PATIENCE
from sojourn.simulation.timers import CustomerTimers

T = TypeVar("T")

_PAUSE = 0.2
"""Between two attempts to read through an outage, in seconds of the wall clock."""

log = structlog.get_logger("sojourn.simulation")


class Receipts:
    """Compares what the committer told of (`observe`, to be among its observers) with what the streams hold.

    ``tell`` is called once for each message, with its sequence.
    """

    def __init__(self, bus: Bus, timers: CustomerTimers, tell: Callable[[Append, int], None]) -> None:
        self._bus = bus
        self._timers = timers
        self._tell = tell
        self._complete: dict[str, int] = {}
        self._observed: dict[str, set[int]] = {}

    def observe(self, stream: str, appends: Sequence[Append], sequences: Sequence[int]) -> None:
        """Takes note of what the committer tells. What was made up for meanwhile is told once all the same."""
        complete, observed = self._complete[stream], self._observed[stream]
        for append, sequence in zip(appends, sequences, strict=True):
            if sequence > complete and sequence not in observed:
                observed.add(sequence)
                self._tell(append, sequence)

    async def begin(self) -> None:
        """Starts from what the streams hold now."""
        for stream in self._bus.namespace.streams:
            self._complete[stream] = await self._last(stream)
            self._observed[stream] = set()

    async def complete(self) -> bool:
        """Whether the committer told of everything that was stored since the last call.

        If not, its observers and the timers are told now: what they led to has to be waited for again.
        """
        streams = self._bus.namespace.streams
        lasts = await asyncio.gather(*(self._last(stream) for stream in streams))
        complete = True
        for stream, last in zip(streams, lasts, strict=True):
            if last != self._complete[stream] + len(self._observed[stream]):
                complete = False
                await self._make_up(stream, last)
            self._complete[stream] = last
            self._observed[stream] = {sequence for sequence in self._observed[stream] if sequence > last}
        return complete

    async def _make_up(self, stream: str, last: int) -> None:
        everything, start = f"{self._bus.namespace.name}.>", self._complete[stream] + 1
        messages = await patiently(lambda: self._bus.transport.read(stream, everything, start))
        observed, missed = self._observed[stream], 0
        for message in messages:
            if message.sequence > last:
                break
            missed += message.sequence not in observed
            # Known ones too, in their order: whoever keeps the latest (a timer that was replaced since, the sequence
            # up to which a partition has to be handled) must not end with an older one.
            self._replay_timers(stream, message)
            for observer in self._bus.committer.observers:
                observer(stream, [Append(message.subject, message.payload)], [message.sequence])
        log.info("stored without an answer", stream=stream, messages=missed)

    def _replay_timers(self, stream: str, message: Stored) -> None:
        namespace = self._bus.namespace
        match message.subject.split("."):
            case [_, "timer", _, token, writer, name]:
                at = datetime.fromisoformat(from_json(message.payload)["time"])
                target = namespace.due(namespace.locate_token(token, token), writer, name)
                self._timers.stored(stream, [Append(message.subject, message.payload, schedule=Schedule(at, target))])
            case [_, "lane", partition, token, "act", writer, "out" | "dead"]:
                prefix = f"{namespace.name}.timer.{partition}.{token}.{writer}."
                still_open = {prefix + name for name in from_json(message.payload)["timers"]}
                for subject in self._timers.subjects(token):
                    if subject.startswith(prefix) and subject not in still_open:
                        self._timers.stored(stream, [Append(message.subject, message.payload, unschedule=subject)])

    async def _last(self, stream: str) -> int:
        state = await patiently(lambda: self._bus.transport.stream_state(stream))
        return state.last if state is not None else 0


async def patiently(call: Callable[[], Awaitable[T]]) -> T:
    """Calls again through an outage of up to a minute."""
    deadline = monotonic() + PATIENCE
    while True:
        try:
            return await call()
        except TransientError:
            if monotonic() >= deadline:
                raise
            await asyncio.sleep(_PAUSE)
