"""Erasure: what was personal about a customer becomes unreadable, in a log that is never rewritten.

Every personal value is sealed under its customer's data key, wherever it is stored. Destroying that key erases them
all: in the log, in lanes and timers, in dead letters, in copies of the streams that were made before. A backup of the
bucket of keys still holds the key, though: restoring it calls for erasing again.
"""

from __future__ import annotations

from typing import NamedTuple

from sojourn.bus.client import Bus
from sojourn.bus.event import Event, Key
from sojourn.bus.publisher import Published, clear


class CustomerErased(Event, owner="sojourn"):
    """A customer's personal data were erased: whoever keeps copies elsewhere deletes them now."""

    customer_id: Key


class Erasure(NamedTuple):
    """What an erasure did. ``had_key``: there were sealed values to lose; ``published``: where `CustomerErased` was
    stored."""

    customer: str
    had_key: bool
    published: Published


async def erase(bus: Bus, customer: str) -> Erasure:
    """Erases what is personal about a customer, for good.

    Destroys the customer's data key on the server (its bytes are overwritten), has every process that holds it drop it,
    and with it what was folded from it, within a second, and publishes `CustomerErased`. From then on personal fields
    of what was stored read None, ``envelope.erased`` names them, and the rest of the story stays. What is published
    about the customer later gets a new key. Erasing again, after an interruption for instance, does no harm.

    What another process publishes about the customer within that second may still be sealed with the destroyed key:
    then it is erased, too. Raises `ValueError` for a text that cannot be a key, and what the server meets.
    """
    bus.namespace.locate(customer)
    event = CustomerErased(customer_id=customer)
    # Refused before anything is done, where it is.
    await clear(bus, event)
    had_key = await bus.keys.erase(customer)
    published = await bus.publish(event)
    return Erasure(customer, had_key, published)
