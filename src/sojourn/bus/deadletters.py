"""Dead letters: causes that a writer could not handle, as records in its lane."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import AsyncGenerator
from datetime import datetime
from typing import Any

import structlog
from pydantic import BaseModel, ConfigDict
from pydantic_core import from_json

from sojourn.bus.client import Bus
from sojourn.bus.errors import ConfigurationError, DecodeError, NotFoundError
from sojourn.bus.intake import INGRESS, NOBODY
from sojourn.bus.personal.key import SEALED, UnknownKeyError, sealed_by
from sojourn.bus.ports import Stored
from sojourn.bus.subjects import NO_KEY, unescape_key

log = structlog.get_logger("sojourn.bus")


class DeadLetter(BaseModel):
    """One dead letter. ``number`` names it: stream and sequence of its record.

    ``cause`` is the sequence of what could not be handled, in ``cause_stream``; ``customer`` is None where the
    document had no usable key. ``attempts`` is 0 for what reached no handler.
    """

    model_config = ConfigDict(frozen=True)

    number: str
    writer: str
    customer: str | None
    cause: int
    cause_stream: str
    type: str
    id: str | None
    correlation_id: str | None
    reason: str
    error: str
    traceback: str
    attempts: int
    version: int
    subject: str
    time: datetime


async def dead_letters(
    bus: Bus, *, writer: str | None = None, customer: str | None = None
) -> AsyncGenerator[DeadLetter, None]:
    """The dead letters of a namespace, shard by shard in the order of the log; those of one writer or customer if
    named.

    Raises `ValueError` for a customer that cannot be a key.
    """
    namespace = bus.namespace
    where, streams = "*.*", namespace.streams
    if customer is not None:
        at = namespace.locate(customer)
        where, streams = f"{at.partition}.{at.token}", [at.stream]
    for stream in streams:
        state = await bus.transport.stream_state(stream)
        if state is None or state.last == 0:
            continue
        pattern = f"{namespace.name}.lane.{where}.act.{writer or '*'}.dead"
        async with contextlib.aclosing(bus.transport.follow(stream, pattern, end=state.last)) as batches:
            async for messages in batches:
                for message in messages:
                    try:
                        letter = _parse(stream, message)
                    except (ValueError, LookupError, TypeError):
                        # Not written by Sojourn. One such record must not hide all others.
                        log.warning(
                            "a record that is no dead letter is left out", stream=stream, sequence=message.sequence
                        )
                    else:
                        yield await _opened(bus, letter)


async def dead_letter(bus: Bus, number: str) -> DeadLetter:
    """One dead letter by its number. Raises `NotFoundError`."""
    stream, sequence = _split(bus, number)
    message = await bus.transport.get(stream, sequence)
    if message is not None and message.subject.endswith(".dead") and message.subject.split(".")[1] == "lane":
        with contextlib.suppress(ValueError, LookupError, TypeError):
            return await _opened(bus, _parse(stream, message))
    raise NotFoundError(f"{number} is no dead letter of namespace {bus.namespace.name}: `sojourn dead ls` shows them")


async def original(bus: Bus, letter: DeadLetter) -> bytes | None:
    """The document that could not be handled, as it was stored; None where it has left the log, or was a foreign
    document that was erased with its customer. Raises `ConfigurationError` where the master key of such a document is
    not at hand."""
    stream, sequence = _split(bus, letter.number)
    if letter.writer != INGRESS:
        message = await bus.transport.get(letter.cause_stream, letter.cause)
        return None if message is None else message.payload
    record = await bus.transport.get(stream, sequence)
    if record is None:
        return None
    facts = from_json(record.payload)
    content = base64.b64decode(facts["original"])
    for offset in range(1, facts["parts"]):
        part = await bus.transport.get(stream, sequence + offset)
        if part is None:
            return None
        content += base64.b64decode(from_json(part.payload)["original"])
    if not facts.get("sealed"):
        return content
    id = sealed_by(content.decode())
    if id in bus.keys.gone:
        return None
    key = await bus.keys.seek(letter.customer if letter.customer is not None else NOBODY, id)
    try:
        return base64.b64decode(from_json(key.unseal(content.decode()))) if key is not None else None
    except UnknownKeyError:
        return None


async def _opened(bus: Bus, letter: DeadLetter) -> DeadLetter:
    """The letter with what was sealed because its customer has personal data."""
    if not letter.reason.startswith(SEALED) or letter.customer is None:
        return letter
    told = "[erased with the customer's personal data]"
    try:
        id, key = sealed_by(letter.reason), bus.keys.cached(letter.customer)
        if id not in bus.keys.gone and (key is None or key.id != id):
            key = await bus.keys.seek(letter.customer, id)
        if key is not None:
            facts = {name: from_json(key.unseal(getattr(letter, name))) for name in ("reason", "traceback")}
            return letter.model_copy(update=facts)
    except UnknownKeyError:
        pass
    except (ConfigurationError, DecodeError) as error:
        told = f"[sealed: {error}]"
    return letter.model_copy(update={"reason": told, "traceback": ""})


def _split(bus: Bus, number: str) -> tuple[str, int]:
    stream, _, sequence = number.rpartition("-")
    if stream not in bus.namespace.streams or not sequence.isdigit():
        raise NotFoundError(f"{number!r} is no number of a dead letter, such as {bus.namespace.streams[0]}-17")
    return stream, int(sequence)


def _parse(stream: str, message: Stored) -> DeadLetter:
    _, _, _, token, _, writer, _ = message.subject.split(".")
    facts: dict[str, Any] = from_json(message.payload)
    try:
        customer = None if token == NO_KEY else unescape_key(token)
    except DecodeError:
        customer = token
    return DeadLetter(
        number=f"{stream}-{message.sequence}",
        writer=writer,
        customer=customer,
        cause=facts["cause"],
        cause_stream=facts.get("stream", stream),
        correlation_id=facts.get("correlationid"),
        **{name: facts[name] for name in _SAME},
    )


_SAME = ("type", "id", "reason", "error", "traceback", "attempts", "version", "subject", "time")
