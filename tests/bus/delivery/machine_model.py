"""What the log of a town has to say once all is quiet: a simple model of worker, lane and log."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from sojourn.bus.lane import WAKE_UP
from sojourn.bus.ports import Stored
from sojourn.bus.verdicts import verdict_of

Kind = Literal["ok", "silent", "transient", "permanent", "slow", "timer", "cancel", "two", "once", "outage"]

KINDS: tuple[Kind, ...] = (
    "ok", "silent", "transient", "permanent", "slow", "timer", "cancel", "two", "once", "outage",
)  # fmt: skip

NEVER_AGAIN = "not run again"
POISON = "poison"
GIVEN_UP = "given up by an operator"


@dataclass
class Plan:
    """What a handler makes of an event; that of writers beside ``who`` is an offer. ``failures``: calls that end in a
    transient error, by writer."""

    kind: Kind
    who: frozenset[str]
    failures: Counter[str] = field(default_factory=Counter)
    healed: bool = False

    def of(self, writer: str) -> Kind:
        return self.kind if writer in self.who else "ok"


@dataclass
class Lane:
    """One writer's story of one customer, as the log has it: what each cause led to."""

    effects: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    order: list[int] = field(default_factory=list)
    once: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    parked: dict[str, Any] | None = None
    timers: Mapping[str, Any] = field(default_factory=dict)

    def take(self, subject: str, document: dict[str, Any]) -> None:
        kind = document["kind"]
        if "timers" in document:
            self.timers = document["timers"]
        if kind == "once":
            self.once.setdefault(document["cause"], []).append(document)
        elif kind == "parked":
            self.parked = document
        elif kind in ("out", "dead"):
            cause = document["causeseq"] if "specversion" in document else document["cause"]
            self.order.append(cause)
            self.effects.setdefault(cause, []).append({**document, "subject": subject})
        elif kind == "unparked":
            self.order.append(document["cause"])
            self.parked = None

    @property
    def undecided(self) -> int | None:
        """From which sequence on it waits for a person."""
        return None if self.parked is None or WAKE_UP in self.parked["timers"] else int(self.parked["from"])


def check(
    messages: Iterable[Stored],
    writers: Iterable[str],
    plans: Mapping[int, Plan],
    calls: Mapping[tuple[str, int], int],
    *,
    poison: str,
) -> int:
    """Holds a log against the plans and returns how many causes were judged. ``calls``: how often each writer was
    called for each cause; ``poison``: the writer that parks customers instead of burying letters."""
    stories: dict[str, list[Stored]] = {}
    for message in messages:
        tokens = message.subject.split(".")
        if tokens[1] in ("log", "lane"):
            stories.setdefault(tokens[3], []).append(message)
    return sum(
        _check_lane(story, f"{writer} for {token}", writer, plans, calls, parks=writer == poison)
        for token, story in stories.items()
        for writer in writers
    )


def _check_lane(
    story: list[Stored],
    where: str,
    writer: str,
    plans: Mapping[int, Plan],
    calls: Mapping[tuple[str, int], int],
    *,
    parks: bool,
) -> int:
    lane = Lane()
    causes: list[tuple[Stored, str]] = []
    for message in story:
        tokens = message.subject.split(".")
        if tokens[4] == "act" and tokens[5] == writer:
            lane.take(message.subject, json.loads(message.payload))
        elif tokens[4:] == ["evt", "CartAbandoned"]:
            causes.append((message, "event"))
        elif tokens[4:7] == ["evt", "due", writer] and tokens[-1] != WAKE_UP:
            causes.append((message, "due"))
        elif tokens[4:7] == ["evt", "redrive", writer] and verdict_of(message.payload) is None:
            causes.append((message, "redriven"))
    assert lane.order == sorted(lane.order), f"{where}: out of order {lane.order}"
    assert lane.parked is None or lane.undecided is not None, f"{where}: left parked, {lane.parked}"
    if lane.undecided is not None:
        assert parks, f"{where}: only {writer} may leave a decision to a person"
    timers: dict[str, int] = {}
    seen = 0
    own: list[int] = []
    for message, sort in causes:
        sequence, n = message.sequence, int(json.loads(message.payload)["data"]["n"])
        at = f"{where}: event {n} at {sequence} ({sort})"
        seen += sort == "event"
        found = lane.effects.pop(sequence, [])
        if lane.undecided is not None and sequence >= lane.undecided:
            assert not found, f"{at} was handled beyond {lane.undecided}, where the customer waits for a decision"
            continue
        letters = [document for document in found if document["kind"] == "dead"]
        outputs = [document for document in found if document["kind"] == "out"]
        offers = [document for document in outputs if document.get("type") == "DiscountOffered"]
        assert len(letters) <= 1 and not (letters and outputs), f"{at} has {len(letters)} letters and {outputs}"
        assert len(lane.once.get(sequence, ())) <= 1, f"{at} was journalled twice: {lane.once}"
        plan = plans[n].of(writer)
        if sort == "due":
            name = message.subject.rsplit(".", 1)[-1]
            if timers.get(name) != n:
                assert not found, f"{at} fired although {timers.get(name)} is set: {found}"
                continue
            del timers[name]
            plan = "ok"
        if letters:
            reason = letters[0]["reason"]
            poisonous = (
                plan == "permanent" and (GIVEN_UP in reason or "poison" in reason) and (not parks or GIVEN_UP in reason)
            )
            assert poisonous or NEVER_AGAIN in reason, f"{at} ({plan}) is dead: {reason}"
            continue
        if plan == "silent":
            assert not found, f"{at} is to be silent: {found}"
            assert calls.get((writer, sequence)), f"{at} was never handled"
            continue
        assert plan != "permanent" or plans[n].healed, f"{at} has to have a letter: {found}"
        assert len(offers) == 1, f"{at} ({plan}) has {len(offers)} offers"
        actions = [document for document in outputs if "specversion" in document]
        assert len(actions) == 1 + (plan == "two"), f"{at} ({plan}) has {actions}"
        data = offers[0]["data"]
        assert data["n"] == n
        assert data["seen"] == seen, f"{at} saw {data['seen']} carts instead of {seen}"
        earlier = sum(cause < sequence for cause in own)
        assert data["actions"] == earlier, f"{at} saw {data['actions']} own actions instead of {earlier}"
        own.append(sequence)
        if plan == "once":
            assert [data["note"]] == [str(one["result"]) for one in lane.once[sequence]], f"{at}: {data}"
        if plan == "timer":
            timers["lapse"] = n
        elif plan == "cancel":
            timers.pop("lapse", None)
    assert not lane.effects, f"{where}: effects of what is no cause of it: {lane.effects}"
    assert lane.undecided is not None or not lane.timers, f"{where}: timers left: {lane.timers}"
    assert lane.undecided is not None or not timers, f"{where}: timers that never fired: {timers}"
    return len(causes)
