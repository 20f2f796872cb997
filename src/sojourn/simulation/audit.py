"""The audit: what a run left in the log, counted from the raw messages and held against what should be there."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from time import monotonic
from typing import Any, NamedTuple

from pydantic_core import from_json

from sojourn.bus.ports import Stored, Transport
from sojourn.bus.processor import Processor
from sojourn.bus.subjects import Namespace, parse_log_subject, split_writer


@dataclass(frozen=True, slots=True)
class Tally:
    """What is in the log. Nothing here depends on the engine or on the speed of the machine.

    ``events`` counts behaviour by type, ``actions`` by writer and type, those for other customers included; ``dead``
    dead letters by writer; ``fired``
    timers that came due; ``journeys`` the customers with at least one event. ``digest`` is one text for all actions:
    customer, writer, type, time and data.

    ``duplicates``: effects that are there twice: an envelope id stored twice for a customer, a cause that a writer
    closed again after it was closed, or answered twice with the same action. ``lost``: what is missing, by kind,
    kinds with none left out:

    - ``events``: published, and not in the log;
    - ``unhandled``: in the log, and not closed by an agent's group that should handle it;
    - ``timers``: open in their lane's last record, due before the end, and never fired;
    - ``causes``: actions that name no event of that customer's as their cause;
    - ``relays``: put out for another customer, and not there.
    """

    events: dict[str, int]
    actions: dict[str, dict[str, int]]
    fired: int
    journeys: int
    dead: dict[str, int]
    duplicates: int
    lost: dict[str, int]
    digest: str

    @property
    def clean(self) -> bool:
        """Nothing doubled, nothing lost, nothing dead."""
        return not (self.duplicates or self.lost or self.dead)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, in a fixed order."""
        return {
            "events": {"total": sum(self.events.values()), "by_type": dict(sorted(self.events.items()))},
            "actions": {
                "total": sum(count for types in self.actions.values() for count in types.values()),
                "by_agent": {agent: dict(sorted(types.items())) for agent, types in sorted(self.actions.items())},
            },
            "timers_fired": self.fired,
            "journeys": self.journeys,
            "dead_letters": {"total": sum(self.dead.values()), "by_agent": dict(sorted(self.dead.items()))},
            "duplicates": self.duplicates,
            "lost": {"total": sum(self.lost.values()), "by_kind": dict(sorted(self.lost.items()))},
            "digest": self.digest,
        }


async def audit(
    transport: Transport,
    namespace: Namespace,
    processors: Collection[Processor],
    *,
    published: Collection[str],
    end: datetime,
) -> Tally:
    """Reads every stream of the namespace from its first message on, and every consumer's position.

    ``published``: the ids of the events that were stored by whoever ran the customers. ``end``: timers due before it
    should have fired.
    """
    book = Book(namespace, end)
    for stream in namespace.streams:
        async for batch in _messages(transport, namespace, stream):
            book.enter(batch)
    return book.close(published, await unhandled(transport, namespace, processors))


async def unhandled(
    transport: Transport, namespace: Namespace, processors: Collection[Processor], *, patience: float = 5.0
) -> int:
    """Messages that some group has not closed, as the server sees it: not delivered yet, or delivered and not acked.

    A group without a consumer for a partition has closed nothing of it. Acks are on their way for a moment: up to
    ``patience`` seconds are given to them.
    """
    deadline = monotonic() + patience
    while True:
        count = await _unhandled(transport, namespace, processors)
        if not count or monotonic() >= deadline:
            return count
        await asyncio.sleep(0.05)


async def _unhandled(transport: Transport, namespace: Namespace, processors: Collection[Processor]) -> int:
    count = 0
    for group in sorted({processor.group for processor in processors if processor.handles}):
        for partition in range(namespace.partitions):
            stream = namespace.stream(partition)
            lag = await transport.consumer_lag(stream, f"{group}-{partition}")
            if lag is not None:
                count += lag.pending + lag.in_flight
            else:
                count += len(await transport.read(stream, namespace.partition_filter(partition, actions=False)))
    return count


class _Answer(NamedTuple):
    """The latest closing output in a lane: up to which sequence it goes, what it answers, and the actions in it."""

    sequence: int
    cause: int
    actions: set[str]


@dataclass(slots=True)
class _Customer:
    ids: dict[int, str] = field(default_factory=dict)
    """Ids by sequence, of events and of timers that fired."""
    seen: set[str] = field(default_factory=set)
    behaved: bool = False


