"""Dead letters: causes that a writer could not handle, as records in its lane; and customers that are parked until an
operator decides, whose first cause waits to be one."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import structlog
from pydantic import BaseModel, ConfigDict
from pydantic_core import from_json

from sojourn.bus.client import Bus
from sojourn.bus.decisions import Decisions, Status, decision, decisions
from sojourn.bus.errors import ConfigurationError, DecodeError, NotFoundError
from sojourn.bus.intake import INGRESS, NOBODY
from sojourn.bus.parking import first_cause, parked_records, still_parked
from sojourn.bus.personal.key import SEALED, UnknownKeyError, sealed_by
from sojourn.bus.ports import Stored
from sojourn.bus.subjects import NO_KEY, Address, escape_key, unescape_key

log = structlog.get_logger("sojourn.bus")


class DeadLetter(BaseModel):
    """One dead letter. ``number`` names it: stream and sequence of its record.

    ``cause`` is the sequence of what could not be handled, in ``cause_stream``; ``customer`` is None where the
    document had no usable key. ``attempts`` is 0 for what reached no handler. ``kind`` ``parked``: no letter yet, but a
    customer that is held at this cause until it is redriven or dropped.
    """

    model_config = ConfigDict(frozen=True)

    number: str
    kind: Literal["dead", "parked"] = "dead"
    status: Status = "open"
    writer: str
    customer: str | None
    partition: int
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

    @property
    def stream(self) -> str:
        """The stream of its record."""
        return self.number.rpartition("-")[0]

    @property
    def sequence(self) -> int:
        """The sequence of its record."""
        return int(self.number.rpartition("-")[2])


@dataclass(frozen=True, slots=True)
class Selection:
    """Which dead letters are wanted; what is None does not matter. ``reason``: a part of it, in any case of letters;
    ``since`` and ``until`` bound `DeadLetter.time`, the first included. Raises nothing: a customer that cannot be a key
    has no letters."""

    writer: str | None = None
    customer: str | None = None
    type: str | None = None
    error: str | None = None
    reason: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    status: Status | Literal["all"] = "all"

    def takes(self, letter: DeadLetter) -> bool:
        """Whether it is wanted, but for what it takes a key to read, and its status."""
        return (
            (self.type is None or letter.type == self.type)
            and (self.error is None or letter.error == self.error)
            and (self.since is None or letter.time >= self.since)
            and (self.until is None or letter.time < self.until)
        )

    def tells(self, letter: DeadLetter) -> bool:
        """Whether its reason is the wanted one."""
        return self.reason is None or self.reason.casefold() in letter.reason.casefold()


EVERYTHING = Selection()


async def dead_letters(
    bus: Bus,
    selection: Selection = EVERYTHING,
    *,
    writer: str | None = None,
    customer: str | None = None,
) -> AsyncGenerator[DeadLetter, None]:
    """The selected dead letters, shard by shard in the order of the log, those parked after the dead of their shard.
    ``writer`` and ``customer`` narrow the selection.

    Read as they are taken: memory holds a page of them, and what `Decisions` takes. Raises `ValueError` for a customer
    that cannot be a key.
    """
    namespace = bus.namespace
    writer, customer = writer or selection.writer, customer if customer is not None else selection.customer
    where, streams = "*.*", namespace.streams
    if customer is not None:
        at = namespace.locate(customer)
        where, streams = f"{at.partition}.{at.token}", [at.stream]
    for stream in streams:
        state = await bus.transport.stream_state(stream)
        if state is None or state.last == 0:
            continue
        made = await decisions(bus, stream, state.last, where=where, writer=writer or "*")
        async with contextlib.aclosing(_records(bus, stream, state.last, where, writer or "*")) as records:
            async for message in records:
                letter = await _wanted(bus, stream, message, selection, made)
                if letter is not None:
                    yield letter


async def dead_letter(bus: Bus, number: str) -> DeadLetter:
    """One dead letter by its number. Raises `NotFoundError`."""
    stream, sequence = _split(bus, number)
    message = await bus.transport.get(stream, sequence)
    if message is not None and message.subject.split(".")[1] == "lane":
        tokens = message.subject.split(".")
        parked = tokens[-1] == "parked" and await still_parked(bus.transport, stream, message)
        if parked or tokens[-1] == "dead":
            with contextlib.suppress(ValueError, LookupError, TypeError):
                letter = await _told(bus, stream, message)
                made = await decision(bus, stream, redrive_subject(bus, letter))
                letter = letter.model_copy(update={"status": await made.status(bus, sequence)})
                return await _opened(bus, letter)
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


def place_of(letter: DeadLetter) -> Address:
    """Where a letter's customer lives, or what stands for one that has no usable key."""
    token = NO_KEY if letter.customer is None else letter.customer
    if letter.customer is not None:
        with contextlib.suppress(ValueError):
            token = escape_key(letter.customer)
    # Not the partition of the token: lanes of what has no usable key stand where it was found.
    return Address(letter.customer or "", token, letter.partition, letter.stream)


