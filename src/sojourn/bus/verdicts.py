"""What an operator decided about a dead letter or a parked customer, where it is no event.

It stands on the subject on which the original would be put back (`Namespace.redrive`), with the expectation that
nothing is there yet: so a letter is redriven or dropped, once. Pure.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic_core import from_json, to_json

Verdict = Literal["drop", "wake", "file", "filed"]
"""``drop``: given up; ``wake``: a parked customer goes on; ``filed``: a foreign document went into the log in the same
batch; ``file``: it is to go into the log of the shard that is named, and a message there tells that it did."""

_VERDICTS = frozenset({"drop", "wake", "file", "filed"})
_START = b'{"kind":"'


def verdict_payload(verdict: Verdict, **facts: Any) -> bytes:
    """The message of a verdict."""
    return to_json({"kind": verdict, **facts})


def verdict_of(payload: bytes) -> Verdict | None:
    """The verdict in a message; None where it is an original that was put back."""
    facts = verdict_facts(payload)
    return None if facts is None else facts["kind"]


def verdict_facts(payload: bytes) -> dict[str, Any] | None:
    """All that a verdict says; None where the message is an original that was put back."""
    if not payload.startswith(_START):
        return None
    try:
        facts = from_json(payload)
    except ValueError:
        return None
    kind = facts.get("kind") if isinstance(facts, dict) and "specversion" not in facts else None
    return facts if isinstance(kind, str) and kind in _VERDICTS else None
