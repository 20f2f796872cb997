"""The driver of virtual time: lets customers live, and time pass only when agents and timers are quiescent.

Customers do not depend on each other, so all of them go on at once: in each round, every customer who has something
to do in the present window of virtual time does one thing, the earliest: an event of its own, or a timer that comes
due (at the same instant the event goes first). All of that is stored together. Then the driver waits until every
agent has closed everything that was stored, their own actions included, and shows the actions to the customers, who
may change their plans. What one customer sees is thereby the same however fast the machine is, whatever the engine
and however long the window; the window only bounds how far customers are apart.

Where an agent puts out events for other customers, these do depend on each other. The driver takes the events there
itself, one for each customer at a time, before the round is over: still the same on every machine and engine, but what
somebody hears of others, and when, is a matter of how far customers are apart, so of the window.
"""

from __future__ import annotations

import heapq
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from sojourn.bus.client import Bus
from sojourn.bus.clock import VirtualClock
from sojourn.bus.envelope import Envelope, decode
from sojourn.bus.errors import ConfigurationError, HandlerError, PublishError
from sojourn.bus.event import Event
from sojourn.bus.ports import Append
from sojourn.bus.reading import Reader
from sojourn.bus.subjects import LogSubject, parse_log_subject, unescape_key
from sojourn.simulation.firing import Firing
from sojourn.simulation.receipts import Receipts
from sojourn.simulation.relaying import Relaying
from sojourn.simulation.timeline import Timeline
from sojourn.simulation.timers import CustomerTimers


class Progress(NamedTuple):
    """How far a run is. ``now`` is virtual time, between ``start`` and ``end``; ``customers`` have done something so
    far."""

    start: datetime
    now: datetime
    end: datetime
    events: int
    timers: int
    actions: int
    customers: int

    @property
    def fraction(self) -> float:
        """The part of the virtual time that has passed, 0 to 1."""
        whole = self.end - self.start
        return (self.now - self.start) / whole if whole else 1.0


class Action(NamedTuple):
    """An action as the driver saw it stored. ``envelope`` is None where nobody here knows its type."""

    subject: LogSubject
    sequence: int
    envelope: Envelope[Event] | None