def redrive_subject(bus: Bus, letter: DeadLetter) -> str:
    """Where what becomes of a letter is stored: one message at most."""
    return bus.namespace.redrive(place_of(letter), letter.writer, letter.sequence)


async def _records(bus: Bus, stream: str, last: int, where: str, writer: str) -> AsyncGenerator[Stored, None]:
    pattern = f"{bus.namespace.name}.lane.{where}.act.{writer}"
    async with contextlib.aclosing(bus.transport.follow(stream, f"{pattern}.dead", end=last)) as batches:
        async for messages in batches:
            for message in messages:
                yield message
    for message in await parked_records(bus.transport, stream, pattern, last):
        yield message


async def _wanted(bus: Bus, stream: str, message: Stored, selection: Selection, made: Decisions) -> DeadLetter | None:
    try:
        letter = await _told(bus, stream, message)
    except (ValueError, LookupError, TypeError):
        # Not written by Sojourn. One such record must not hide all others.
        log.warning("a record that is no dead letter is left out", stream=stream, sequence=message.sequence)
        return None
    if not selection.takes(letter):
        return None
    status = await made.status(bus, message.sequence)
    if selection.status not in ("all", status):
        return None
    letter = await _opened(bus, letter if status == "open" else letter.model_copy(update={"status": status}))
    return letter if selection.tells(letter) else None


async def _told(bus: Bus, stream: str, message: Stored) -> DeadLetter:
    letter = _parse(stream, message)
    if letter.kind == "parked":
        return letter.model_copy(update=await first_cause(bus.transport, stream, letter.cause))
    previous = letter.subject.split(".evt.redrive.")
    if len(previous) == 2 and letter.type.isdecimal():
        # What was redriven could not be read: what it was said to be, the letter before tells.
        record = await bus.transport.get(stream, int(letter.type))
        with contextlib.suppress(ValueError, LookupError, TypeError):
            return letter.model_copy(update={"type": str(from_json(record.payload)["type"]) if record else "–"})
    return letter


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
            sealed = {name: getattr(letter, name) for name in ("reason", "traceback")}
            return letter.model_copy(
                update={name: from_json(key.unseal(text)) if text else "" for name, text in sealed.items()}
            )
    except UnknownKeyError:
        pass
    except (ConfigurationError, DecodeError) as error:
        told = f"[sealed: {error}]"
    return letter.model_copy(update={"reason": told, "traceback": ""})


def _split(bus: Bus, number: str) -> tuple[str, int]:
    stream, _, sequence = number.rpartition("-")
    if stream not in bus.namespace.streams or not (sequence.isascii() and sequence.isdigit()):
        raise NotFoundError(f"{number!r} is no number of a dead letter, such as {bus.namespace.streams[0]}-17")
    return stream, int(sequence)


def _parse(stream: str, message: Stored) -> DeadLetter:
    _, _, partition, token, _, writer, kind = message.subject.split(".")
    facts: dict[str, Any] = from_json(message.payload)
    try:
        customer = None if token == NO_KEY else unescape_key(token)
    except DecodeError:
        customer = token
    parked = kind == "parked"
    if parked:
        stored = datetime.fromtimestamp(message.timestamp // 1000 / 1e6, UTC)
        facts = _UNSAID | {"cause": facts["from"], "time": stored} | facts
    return DeadLetter(
        number=f"{stream}-{message.sequence}",
        kind="parked" if parked else "dead",
        writer=writer,
        customer=customer,
        partition=int(partition),
        cause=facts["cause"],
        cause_stream=facts.get("stream", stream),
        correlation_id=facts.get("correlationid"),
        **{name: facts[name] for name in _SAME},
    )


_SAME = ("type", "id", "reason", "error", "traceback", "attempts", "version", "subject", "time")

_UNSAID: dict[str, Any] = {
    "type": "–", "id": None, "reason": "", "error": "", "traceback": "", "attempts": 0, "version": 0, "subject": "",
}  # fmt: skip
