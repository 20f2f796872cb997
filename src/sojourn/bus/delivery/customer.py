"""One customer as a group's worker knows it: opened from the log, read and written with the customer's own key."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, TypeVar

from sojourn.bus.delivery.member import Member
from sojourn.bus.errors import UnavailableError
from sojourn.bus.event import Event, holds_personal
from sojourn.bus.lane import Lane
from sojourn.bus.personal.key import CustomerKey, UnknownKeyError, handling, sealed_by
from sojourn.bus.ports import Delivery, Stored
from sojourn.bus.processor import Output, SetTimer
from sojourn.bus.reading import Reader, UnknownVersionError, read_as
from sojourn.bus.subjects import NO_KEY, Address

if TYPE_CHECKING:
    from sojourn.bus.delivery.group import Group

R = TypeVar("R")


class Customer:
    """Reads what is stored of a customer, and gives what is published about it what it lacks."""

    __slots__ = ("_at", "_group", "reader")

    def __init__(self, group: Group, at: Address) -> None:
        self._group = group
        self._at = at
        self.reader = Reader(group.schemas, certain=False, gone=group.keys.gone)

    @property
    def key(self) -> CustomerKey | None:
        """The customer's data key, as far as it was needed until now."""
        return self.reader.key

    @key.setter
    def key(self, key: CustomerKey | None) -> None:
        self.reader.key = key

    async def open(self, delivery: Delivery) -> list[Member]:
        """The group's processors with their lanes, and the events before the one delivered, from the log."""
        group, at = self._group, self._at
        stored = await group.transport.read(at.stream, group.namespace.key_filter(at))
        if not stored or stored[-1].sequence < delivery.sequence:
            # A replica that is behind; unless the message was removed since, or stands under a key that is none.
            there = await group.transport.get(at.stream, delivery.sequence)
            if there is not None and at.token != NO_KEY:
                raise UnavailableError(f"{at.stream} does not show sequence {delivery.sequence} yet")
        if group.personal and at.token != NO_KEY:
            # Where it is not at hand, the first sealed value asks for it.
            self.key = group.keys.cached(at.key)
        return await self.read(lambda reader: self._replayed(stored, delivery.sequence, reader))

    def _replayed(self, stored: Sequence[Stored], upto: int, reader: Reader) -> list[Member]:
        group = self._group
        members = [
            Member(processor, group.writers[processor.writer], Lane(), processor.open(self._at.key))
            for processor in group.processors
        ]
        for message in stored:
            for member in members:
                member.replay(message, upto, reader)
        return members

    async def read(self, read: Callable[[Reader], R]) -> R:
        """What ``read`` makes of documents of this customer. Fetches the key or the schemas that it lacks.

        What folds log meanwhile is scrubbed; whoever calls it resets `handling` afterwards.
        """
        reader = self.reader
        handling.set(reader.key)
        try:
            return read(reader)
        except (UnknownKeyError, UnknownVersionError):
            return await read_as(reader, self._group.keys, self._at.key, lambda: self._read(read))

    def _read(self, read: Callable[[Reader], R]) -> R:
        handling.set(self.reader.key)
        return read(self.reader)

    async def sealer(self) -> CustomerKey | None:
        """The key for what a handler keeps, made where there is none; None in a group that knows nothing personal, or
        can know nothing, without a master key."""
        if self.key is None and self._group.personal and self._group.keys.has_master:
            self.key = await self._group.keys.ensure(self._at.key)
        return self.key

    async def unseal(self, text: str) -> bytes | None:
        """What was sealed with the customer's key; None where that was destroyed."""
        try:
            if self.key is not None:
                return self.key.unseal(text, remember=False)
        except UnknownKeyError:
            pass
        if (id := sealed_by(text)) in self._group.keys.gone:
            return None
        # Not kept: whoever is being handled here goes on with the key that the event was read with.
        key = await self._group.keys.seek(self._at.key, id)
        try:
            return key.unseal(text, remember=False) if key is not None else None
        except UnknownKeyError:
            return None

    def lacks(self, output: Output) -> bool:
        """Whether an event in the output has a schema that is not registered yet, or personal values without a key."""
        cleared, key = self._group.schemas.cleared, self.key
        return any(
            type(event) not in cleared or (key is None and holds_personal(event)) for event in _events_of(output)
        )

    async def equip(self, output: Output) -> None:
        """Registers such schemas, and has such a key made. Raises `SchemaError` for what must not be published."""
        group = self._group
        for event in _events_of(output):
            if type(event) not in group.schemas.cleared:
                await group.schemas.admit(type(event))
            if self.key is None and holds_personal(event):
                self.key = await group.keys.ensure(self._at.key)


def _events_of(output: Output) -> Iterable[Event]:
    if not output.timers:
        return output.events
    return [*output.events, *(change.event for change in output.timers if isinstance(change, SetTimer))]
