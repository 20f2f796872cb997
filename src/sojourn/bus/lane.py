"""Lanes: what one writer has done for one customer, and the appends that extend it.

A lane is the messages matching ``{ns}.*.{p}.{key}.act.{writer}.>``: public actions in the log, and records in the
``lane`` room. Each carries the sequence of its cause; every cause up to the highest closed one is handled. All
functions here are pure.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from pydantic import JsonValue
from pydantic_core import from_json

from sojourn.bus.crossing import write_record
from sojourn.bus.envelope import Cause, encode, format_time
from sojourn.bus.event import spec_of
from sojourn.bus.ids import derived_id, uuid7
from sojourn.bus.personal.key import CustomerKey
from sojourn.bus.ports import Append, Expectation, Schedule, Stored
from sojourn.bus.processor import CancelTimer, Output, SetTimer
from sojourn.bus.subjects import Address, Namespace

CALM = timedelta(minutes=1)
"""A timer that waits at least this long ends a chain of causes: its message counts hops from 0 again. So a journey may
renew a timer for ever, and what triggers itself without waiting still ends in a dead letter."""


WAKE_UP = "=park"
"""The timer that wakes a parked customer. No handler can name one so."""


_NO_KEYS: Mapping[str, CustomerKey] = {}


class OpenTimer(NamedTuple):
    """A timer that is set. ``generation`` tells its message from those of earlier timers of the same name."""

    generation: int
    at: datetime


class Sealed(NamedTuple):
    """A journalled result under the customer's key."""

    text: str


@dataclass(slots=True)
class Lane:
    """What is known of a lane. ``tail`` is its last message's sequence, ``closed`` the highest closed cause (0: none).

    ``journal`` holds the journalled results of ``journal_cause``, until that is closed. ``attempts`` counts how often
    ``attempt_cause`` was begun after a crash, by ``attempt_session`` for the last time. ``parked`` is the sequence from
    which on the customer is held (None: it is not), by the record at ``parked_at`` and after ``parked_attempts`` calls
    for its first cause; ``eager``: only since too much was waiting in memory, so whoever runs it goes on at once.
    """

    tail: int = 0
    closed: int = 0
    generation: int = 0
    timers: dict[str, OpenTimer] = field(default_factory=dict)
    journal_cause: int = 0
    journal: dict[str, Any] = field(default_factory=dict)
    attempt_cause: int = 0
    attempts: int = 0
    attempt_session: str = ""
    parked: int | None = None
    parked_at: int = 0
    parked_attempts: int = 0
    eager: bool = False

    @property
    def since(self) -> int:
        """Of a parked customer, the first sequence that may still have to be handled."""
        assert self.parked is not None
        return max(self.parked, self.closed + 1)

    def tried(self, cause: int) -> int:
        """How often a cause was begun after a crash of its worker."""
        return self.attempts if self.attempt_cause == cause else 0

    def replay(self, stored: Stored) -> None:
        """Takes one stored message of the lane into account, in stream order."""
        self.tail = stored.sequence
        document = from_json(stored.payload)
        match document.get("kind"):
            case "out" if "specversion" in document:
                self.closed = max(self.closed, document["causeseq"])
            case "relay":
                self.closed = max(self.closed, document["cause"])
            case "out" | "dead":
                self._take_table(document)
                self.closed = max(self.closed, document["cause"])
            case "parked":
                since, attempts, eager = int(document["from"]), int(document["attempts"]), bool(document["eager"])
                self._take_table(document)
                self.parked, self.parked_at, self.parked_attempts, self.eager = since, stored.sequence, attempts, eager
            case "unparked":
                self._take_table(document)
                self.closed = max(self.closed, document["cause"])
                self.parked = None
            case "attempt":
                self.attempt_cause, self.attempts = int(document["cause"]), int(document["n"])
                self.attempt_session = str(document.get("session", ""))
            case "once":
                if self.journal_cause != document["cause"]:
                    self.journal_cause = document["cause"]
                    self.journal = {}
                sealed = document.get("sealed")
                self.journal[document["name"]] = Sealed(sealed) if sealed is not None else document["result"]
        if self.journal_cause <= self.closed:
            self.journal = {}

    def _take_table(self, document: Mapping[str, Any]) -> None:
        timers = {
            name: OpenTimer(generation, datetime.fromisoformat(at))
            for name, (generation, at) in document["timers"].items()
        }
        self.generation, self.timers = document["generation"], timers

    def journalled(self, cause: int) -> dict[str, Any]:
        """The journalled results of a cause."""
        return self.journal if self.journal_cause == cause else {}


@dataclass(frozen=True, slots=True)
class Writer:
    """Who writes: the lane's name, the version of its code and the ``source`` of its envelopes."""

    namespace: Namespace
    name: str
    version: int = 1

    @property
    def source(self) -> str:
        return f"/{self.namespace.name}/{self.name}"


