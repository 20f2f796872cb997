"""Judges the crash proof from the raw log: nothing but nats-py, json and a fold of a few lines."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import nats

VALUABLE = 50


@dataclass
class Verdict:
    """What the log shows. All lists are empty if every promise was kept."""

    events: int = 0
    actions: int = 0
    deserving: int = 0
    dead: int = 0
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    undeserved: list[str] = field(default_factory=list)
    out_of_order: list[str] = field(default_factory=list)
    wrong_state: list[str] = field(default_factory=list)
    events_lost: list[str] = field(default_factory=list)
    events_doubled: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        return not (
            self.dead
            or self.lost
            or self.doubled
            or self.undeserved
            or self.out_of_order
            or self.wrong_state
            or self.events_lost
            or self.events_doubled
        )

    def figures(self) -> dict[str, int]:
        return {name: len(value) if isinstance(value, list) else value for name, value in vars(self).items()}


async def read_log(url: str, namespace: str) -> dict[str, list[tuple[int, str, dict[str, Any]]]]:
    """Every message of the log by stream: sequence, subject and document, in the order stored."""
    client = await nats.connect(url)
    jetstream = client.jetstream()
    logs: dict[str, list[tuple[int, str, dict[str, Any]]]] = {}
    try:
        for shard in range(4):
            stream = f"{namespace.upper()}_{shard}"
            state = (await jetstream.stream_info(stream)).state
            log = logs[stream] = []
            subscription = await jetstream.subscribe(f"{namespace}.>", stream=stream, ordered_consumer=True)
            last = 0
            while last < state.last_seq:
                message = await subscription.next_msg(timeout=10)
                last = message.metadata.sequence.stream
                if message.data:
                    log.append((last, message.subject, json.loads(message.data)))
            await subscription.unsubscribe()
    finally:
        await client.close()
    return logs


def judge(logs: dict[str, list[tuple[int, str, dict[str, Any]]]], published: set[str]) -> Verdict:
    """Holds the log against what should be there: ``published`` are the ids of all events."""
    verdict = Verdict()
    ids: Counter[str] = Counter()
    for log in logs.values():
        events: dict[str, list[tuple[int, dict[str, Any]]]] = {}
        actions: dict[str, list[tuple[int, dict[str, Any]]]] = {}
        for sequence, subject, document in log:
            tokens = subject.split(".")
            if tokens[1] == "log" and tokens[4] == "evt":
                events.setdefault(document["subject"], []).append((sequence, document))
                ids[document["id"]] += 1
            elif tokens[1] == "log" and tokens[4] == "act":
                actions.setdefault(document["subject"], []).append((sequence, document))
            elif tokens[-1] == "dead":
                verdict.dead += 1
        for customer, mine in events.items():
            _judge_customer(verdict, customer, mine, actions.pop(customer, []))
        verdict.undeserved += actions
    verdict.events_lost = sorted(published - ids.keys())
    verdict.events_doubled = sorted(id for id, times in ids.items() if times > 1)
    return verdict


def _judge_customer(
    verdict: Verdict,
    customer: str,
    events: list[tuple[int, dict[str, Any]]],
    actions: list[tuple[int, dict[str, Any]]],
) -> None:
    verdict.events += len(events)
    verdict.actions += len(actions)
    by_cause: dict[str, list[dict[str, Any]]] = {}
    for _, action in actions:
        by_cause.setdefault(action["causationid"], []).append(action)
    seen = total = offers = 0
    for sequence, event in events:
        seen += 1
        total += event["data"]["value"]
        answers = by_cause.pop(event["id"], [])
        if event["data"]["value"] <= VALUABLE:
            verdict.undeserved += [f"{customer} {event['id']}"] * len(answers)
            continue
        verdict.deserving += 1
        if not answers:
            verdict.lost.append(f"{customer} {event['id']} at {sequence}")
        if len(answers) > 1:
            verdict.doubled.append(f"{customer} {event['id']} at {sequence}: {len(answers)}")
        for answer in answers[:1]:
            data = answer["data"]
            state = (data["number"], data["seen"], data["total"], data["offers"], answer["causeseq"])
            right = (event["data"]["number"], seen, total, offers, sequence)
            if state != right:
                verdict.wrong_state.append(f"{customer} {event['id']}: saw {state}, right is {right}")
        offers += 1
    verdict.undeserved += [f"{customer} caused by {cause}" for cause in by_cause]
    causes = [action["causeseq"] for _, action in actions]
    if causes != sorted(causes):
        verdict.out_of_order.append(f"{customer}: {causes}")
