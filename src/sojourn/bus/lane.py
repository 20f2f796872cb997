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

    ``journal`` holds the journalled results of ``journal_cause``, until that is closed.
    """

    tail: int = 0
    closed: int = 0
    generation: int = 0
    timers: dict[str, OpenTimer] = field(default_factory=dict)
    journal_cause: int = 0
    journal: dict[str, Any] = field(default_factory=dict)

    def replay(self, stored: Stored) -> None:
        """Takes one stored message of the lane into account, in stream order."""
        self.tail = stored.sequence
        document = from_json(stored.payload)
        match document.get("kind"):
            case "out" if "specversion" in document:
                self.closed = max(self.closed, document["causeseq"])
            case "out" | "dead":
                self.closed = max(self.closed, document["cause"])
                self.generation = document["generation"]
                self.timers = {
                    name: OpenTimer(generation, datetime.fromisoformat(at))
                    for name, (generation, at) in document["timers"].items()
                }
            case "once":
                if self.journal_cause != document["cause"]:
                    self.journal_cause = document["cause"]
                    self.journal = {}
                sealed = document.get("sealed")
                self.journal[document["name"]] = Sealed(sealed) if sealed is not None else document["result"]
        if self.journal_cause <= self.closed:
            self.journal = {}

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
    them, the first ones, are public.
    """

    appends: list[Append]
    lane_members: int
    actions: int
    closes: int
    generation: int
    timers: dict[str, OpenTimer]

    def apply(self, lane: Lane, sequences: list[int]) -> None:
        """Brings the lane up to date with what was stored."""
        lane.tail = sequences[self.lane_members - 1]
        lane.closed = max(lane.closed, self.closes)
        lane.generation = self.generation
        lane.timers = self.timers
        lane.journal = {}


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
) -> Change:
    """The appends of an output: its actions, then where timers are involved a record of all that are open, then the
    timers.

    ``fired`` names the timer whose message is the cause: its record closes it, unless the output sets it anew.
    ``sealer`` is the customer's key, for personal values.
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
    timers, generation = lane.timers, lane.generation
    if output.timers or fired is not None or not actions:
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
    else:
        members = actions
    return Change(appends, members, actions, cause.sequence, generation, timers)


def once_change(writer: Writer, at: Address, lane: Lane, cause: int, name: str, result: JsonValue | Sealed) -> Append:
    """A journalled result of a cause that is still being handled."""
    kept: dict[str, JsonValue] = {"sealed": result.text} if isinstance(result, Sealed) else {"result": result}
    document = {"kind": "once", "cause": cause, "closed": lane.closed, "name": name, **kept}
    return _record(writer, at, Expectation(writer.namespace.lane_filter(at, writer.name), lane.tail), "once", document)


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


def _record(writer: Writer, at: Address, expect: Expectation, kind: str, document: Mapping[str, Any]) -> Append:
    return Append(writer.namespace.record(at, writer.name, kind), json.dumps(document).encode(), expect)


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
