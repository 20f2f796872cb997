"""Durable timers: JetStream schedules on the wall clock, a heap on a virtual one."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from datetime import UTC, datetime
from itertools import count
from typing import NamedTuple, Protocol

from sojourn.bus.ports import Append


class Timers(Protocol):
    """How a transport turns the schedules of appends into something that fires."""

    def headers(self, append: Append) -> dict[str, str]:
        """Headers that the server needs to schedule or unschedule; empty where the heap does it."""
        ...

    def stored(self, stream: str, appends: Iterable[Append]) -> None:
        """Told after the appends are durable."""
        ...


class JetStreamTimers:
    """Timers kept by the server. Source: NATS ADR-51, `Nats-Schedule`, nats-server 2.14."""

    def headers(self, append: Append) -> dict[str, str]:
        headers: dict[str, str] = {}
        if append.schedule is not None:
            at = append.schedule.at.astimezone(UTC)
            headers["Nats-Schedule"] = f"@at {at:%Y-%m-%dT%H:%M:%S}.{at.microsecond:06d}Z"
            headers["Nats-Schedule-Target"] = append.schedule.target
        if append.unschedule is not None:
            headers["Nats-Schedule-Next"] = "purge"
            headers["Nats-Scheduler"] = append.unschedule
        return headers

    def stored(self, stream: str, appends: Iterable[Append]) -> None:
        return


class DueTimer(NamedTuple):
    """A timer that has come due: store ``payload`` under ``target`` in ``stream``."""

    at: datetime
    subject: str
    order: int
    stream: str
    target: str
    payload: bytes


class VirtualTimers:
    """Timers on virtual time: a heap ordered by due time, then by subject, so that the order does not depend on who
    was faster."""

    def __init__(self) -> None:
        self._heap: list[DueTimer] = []
        self._live: dict[str, int] = {}
        self._order = count()

    def headers(self, append: Append) -> dict[str, str]:
        return {}

    def stored(self, stream: str, appends: Iterable[Append]) -> None:
        for append in appends:
            if append.unschedule is not None:
                self._live.pop(append.unschedule, None)
            if append.schedule is not None:
                timer = DueTimer(
                    append.schedule.at,
                    append.subject,
                    next(self._order),
                    stream,
                    append.schedule.target,
                    append.payload,
                )
                self._live[append.subject] = timer.order
                heapq.heappush(self._heap, timer)

    def next_due(self) -> datetime | None:
        """When the earliest open timer is due."""
        while self._heap and self._live.get(self._heap[0].subject) != self._heap[0].order:
            heapq.heappop(self._heap)
        return self._heap[0].at if self._heap else None

    def pop_due(self, until: datetime) -> list[DueTimer]:
        """Removes and returns the open timers due at or before ``until``, earliest first."""
        due: list[DueTimer] = []
        while (at := self.next_due()) is not None and at <= until:
            timer = heapq.heappop(self._heap)
            del self._live[timer.subject]
            due.append(timer)
        return due