@dataclass(slots=True)
class Change:
    """Appends that extend a lane, and what the lane is once they are durable.

    ``lane_members`` counts the leading appends that belong to the lane; those after it are timers. ``actions`` of
    them, the first ones, are public. ``closes``: the cause that is closed by it, 0 for none. ``parks``: it holds the
    customer from that sequence on; ``ends``: it no longer does.
    """

    appends: list[Append]
    lane_members: int
    actions: int
    closes: int
    generation: int
    timers: dict[str, OpenTimer]
    parks: int | None = None
    attempts: int = 0
    eager: bool = False
    ends: bool = False

    def apply(self, lane: Lane, sequences: list[int]) -> None:
        """Brings the lane up to date with what was stored."""
        lane.tail = sequences[self.lane_members - 1]
        lane.closed = max(lane.closed, self.closes)
        lane.generation = self.generation
        lane.timers = self.timers
        if lane.journal_cause <= lane.closed:
            lane.journal = {}
        if self.parks is not None:
            lane.parked, lane.parked_at = self.parks, sequences[0]
            lane.parked_attempts, lane.eager = self.attempts, self.eager
        elif self.ends:
            lane.parked = None


def output_change(
    writer: Writer,
    at: Address,
    lane: Lane,
    cause: Cause,
    output: Output,
    now: datetime,
    *,
    fired: str | None = None,
    sealer: CustomerKey | None = None,
    sealers: Mapping[str, CustomerKey] = _NO_KEYS,
) -> Change:
    """The appends of an output: its actions, what is for other customers, then where timers are involved a record of
    all that are open, then the timers.

    ``fired`` names the timer whose message is the cause: its record closes it, unless the output sets it anew.
    ``sealer`` is the customer's key, for personal values; ``sealers`` are those of other customers.
    """
    namespace, name = writer.namespace, writer.name
    expect = Expectation(namespace.lane_filter(at, name), lane.tail)
    assert cause.sequence is not None
    appends = [
        Append(
            namespace.action(at, name, spec_of(event).type),
            encode(
                event,
                id=uuid7(),
                source=writer.source,
                key=at.key,
                time=now,
                cause=cause,
                kind="out",
                sealer=sealer,
            ),
            expect,
        )
        for event in output.events
    ]
    actions = len(appends)
    for index, event in enumerate(output.others):
        appends.append(
            write_record(namespace, name, writer.source, at, expect, cause, event, index, now, sealers=sealers)
        )
    members = len(appends)
    timers, generation = lane.timers, lane.generation
    if output.timers or fired is not None or not members:
        timers = {n: timer for n, timer in lane.timers.items() if n != fired}
        scheduled: dict[str, Append] = {}
        cancelled: dict[str, None] = {}
        for change in output.timers:
            scheduled.pop(change.name, None)
            if isinstance(change, CancelTimer):
                if timers.pop(change.name, None) is not None and change.name in lane.timers:
                    cancelled[change.name] = None
                continue
            generation += 1
            # In UTC, as it will be read back.
            due = change.at.astimezone(UTC)
            timers[change.name] = OpenTimer(generation, due)
            # Whoever waits starts a new chain of causes.
            because = cause._replace(hops=-1) if due - now >= CALM else cause
            scheduled[change.name] = _schedule(writer, at, change, due, generation, because, sealer)
        dropped = [n for n in cancelled if n not in timers]
        appends += _records(writer, at, expect, cause.sequence, timers, generation, now, dropped)
        members = len(appends)
        appends += scheduled.values()
    return Change(appends, members, actions, cause.sequence, generation, timers)


def once_change(writer: Writer, at: Address, lane: Lane, cause: int, name: str, result: JsonValue | Sealed) -> Append:
    """A journalled result of a cause that is still being handled."""
    kept: dict[str, JsonValue] = {"sealed": result.text} if isinstance(result, Sealed) else {"result": result}
    document = {"kind": "once", "cause": cause, "closed": lane.closed, "name": name, **kept}
    return _record(writer, at, Expectation(writer.namespace.lane_filter(at, writer.name), lane.tail), "once", document)


def attempt_change(writer: Writer, at: Address, lane: Lane, cause: int, session: str) -> Append:
    """The record that a cause which was in flight at a crash is begun once more, by the worker of that session."""
    expect = Expectation(writer.namespace.lane_filter(at, writer.name), lane.tail)
    document = {"kind": "attempt", "cause": cause, "n": lane.tried(cause) + 1, "session": session}
    return _record(writer, at, expect, "attempt", document)


