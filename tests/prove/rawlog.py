"""Judges the proofs from the raw log: nothing but nats-py, json and a fold of a few lines."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import nats
from nats.aio.client import Client

VALUABLE = 50


class Record(NamedTuple):
    """A message of the log. ``time``: when the server stored it, in seconds since the epoch."""

    sequence: int
    subject: str
    document: dict[str, Any]
    time: float = 0.0


Logs = Mapping[str, Sequence[Record]]
"""The records of each stream, in the order stored."""


@dataclass
class Verdict:
    """What the log shows. All lists are empty, and nothing is dead, if every promise was kept."""

    events: int = 0
    actions: int = 0
    deserving: int = 0
    attempts: int = 0
    dead: int = 0
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    undeserved: list[str] = field(default_factory=list)
    out_of_order: list[str] = field(default_factory=list)
    wrong_state: list[str] = field(default_factory=list)
    misplaced: list[str] = field(default_factory=list)
    still_parked: list[str] = field(default_factory=list)
    events_lost: list[str] = field(default_factory=list)
    events_doubled: list[str] = field(default_factory=list)
    events_out_of_order: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        return not self.dead and not any(value for value in vars(self).values() if isinstance(value, list))

    def figures(self) -> dict[str, int]:
        return {name: len(value) if isinstance(value, list) else value for name, value in vars(self).items()}


async def read_log(url: str, namespace: str) -> dict[str, list[Record]]:
    """Every message of the log by stream, in the order stored."""
    client = await nats.connect(url)
    jetstream = client.jetstream()
    logs: dict[str, list[Record]] = {}
    try:
        for shard in range(4):
            stream = f"{namespace.upper()}_{shard}"
            state = (await jetstream.stream_info(stream)).state
            log = logs[stream] = []
            subscription = await jetstream.subscribe(f"{namespace}.>", stream=stream, ordered_consumer=True)
            last = 0
            while last < state.last_seq:
                message = await subscription.next_msg(timeout=10)
                metadata = message.metadata
                last = metadata.sequence.stream
                if message.data:
                    log.append(Record(last, message.subject, json.loads(message.data), metadata.timestamp.timestamp()))
            await subscription.unsubscribe()
    finally:
        await client.close()
    return logs


async def count_actions(client: Client, namespace: str) -> int:
    """How many actions the log holds, as the server counts them; 0 while it does not answer."""
    jetstream = client.jetstream()
    total = 0
    for shard in range(4):
        try:
            info = await jetstream.stream_info(
                f"{namespace.upper()}_{shard}", subjects_filter=f"{namespace}.log.*.*.act.>"
            )
        except (nats.errors.Error, nats.js.errors.Error, TimeoutError):
            return 0
        total += sum((info.state.subjects or {}).values())
    return total


def judge(logs: Logs, published: set[str]) -> Verdict:
    """Holds the log against what should be there: ``published`` are the ids of all events."""
    verdict = Verdict()
    ids: Counter[str] = Counter()
    for log in logs.values():
        events: dict[str, list[Record]] = {}
        actions: dict[str, list[Record]] = {}
        parked: dict[str, bool] = {}
        for record in log:
            room, place, kind = _parts(record.subject)
            if (room, kind) == ("log", "evt"):
                events.setdefault(place, []).append(record)
                ids[record.document["id"]] += 1
            elif (room, kind) == ("log", "act"):
                actions.setdefault(place, []).append(record)
            elif room == "lane" and kind == "dead":
                verdict.dead += 1
            elif room == "lane" and kind == "attempt":
                verdict.attempts += 1
            elif room == "lane" and kind in {"parked", "unparked"}:
                parked[f"{place} {record.subject.split('.')[-2]}"] = kind == "parked"
            elif room not in {"lane", "timer"} and (room, kind) != ("log", "due"):
                verdict.foreign.append(f"{record.subject} at {record.sequence}")
        verdict.still_parked += [place for place, waits in parked.items() if waits]
        for place, mine in events.items():
            _judge_customer(verdict, place, mine, actions.pop(place, []))
        for place, strangers in actions.items():
            _judge_customer(verdict, place, [], strangers)
    verdict.events_lost = sorted(published - ids.keys())
    verdict.events_doubled = sorted(id for id, times in ids.items() if times > 1)
    verdict.foreign += sorted(ids.keys() - published)
    return verdict


def _parts(subject: str) -> tuple[str, str, str]:
    """The room, partition and key, and kind of what stands under a subject."""
    tokens = subject.split(".")
    if len(tokens) < 6:
        return "", subject, ""
    place = f"{tokens[2]}.{tokens[3]}"
    if tokens[1] != "log":
        return tokens[1], place, tokens[-1]
    # A timer that fired is no event that somebody published, and the escort sets none itself: a parked key is woken.
    return "log", place, "due" if tokens[5] == "due" else tokens[4]


def _judge_customer(verdict: Verdict, place: str, events: Sequence[Record], actions: Sequence[Record]) -> None:
    """``place``: partition and key of the subjects under which all of them stand."""
    verdict.events += len(events)
    verdict.actions += len(actions)
    key = place.split(".")[1]
    for record in (*events, *actions):
        if record.document["subject"] != key or record.document["data"]["customer_id"] != key:
            verdict.misplaced.append(f"{record.subject} at {record.sequence}: of {record.document['subject']}")
    by_cause: dict[str, list[dict[str, Any]]] = {}
    for action in actions:
        by_cause.setdefault(action.document["causationid"], []).append(action.document)
    seen = total = offers = 0
    for record in events:
        event = record.document
        seen += 1
        total += event["data"]["value"]
        answers = by_cause.pop(event["id"], [])
        if event["data"]["value"] <= VALUABLE:
            verdict.undeserved += [f"{place} {event['id']}"] * len(answers)
            continue
        verdict.deserving += 1
        if not answers:
            verdict.lost.append(f"{place} {event['id']} at {record.sequence}")
        if len(answers) > 1:
            verdict.doubled.append(f"{place} {event['id']} at {record.sequence}: {len(answers)}")
        for answer in answers[:1]:
            data = answer["data"]
            state = (data["number"], data["seen"], data["total"], data["offers"], answer["causeseq"])
            right = (event["data"]["number"], seen, total, offers, record.sequence)
            if state != right:
                verdict.wrong_state.append(f"{place} {event['id']}: saw {state}, right is {right}")
        offers += 1
    verdict.undeserved += [f"{place} caused by {cause}" for cause in by_cause]
    numbers = [event.document["data"]["number"] for event in events]
    if numbers != sorted(numbers):
        verdict.events_out_of_order.append(f"{place}: {numbers}")
    causes: dict[str, list[int]] = {}
    for action in actions:
        causes.setdefault(action.subject.split(".")[5], []).append(action.document["causeseq"])
        if action.document["causeseq"] >= action.sequence:
            verdict.out_of_order.append(f"{place}: {action.sequence} before its cause")
    for agent, mine in causes.items():
        if mine != sorted(mine):
            verdict.out_of_order.append(f"{place} {agent}: {mine}")
