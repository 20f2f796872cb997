"""What one customer does, and when: the port between the driver and those who invent or remember customers."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple, Protocol

from sojourn.bus.envelope import Envelope
from sojourn.bus.event import Event


class Happening(NamedTuple):
    """One event of one customer. ``time`` is aware; ``id`` is the event's own identity, the same in every run."""

    time: datetime
    id: str
    event: Event


class Timeline(Protocol):
    """One customer: a shopper who is made up, or one whose past is replayed."""

    @property
    def key(self) -> str:
        """The customer. Every event of this timeline is that customer's."""
        ...

    def next_at(self) -> datetime | None:
        """When the next event happens if nothing comes in between; None where nothing will. Never earlier than the
        event taken last, or the action reacted to last."""
        ...

    def take(self) -> Happening:
        """The next event, at `next_at`; it has happened now."""
        ...

    def react(self, action: Envelope[Event]) -> None:
        """Sees an action to this customer, which may change what comes after ``action.time``."""
        ...