def parked_change(
    writer: Writer,
    at: Address,
    lane: Lane,
    since: int,
    facts: Mapping[str, Any],
    *,
    wake: datetime | None,
    attempts: int = 0,
    eager: bool = False,
) -> Change:
    """The record that holds a customer: nothing from the sequence ``since`` on is handled until ``wake``, or until an
    operator decides (None). ``attempts``: calls for the first cause so far; ``facts``: why."""
    namespace = writer.namespace
    timers = {name: timer for name, timer in lane.timers.items() if name != WAKE_UP}
    generation = lane.generation
    appends: list[Append] = []
    if wake is not None:
        generation += 1
        due = wake.astimezone(UTC)
        timers[WAKE_UP] = OpenTimer(generation, due)
        payload = json.dumps({"kind": "wake", "generation": generation}).encode()
        target = namespace.due(at, writer.name, WAKE_UP)
        appends.append(Append(namespace.timer(at, writer.name, WAKE_UP), payload, schedule=Schedule(due, target)))
    document = {
        "kind": "parked", "from": since, "attempts": attempts, "eager": eager, **_table(timers, generation), **facts,
    }  # fmt: skip
    expect = Expectation(namespace.lane_filter(at, writer.name), lane.tail)
    # A wake-up that is set already is replaced by the new one; where there is to be none, it is taken back.
    unschedule = namespace.timer(at, writer.name, WAKE_UP) if wake is None and WAKE_UP in lane.timers else None
    record = _record(writer, at, expect, "parked", document, unschedule=unschedule)
    return Change([record, *appends], 1, 0, 0, generation, timers, parks=since, attempts=attempts, eager=eager)


def unparked_change(writer: Writer, at: Address, lane: Lane, upto: int, now: datetime) -> Change:
    """The record that a customer is held no longer, and that everything up to the sequence ``upto`` is handled."""
    namespace = writer.namespace
    timers = {name: timer for name, timer in lane.timers.items() if name != WAKE_UP}
    document = {"kind": "unparked", "cause": upto, "time": format_time(now), **_table(timers, lane.generation)}
    expect = Expectation(namespace.lane_filter(at, writer.name), lane.tail)
    unschedule = namespace.timer(at, writer.name, WAKE_UP) if WAKE_UP in lane.timers else None
    record = _record(writer, at, expect, "unparked", document, unschedule=unschedule)
    return Change([record], 1, 0, upto, lane.generation, timers, ends=True)


def wake_generation(payload: bytes) -> int:
    """Which wake-up a fired one is; 0 for what is none."""
    try:
        return int(json.loads(payload)["generation"])
    except (ValueError, LookupError, TypeError):
        return 0


def dead_change(
    writer: Writer, at: Address, lane: Lane, cause: int, facts: Mapping[str, Any], *, fired: str | None = None
) -> Change:
    """The record that closes a cause as a dead letter. ``facts`` are what `deadletters` tells of it."""
    timers = {n: timer for n, timer in lane.timers.items() if n != fired}
    document = {"kind": "dead", "cause": cause, **_table(timers, lane.generation), **facts}
    expect = Expectation(writer.namespace.lane_filter(at, writer.name), lane.tail)
    return Change([_record(writer, at, expect, "dead", document)], 1, 0, cause, lane.generation, timers)


def _records(
    writer: Writer,
    at: Address,
    expect: Expectation,
    cause: int,
    timers: dict[str, OpenTimer],
    generation: int,
    now: datetime,
    cancelled: list[str],
) -> Iterable[Append]:
    document = {"kind": "out", "cause": cause, "time": format_time(now), **_table(timers, generation)}
    payload = json.dumps(document).encode()
    subject = writer.namespace.record(at, writer.name, "out")
    # A message cancels one timer: each further one takes another copy of the record, which says the same.
    copies: list[str | None] = [*cancelled] or [None]
    for name in copies:
        unschedule = writer.namespace.timer(at, writer.name, name) if name is not None else None
        yield Append(subject, payload, expect, unschedule=unschedule)


def _record(
    writer: Writer,
    at: Address,
    expect: Expectation,
    kind: str,
    document: Mapping[str, Any],
    *,
    unschedule: str | None = None,
) -> Append:
    subject = writer.namespace.record(at, writer.name, kind)
    return Append(subject, json.dumps(document).encode(), expect, unschedule=unschedule)


def _table(timers: dict[str, OpenTimer], generation: int) -> dict[str, Any]:
    return {
        "generation": generation,
        "timers": {name: [timer.generation, timer.at.isoformat()] for name, timer in timers.items()},
    }


def _schedule(
    writer: Writer,
    at: Address,
    timer: SetTimer,
    due: datetime,
    generation: int,
    cause: Cause,
    sealer: CustomerKey | None,
) -> Append:
    namespace, name = writer.namespace, timer.name
    payload = encode(
        timer.event,
        # The same for a timer that the server fires twice.
        id=derived_id("timer", namespace.name, at.token, writer.name, name, generation),
        source=writer.source,
        key=at.key,
        time=due,
        cause=cause,
        kind="due",
        timer_generation=generation,
        sealer=sealer,
    )
    return Append(
        namespace.timer(at, writer.name, name), payload, schedule=Schedule(due, namespace.due(at, writer.name, name))
    )
