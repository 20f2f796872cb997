"""What an erasure destroys, does, and leaves."""

from __future__ import annotations

import base64
from typing import Any, NamedTuple

from pydantic import ValidationError

from sojourn.bus.client import Bus
from sojourn.bus.errors import NotFoundError
from sojourn.bus.intake import NOBODY
from sojourn.bus.personal.key import SEALED
from sojourn.bus.personal.records import ERASED, KEY, KeyRecord
from sojourn.bus.publisher import Published
from sojourn.bus.subjects import NO_KEY, escape_key
from sojourn.console.failures import note, several
from sojourn.console.options import Form
from sojourn.console.output import write_facts, write_json, write_json_lines
from sojourn.state.erasure import erase


class Found(NamedTuple):
    """What is stored of a customer (None: of documents that named none). ``sealed`` of the ``messages`` hold personal
    values that can still be read; ``has_key``: with the key that is there."""

    customer: str | None
    has_key: bool
    erased_before: bool
    messages: int
    sealed: int


class Erased(NamedTuple):
    """What was done. ``event``: where `CustomerErased` was stored, None where nobody is to be told."""

    had_key: bool
    event: Published | None


async def survey(bus: Bus, customer: str | None) -> Found:
    """What an erasure would meet. Raises `NotFoundError` for a customer of whom nothing is known."""
    id, erased = await _keys_of(bus, customer)
    has_key = id is not None
    namespace = bus.namespace
    at = namespace.locate(customer) if customer is not None else namespace.locate_token("", NO_KEY)
    messages = sealed = 0
    state = await bus.transport.stream_state(at.stream)
    if state is not None and state.last > 0:
        pattern = f"{namespace.name}.*.{at.partition}.{at.token}.>"
        heads = _heads(id) if id is not None else ()
        for message in await bus.transport.read(at.stream, pattern):
            messages += 1
            sealed += any(head in message.payload for head in heads)
    if customer is not None and not (has_key or erased or messages):
        raise NotFoundError(
            f"nothing is known of a customer {customer!r} in namespace {namespace.name}: neither a key nor anything in "
            "the log; is it spelled as the events spell it?"
        )
    return Found(customer, has_key, erased, messages, sealed)


async def destroy(bus: Bus, customer: str | None) -> Erased:
    """Erases a customer, or what is kept of documents that named none."""
    if customer is None:
        return Erased(await bus.keys.erase(NOBODY), None)
    done = await erase(bus, customer)
    return Erased(done.had_key, done.published)


def to_erase(found: Found) -> str:
    """What an erasure would destroy, in words."""
    return _destroyed(found, "seals") if found.has_key else _nothing(found)


def tell_found(found: Found, output: Form) -> None:
    """Says what would be erased, and that nothing was."""
    facts = {**found._asdict(), "dry_run": True, "had_key": found.has_key, "event": None}
    del facts["has_key"]
    if output == "json":
        write_json("erasure/1", facts)
    elif output == "jsonl":
        write_json_lines("erasure/1", [facts])
    else:
        write_facts([("customer", _named(found)), ("to erase", to_erase(found)), ("stays", _left(found))])
        note("nothing was erased: --yes does it")


def tell_erased(found: Found, erased: Erased, output: Form) -> None:
    """Says what was erased, what is left of it, and how long it takes until nobody has it."""
    event = erased.event._asdict() if erased.event is not None else None
    facts: dict[str, Any] = {**found._asdict(), "dry_run": False, "had_key": erased.had_key, "event": event}
    del facts["has_key"]
    if output == "json":
        write_json("erasure/1", facts)
        return
    if output == "jsonl":
        write_json_lines("erasure/1", [facts])
        return
    told = [
        ("customer", _named(found)),
        ("erased", _destroyed(found, "sealed") if erased.had_key else _nothing(found)),
        ("stays", _left(found)),
    ]
    if erased.event is not None:
        told.append(("event", f"CustomerErased → {erased.event.stream} sequence {erased.event.sequence}"))
    told.append(("processes", "drop the key, and what they made of it, within a second"))
    write_facts(told)


def _named(found: Found) -> str:
    return found.customer if found.customer is not None else "nobody: foreign documents that named no customer"


def _destroyed(found: Found, seals: str) -> str:
    return f"the key that {seals} personal values, in {found.sealed:,} of {several(found.messages, 'stored message')}"


def _nothing(found: Found) -> str:
    if found.erased_before:
        return "nothing: it was erased before, and nothing personal was stored since"
    return "nothing: no personal value was ever stored"


def _left(found: Found) -> str:
    return "what happened, when and how often, without personal values" if found.messages else "nothing"


def _heads(id: str) -> tuple[bytes, bytes]:
    """What every value begins with that this key sealed, and the original in a dead letter, which is in base64."""
    head = f"{SEALED}{id}:" if id else SEALED
    whole = head.encode()[: len(head) // 3 * 3]
    return head.encode(), b'"original": "' + base64.b64encode(whole)


async def _keys_of(bus: Bus, customer: str | None) -> tuple[str | None, bool]:
    """The id of the key, None where there is none and empty where the entry is damaged; and whether one was erased
    before. Needs no master key."""
    name = bus.namespace.bucket("keys")
    # Not made for a question.
    if f"KV_{name}" not in await bus.transport.streams(f"KV_{name}"):
        return None, False
    bucket = await bus.transport.bucket(name, erasable=True)
    token = escape_key(customer if customer is not None else NOBODY)
    entries = [await bucket.get(prefix + token) for prefix in (KEY, ERASED)]
    key, erased = (entry.value if entry is not None else None for entry in entries)
    if key is None:
        return None, erased is not None
    try:
        return KeyRecord.model_validate_json(key).id, erased is not None
    except ValidationError:
        return "", erased is not None
