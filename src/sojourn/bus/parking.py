"""Customers that are parked until an operator decides, as the records of lanes tell it.

A lane's last ``parked`` record holds its customer until an ``unparked`` one follows. One whose table of timers names no
`WAKE_UP` waits for a person.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from typing import Any

from pydantic_core import from_json

from sojourn.bus.lane import WAKE_UP
from sojourn.bus.ports import Stored, Transport


async def parked_records(transport: Transport, stream: str, pattern: str, last: int) -> list[Stored]:
    """The records that hold a customer until a person decides, up to the sequence ``last``; ``pattern`` matches the
    lanes. As many as there are such customers are held in memory."""
    held: dict[str, Stored] = {}
    async for message in _each(transport, stream, f"{pattern}.parked", last):
        held.pop(message.subject, None)
        if _waits_for_a_person(message):
            held[message.subject] = message
    if held:
        async for message in _each(transport, stream, f"{pattern}.unparked", last):
            parked = held.get(_beside(message.subject, "parked"))
            if parked is not None and parked.sequence < message.sequence:
                del held[parked.subject]
    return sorted(held.values(), key=lambda message: message.sequence)


async def still_parked(transport: Transport, stream: str, record: Stored) -> bool:
    """Whether a ``parked`` record is in force, and waits for a person."""
    newest = await transport.last(stream, record.subject)
    if newest is None or newest.sequence != record.sequence or not _waits_for_a_person(record):
        return False
    ended = await transport.last(stream, _beside(record.subject, "unparked"))
    return ended is None or ended.sequence < record.sequence


async def first_cause(transport: Transport, stream: str, sequence: int) -> dict[str, Any]:
    """What is known of the event that a customer is held at: type, id, correlation and subject."""
    message = await transport.get(stream, sequence)
    if message is None:
        return {}
    facts = {"subject": message.subject, "type": message.subject.rsplit(".", 1)[-1]}
    try:
        document = from_json(message.payload)
        return facts | {
            "type": str(document["type"]),
            "id": str(document["id"]),
            "correlation_id": str(document["correlationid"]),
        }
    except (ValueError, LookupError, TypeError):
        return facts


def _waits_for_a_person(record: Stored) -> bool:
    try:
        return WAKE_UP not in from_json(record.payload)["timers"]
    except (ValueError, LookupError, TypeError):
        return False  # not written by Sojourn


def _beside(subject: str, kind: str) -> str:
    return f"{subject.rpartition('.')[0]}.{kind}"


async def _each(transport: Transport, stream: str, pattern: str, last: int) -> AsyncGenerator[Stored, None]:
    async with contextlib.aclosing(transport.follow(stream, pattern, end=last)) as batches:
        async for messages in batches:
            for message in messages:
                yield message