class Driver:
    """Drives the timelines over an open bus until ``end``, which nothing reaches: neither events nor timers.

    ``timers`` are those that the bus's transport was opened with, ``types`` the event types that actions are decoded
    by, ``quiet`` returns when every agent has closed everything stored through the bus's committer
    (`Worker.caught_up`), ``hear`` has the agents take account of what was registered meanwhile (`Worker.widen`); the
    worker leaves output for other customers to the driver. ``window`` of virtual time. ``on_progress`` is called after
    every round, ``on_action`` for each action, in the order of virtual time within a round. Raises
    `ConfigurationError` where two timelines have the same key.
    """

    def __init__(
        self,
        bus: Bus,
        timers: CustomerTimers,
        timelines: Iterable[Timeline],
        *,
        clock: VirtualClock,
        end: datetime,
        quiet: Callable[[], Awaitable[None]],
        hear: Callable[[], Awaitable[None]],
        types: Mapping[str, type[Event]],
        window: timedelta = timedelta(hours=6),
        source: str | None = None,
        on_progress: Callable[[Progress], None] | None = None,
        on_action: Callable[[Action], None] | None = None,
    ) -> None:
        self._bus = bus
        self._timers = timers
        self._clock = clock
        self._start = clock.now()
        self._end = end
        self._window = window
        self._quiet = quiet
        self._types = types
        self._source = source
        self._on_progress = on_progress
        self._on_action = on_action
        self._timelines: dict[str, Timeline] = {}
        for timeline in timelines:
            token = bus.namespace.locate(timeline.key).token
            if token in self._timelines:
                raise ConfigurationError(f"two customers have the key {timeline.key!r}: give each one of its own")
            self._timelines[token] = timeline
        self._relaying = Relaying(bus, hear)
        self._receipts = Receipts(bus, timers, self._note)
        self._agenda: list[tuple[datetime, str]] = []
        self._planned: dict[str, datetime] = {}
        self._latest: dict[str, datetime] = {}
        self._stored: list[tuple[Append, int]] = []
        self._log_prefix = f"{bus.namespace.name}.log."
        self.published: set[str] = set()
        self.fired = 0
        self.actions = 0

    async def run(self) -> None:
        """Runs to the end of virtual time. When it is cancelled, what is stored stays stored, and nothing is left
        running.

        Raises what made storing impossible (`PublishError`'s reason), and `HandlerError` for a timeline that goes
        back in time.
        """
        for token in self._timelines:
            self._plan(token)
        await self._receipts.begin()
        observers = self._bus.committer.observers
        observers.append(self._receipts.observe)
        try:
            while self._agenda:
                opens = self._agenda[0][0]
                until = self._end_of_window(opens)
                while due := self._pop_before(until):
                    await self._round(due)
                    self._report(min(opens, self._end))
                if until >= self._end:
                    break
                self._clock.advance_to(until)
            self._clock.advance_to(self._end)
            self._report(self._end)
        finally:
            observers.remove(self._receipts.observe)

    def _end_of_window(self, moment: datetime) -> datetime:
        """Windows stand on a grid from the start; those in which nothing happens are skipped."""
        passed = max(moment - self._start, timedelta(0)) // self._window
        return min(self._start + (passed + 1) * self._window, self._end)

    def _plan(self, token: str) -> None:
        """Puts the customer's earliest next thing on the agenda. An entry that no longer holds is skipped when it
        comes up."""
        timeline, timer = self._timelines.get(token), self._timers.next(token)
        at = timeline.next_at() if timeline is not None else None
        if timer is not None and (at is None or timer.at < at):
            at = timer.at
        if at is None:
            self._planned.pop(token, None)
        elif self._planned.get(token) != at:
            self._planned[token] = at
            heapq.heappush(self._agenda, (at, token))

    def _pop_before(self, until: datetime) -> list[str]:
        """The customers with something to do before ``until``, each once."""
        due: list[str] = []
        while self._agenda and self._agenda[0][0] < until:
            at, token = heapq.heappop(self._agenda)
            if self._planned.get(token) == at:
                del self._planned[token]
                due.append(token)
        return due

    async def _round(self, due: Sequence[str]) -> None:
        try:
            await self._store(due)
        except ExceptionGroup as group:
            raise _first(group) from group
        await self._settle()
        while await self._relaying.deliver():
            await self._settle()
        touched = self._timers.changed().union(due)
        touched.update(self._show_actions())
        for token in touched:
            self._plan(token)

    async def _settle(self) -> None:
        await self._quiet()
        while not await self._receipts.complete():
            await self._quiet()

    async def _store(self, due: Iterable[str]) -> None:
        firing = Firing(self._bus.committer)
        async with self._bus.publisher() as publisher:
            for token in due:
                timeline, timer = self._timelines.get(token), self._timers.next(token)
                at = timeline.next_at() if timeline is not None else None
                if timeline is not None and at is not None and (timer is None or at <= timer.at):
                    happening = timeline.take()
                    self._check_order(token, timeline, happening.time)
                    await publisher.publish(happening.event, id=happening.id, time=happening.time, source=self._source)
                    self.published.add(happening.id)
                elif timer is not None:
                    self._timers.pop(token)
                    self._latest[token] = max(timer.at, self._latest.get(token, timer.at))
                    firing.fire(timer)
                    self.fired += 1
        await firing.flush()

    def _check_order(self, token: str, timeline: Timeline, time: datetime) -> None:
        latest = self._latest.get(token, time)
        if time < latest:
            raise HandlerError(
                f"the timeline of customer {timeline.key!r} goes back in time, from {latest.isoformat()} to "
                f"{time.isoformat()}: what it does next must not be earlier than what it did or saw"
            )
        self._latest[token] = time

    def _note(self, append: Append, sequence: int) -> None:
        self._relaying.note(append, sequence)
        if ".act." in append.subject and append.subject.startswith(self._log_prefix):
            self._stored.append((append, sequence))

    def _show_actions(self) -> set[str]:
        """Shows this round's actions to their customers, and returns whose plans may have changed."""
        if not self._stored:
            return set()
        actions = [self._read(append, sequence) for append, sequence in self._stored]
        self._stored.clear()
        self.actions += len(actions)
        # One writer's actions are in its order; between writers who acted at the same time, names decide, not speed.
        actions.sort(key=_order)
        for action in actions:
            timeline = self._timelines.get(action.subject.token)
            if timeline is not None and action.envelope is not None:
                timeline.react(action.envelope)
            if self._on_action is not None:
                self._on_action(action)
        return {action.subject.token for action in actions}

    def _read(self, append: Append, sequence: int) -> Action:
        subject = parse_log_subject(append.subject)
        assert subject is not None, append.subject
        cls = self._types.get(subject.name)
        if cls is None:
            return Action(subject, sequence, None)
        reader = Reader(self._bus.schemas, self._bus.keys.cached(unescape_key(subject.token)))
        return Action(subject, sequence, decode(append.payload, cls, reader))

    def _report(self, now: datetime) -> None:
        if self._on_progress is not None:
            self._on_progress(
                Progress(self._start, now, self._end, len(self.published), self.fired, self.actions, len(self._latest))
            )


def _order(action: Action) -> tuple[float, str, int]:
    time = action.envelope.time.timestamp() if action.envelope is not None else 0.0
    return time, action.subject.writer or "", action.sequence


def _first(group: ExceptionGroup[Exception]) -> Exception:
    """The first reason in a group of failures: one is enough to end a run."""
    error: Exception = group
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error.reason if isinstance(error, PublishError) else error
