"""One customer as a group's worker knows it: opened from the log, read and written with the customer's own key."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from sojourn.bus.delivery.member import Member
from sojourn.bus.delivery.pages import Page, Pages
from sojourn.bus.errors import UnavailableError
from sojourn.bus.event import Event, holds_personal, key_of
from sojourn.bus.lane import Lane
from sojourn.bus.personal.key import CustomerKey, UnknownKeyError, handling, sealed_by
from sojourn.bus.ports import Stored
from sojourn.bus.processor import Output, Processor, SetTimer
from sojourn.bus.reading import Reader, UnknownVersionError, read_as
from sojourn.bus.subjects import NO_KEY, Address

if TYPE_CHECKING:
    from sojourn.bus.delivery.group import Group

R = TypeVar("R")


class Customer:
    """Reads what is stored of a customer, and gives what is published about it what it lacks."""

    __slots__ = ("_at", "_group", "known", "reader")

    def __init__(self, group: Group, at: Address) -> None:
        self._group = group
        self._at = at
        self.known = False
        """Whether its story was ever read here: until then nothing of it is being handled."""
        self.reader = Reader(group.schemas, certain=False, gone=group.keys.gone)

    @property
    def key(self) -> CustomerKey | None:
        """The customer's data key, as far as it was needed until now."""
        return self.reader.key

    @key.setter
    def key(self, key: CustomerKey | None) -> None:
        self.reader.key = key

    async def open(self, upto: int, *, whole: bool) -> list[Member]:
        """The group's processors with their lanes, and the events before the sequence ``upto``, from the log.
        ``whole``: that is the state of whoever handles what has this sequence; otherwise only the lanes count."""
        group, at = self._group, self._at
        if group.personal and at.token != NO_KEY:
            # Where it is not at hand, the first sealed value asks for it.
            self.key = group.keys.cached(at.key)
        members = [self._member(processor, upto, whole=whole) for processor in group.processors]
        # A replica that is behind; unless the message was removed since, or stands under a key that is none.
        if await self._replay(members, upto) < upto and at.token != NO_KEY:
            await self.look_for(upto)
        self.known = True
        return members

    async def reopen(self, member: Member, upto: int) -> Member:
        """One of the processors, with the events before the sequence ``upto``."""
        fresh = self._member(member.processor, upto)
        await self._replay([fresh], upto)
        return fresh

    async def look_for(self, sequence: int) -> None:
        """Raises `UnavailableError` where a message that was delivered is not shown yet, as by a replica that is
        behind; not where it was removed since."""
        if await self._group.transport.get(self._at.stream, sequence) is not None:
            raise UnavailableError(f"{self._at.stream} does not show sequence {sequence} yet")

    async def history(self, pages: Pages, start: int = 1) -> Page:
        """What is stored of the customer from a sequence on: a page of it. Whoever asked gives back its size."""
        group, at = self._group, self._at

        async def read(limit: int, size: int) -> list[Stored]:
            async with group.reading:
                return await group.transport.read(at.stream, group.namespace.key_filter(at), start, limit, size)

        return await pages.read(read)

    def _member(self, processor: Processor, upto: int, *, whole: bool = True) -> Member:
        writer = self._group.writers[processor.writer]
        return Member(processor, writer, Lane(), processor.open(self._at.key), upto - 1, whole)

    async def _replay(self, members: Sequence[Member], upto: int) -> int:
        """Shows them the log, page by page: a history may be larger than what fits into memory. Returns the last
        sequence."""
        last = 0
        pages = self._group.replaying
        more = True
        while more:
            page = await self.history(pages, last + 1)
            try:
                handling.set(self.reader.key)
                for message in page.messages:
                    for member in members:
                        try:
                            member.replay(message, upto, self.reader)
                        except (UnknownKeyError, UnknownVersionError):
                            await self.read(partial(member.replay, message, upto))
                    last = message.sequence
            finally:
                pages.give(page.size)
            more = page.more
        return last

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

    async def sealers(self, events: Iterable[Event]) -> Mapping[str, CustomerKey]:
        """Registers the schemas of events of other customers where that is not done, and returns the keys that those
        with personal values are sealed with. Raises as `equip` does."""
        group = self._group
        found: dict[str, CustomerKey] = {}
        for event in events:
            if type(event) not in group.schemas.cleared:
                await group.schemas.admit(type(event))
            if holds_personal(event) and (key := key_of(event)) not in found:
                found[key] = await group.keys.ensure(key)
        return found


def _events_of(output: Output) -> Iterable[Event]:
    if not output.timers:
        return output.events
    return [*output.events, *(change.event for change in output.timers if isinstance(change, SetTimer))]