class Book:
    """Counts messages, entered in the order of their stream, whole streams one after the other."""

    def __init__(self, namespace: Namespace, end: datetime) -> None:
        self._namespace = namespace
        self._end = end
        self._customers: dict[str, _Customer] = {}
        self._lanes: dict[tuple[str, str], _Answer] = {}
        self._open: dict[tuple[str, str], dict[str, Any]] = {}
        self._found: set[str] = set()
        self._lines: list[str] = []
        self._events: Counter[str] = Counter()
        self._actions: dict[str, Counter[str]] = {}
        self._dead: Counter[str] = Counter()
        self._relayed: dict[str, int] = {}
        self._arrived: dict[str, int] = {}
        self._fired = self._duplicates = self._orphans = 0

    def enter(self, messages: Iterable[Stored]) -> None:
        """Takes messages into account."""
        for message in messages:
            tokens = message.subject.split(".")
            match tokens[1]:
                case "log":
                    self._log(message)
                case "lane" if tokens[4] == "act":
                    self._record(message, tokens[3], tokens[5], tokens[6])

    def close(self, published: Collection[str], open_: int) -> Tally:
        """The tally, given the ids that should be in the log and the number of messages still open in some group."""
        lost = {
            "events": sum(id not in self._found for id in published),
            "unhandled": open_,
            "timers": sum(
                datetime.fromisoformat(at) < self._end for timers in self._open.values() for _, at in timers.values()
            ),
            "causes": self._orphans + sum(self._relayed.get(id) != sequence for id, sequence in self._arrived.items()),
            "relays": len(self._relayed.keys() - self._arrived.keys()),
        }
        digest = sha256("\n".join(sorted(self._lines)).encode()).hexdigest()
        return Tally(
            events=dict(sorted(self._events.items())),
            actions={writer: dict(sorted(types.items())) for writer, types in sorted(self._actions.items())},
            fired=self._fired,
            journeys=sum(customer.behaved for customer in self._customers.values()),
            dead=dict(sorted(self._dead.items())),
            duplicates=self._duplicates,
            lost={kind: count for kind, count in lost.items() if count},
            digest=digest,
        )

    def _log(self, message: Stored) -> None:
        subject = parse_log_subject(message.subject)
        if subject is None or subject.family == "redrive":
            return
        document = from_json(message.payload)
        customer = self._customers.setdefault(subject.token, _Customer())
        if document["id"] in customer.seen:
            self._duplicates += 1
        customer.seen.add(document["id"])
        if subject.family == "act":
            assert subject.writer is not None
            self._action(message.sequence, subject.token, subject.writer, document, customer)
            return
        customer.ids[message.sequence] = document["id"]
        if subject.family == "due":
            self._fired += 1
            return
        customer.behaved = True
        self._events[document["type"]] += 1
        self._found.add(document["id"])

    def _action(self, sequence: int, token: str, writer: str, document: dict[str, Any], customer: _Customer) -> None:
        name, source = split_writer(writer)
        self._actions.setdefault(name, Counter())[document["type"]] += 1
        data = json.dumps(document["data"], sort_keys=True)
        self._lines.append("\t".join((document["subject"], writer, document["type"], document["time"], data)))
        cause = document.get("causeseq")
        if source is not None and cause is not None:
            # Its cause is another customer's, and its place that of the record in which it waited.
            self._arrived[document["id"]] = cause
        # The cause may itself be an action: another agent's, which stands in the same stream.
        elif cause is None or customer.ids.get(cause) != document.get("causationid"):
            self._orphans += 1
        customer.ids[sequence] = document["id"]
        if cause is not None:
            self._answer(token, writer, sequence, cause, f"{document['type']}\t{data}")

    def _record(self, message: Stored, token: str, writer: str, kind: str) -> None:
        if kind not in ("out", "dead", "relay"):
            return
        document = from_json(message.payload)
        if kind == "relay":
            id = document["event"]["id"]
            self._relayed[id] = message.sequence
            self._answer(token, writer, message.sequence, document["cause"], f"relay\t{id}")
            return
        self._open[token, writer] = document["timers"]
        self._answer(token, writer, message.sequence, document["cause"], None)
        if kind == "dead":
            self._dead[writer] += 1

    def _answer(self, token: str, writer: str, sequence: int, cause: int, action: str | None) -> None:
        """One output is stored in one piece: what answers a cause again, later, is a second one."""
        latest = self._lanes.get((token, writer))
        actions: set[str] = set()
        if latest is not None and cause <= latest.cause:
            actions = latest.actions
            # An output's own members follow each other without a gap.
            if cause < latest.cause or sequence != latest.sequence + 1 or action in actions:
                self._duplicates += 1
        if action is not None:
            actions.add(action)
        self._lanes[token, writer] = _Answer(sequence, max(cause, latest.cause if latest is not None else 0), actions)


async def _messages(transport: Transport, namespace: Namespace, stream: str) -> AsyncIterator[list[Stored]]:
    state = await transport.stream_state(stream)
    if state is None or not state.messages:
        return
    async for batch in transport.follow(stream, f"{namespace.name}.>", start=1, end=state.last):
        yield batch
