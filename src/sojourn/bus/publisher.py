"""Publishing: one event awaited, or many pipelined.

A publisher has no lane. An event's own id is its message id, and whoever sends one again because the answer was lost
first looks whether it is stored: within the server's deduplication window of two minutes and later, it is stored once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from functools import cache, partial
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Self, TypeVar

from sojourn.bus.envelope import Cause, Envelope, cause_of, encode
from sojourn.bus.errors import ClosedError, DuplicateError, PublishError, TooLargeError, TransientError
from sojourn.bus.event import Event, holds_personal, key_of, spec_of
from sojourn.bus.ids import uuid7
from sojourn.bus.personal.key import CustomerKey
from sojourn.bus.ports import Append
from sojourn.bus.twins import Sent, find_twins

if TYPE_CHECKING:
    from sojourn.bus.client import Bus

R = TypeVar("R")

PATIENCE = 60.0
"""How long a publisher retries through an outage, in seconds."""

_PAUSE = 0.2

HEADROOM = 1024
"""Bytes kept free for the headers of a message, below the server's limit."""


class Published(NamedTuple):
    """Where an event was stored. ``duplicate``: it was there before, under the same id; ``sequence`` is 0 where
    unknown."""

    id: str
    stream: str
    sequence: int
    duplicate: bool = False


@dataclass(slots=True)
class Outgoing:
    """An event on its way."""

    event: Event
    id: str
    stream: str
    append: Append
    deadline: float
    key: str
    uncertain: bool = False
    """Whether an attempt ended without an answer: then a stored twin is this very event, and no duplicate."""
    after: int | None = None
    """A sequence of the stream below that of any attempt; None before the first one."""

    @property
    def sent(self) -> Sent:
        """What its stored twin is found by."""
        return Sent(self.stream, self.append.subject, self.id, self.after or 0)


async def clear(bus: Bus, event: Event) -> None:
    """Registers the event's schema where this process has not yet done so. Retries through an outage. Raises
    `SchemaError` where it is not the registered one, and what the last attempt met."""
    cls = type(event)
    if cls not in bus.schemas.cleared:
        await _patiently(partial(bus.schemas.admit, cls))


async def sealer_of(bus: Bus, event: Event) -> CustomerKey | None:
    """The key that an event's personal values are sealed with; None where it has none. Retries through an outage.
    Raises `ConfigurationError` where it cannot be made or read, and what the last attempt met."""
    if not holds_personal(event):
        return None
    customer = key_of(event)
    return bus.keys.cached(customer) or await _patiently(partial(bus.keys.ensure, customer))


async def _patiently(attempt: Callable[[], Awaitable[R]]) -> R:
    deadline = monotonic() + PATIENCE
    while True:
        try:
            return await attempt()
        except TransientError:
            if monotonic() >= deadline:
                raise
        await asyncio.sleep(_PAUSE)


@cache
def _trial() -> CustomerKey:
    """Seals what is only tried, and goes nowhere. What it seals is as long as what any customer's key does."""
    return CustomerKey.new()[0]


@dataclass(slots=True)
class _Held:
    """An event that waits for its customer's key, or behind one that does. ``make`` seals it; None where there is
    nothing to seal."""

    order: int
    outgoing: Outgoing
    make: Callable[..., Outgoing] | None


def prepare(
    bus: Bus,
    event: Event,
    *,
    id: str | None,
    time: datetime | None,
    source: str | None,
    cause: Envelope[Event] | None,
    sealer: CustomerKey | None = None,
) -> Outgoing:
    """The append of an event; raises `DefinitionError`, `SchemaError`, `TooLargeError` and `ValueError` (a naive time,
    an unusable id, source or key) before anything is sent."""
    spec = spec_of(event)
    at = bus.namespace.locate(key_of(event))
    id = id if id is not None else uuid7()
    # It travels as a header too, where a line's end would begin another one and spaces around it are lost.
    if not id or not id.isprintable() or id != id.strip() or len(id.encode()) > 512:
        raise ValueError(f"an event's id is 1 to 512 bytes of printable text without spaces around it, not {id[:40]!r}")
    source = source or bus.source
    if not source.isprintable() or len(source) > 2048:
        raise ValueError(f"an event's source is printable text of 2,048 characters at most, not {source[:40]!r}")
    if time is None:
        time = bus.clock.now()
    elif time.utcoffset() is None:
        raise ValueError(f"the time of {spec.type} is naive; say which zone: datetime(…, tzinfo=UTC)")
    because: Cause | None = cause_of(cause, None) if cause is not None else None
    payload = encode(event, id=id, source=source, key=at.key, time=time, cause=because, sealer=sealer)
    limit = bus.transport.max_payload - HEADROOM
    if len(payload) > limit:
        raise TooLargeError(
            f"{spec.type} is {len(payload):,} bytes as a document; the server takes {limit:,}. "
            "Store the content elsewhere and publish a reference to it",
            size=len(payload),
            limit=limit,
        )
    append = Append(bus.namespace.event(at, spec.type), payload, message_id=id)
    return Outgoing(event, id, at.stream, append, monotonic() + PATIENCE, at.key)


async def publish_one(bus: Bus, outgoing: Outgoing) -> Published:
    """Stores one event, retrying through an outage. Raises what the last attempt met."""
    outgoing.after = bus.committer.reached(outgoing.stream)
    while True:
        try:
            if outgoing.uncertain and (twins := await find_twins(bus.transport, [outgoing.sent])):
                return Published(outgoing.id, outgoing.stream, twins[outgoing.sent])
            [sequence] = await bus.committer.store(outgoing.stream, [outgoing.append])
        except DuplicateError as error:
            return Published(outgoing.id, outgoing.stream, error.sequence or 0, duplicate=not outgoing.uncertain)
        except TransientError:
            if monotonic() >= outgoing.deadline:
                raise
            outgoing.uncertain = True
            await asyncio.sleep(_PAUSE)
        else:
            return Published(outgoing.id, outgoing.stream, sequence)


class Publisher:
    """Publishes many events without waiting for each::

        async with bus.publisher() as publisher:
            for event in events:
                await publisher.publish(event)

    At most ``in_flight`` events are unanswered; beyond that `publish` waits. Leaving the block waits for all of them
    and raises an `ExceptionGroup` of `PublishError`, one for each event that was refused or outlived the patience of
    60 s; with ``on_error`` each of these is handed to it instead, when it happens. One customer's events are stored in
    the order of the calls; after an outage those not known to be stored are sent again, in order, before new ones.
    """

    def __init__(
        self, bus: Bus, *, in_flight: int = 2000, on_error: Callable[[PublishError], None] | None = None
    ) -> None:
        if in_flight < 1:
            raise ValueError(f"in_flight={in_flight}: at least one event has to be in flight")
        self._bus = bus
        self._limit = in_flight
        self._on_error = on_error
        self._unanswered = 0
        self._retries: list[tuple[int, Outgoing]] = []
        self._recovery: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._held: dict[str, list[_Held]] = {}
        self._fetching: set[asyncio.Task[None]] = set()
        self._order = 0
        self._closed = False
        self._given_up = False
        self.stored = 0
        self.duplicates = 0
        self.failures: list[PublishError] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed = True
        self._changed.set()
        # Cancelled or interrupted: what is on its way may still arrive; waiting for it is not what was asked.
        interrupted = error is not None and not isinstance(error, Exception)
        try:
            if not interrupted:
                await self.flush()
        finally:
            self._given_up = True
            for task in (self._recovery, *self._fetching):
                if task is not None:
                    task.cancel()
        if self.failures and not interrupted:
            raise ExceptionGroup(f"{len(self.failures)} of the events were not stored", self.failures)

    async def publish(
        self,
        event: Event,
        *,
        id: str | None = None,
        time: datetime | None = None,
        source: str | None = None,
        cause: Envelope[Event] | None = None,
    ) -> None:
        """Sends an event; returns when there is room for the next, not when it is stored. Raises what is wrong with
        the event itself at once (`SchemaError`, `TooLargeError`, `ValueError`), and `ClosedError` after the block has
        ended."""
        bus = self._bus
        if type(event) not in bus.schemas.cleared:
            await clear(bus, event)
        personal = spec_of(event).personal and holds_personal(event)
        sealer = bus.keys.cached(key_of(event)) if personal else None
        # What has to wait for a key is prepared now all the same, so that what is wrong with it is raised here.
        trial = _trial() if personal and sealer is None else sealer
        outgoing = prepare(bus, event, id=id, time=time, source=source, cause=cause, sealer=trial)
        while not self._closed and (self._unanswered >= self._limit or self._recovery is not None):
            await self._wait()
            outgoing.deadline = monotonic() + PATIENCE
        if self._closed:
            raise ClosedError("this publisher's block has ended: open another with bus.publisher()")
        order = self._order
        self._order += 1
        # Looked at again, since the wait may have changed it: a key that came, one that was erased.
        key = bus.keys.cached(outgoing.key) if personal else None
        waits = outgoing.key in self._held or (personal and key is None)
        if not waits and key is sealer:
            self._send(order, outgoing)
            return
        make = None
        if personal:
            now = time or bus.clock.now()
            make = partial(prepare, bus, event, id=outgoing.id, time=now, source=source, cause=cause)
        held = _Held(order, outgoing, make)
        if waits:
            self._hold(held)
        else:
            self._release(held, key)

    async def flush(self) -> None:
        """Waits until every event sent so far is stored or has failed."""
        while self._unanswered or self._recovery is not None:
            await self._wait()

    async def _wait(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    def _send(self, order: int, outgoing: Outgoing) -> None:
        self._unanswered += 1
        if outgoing.after is None:
            outgoing.after = self._bus.committer.reached(outgoing.stream)

        def done(result: list[int] | Exception) -> None:
            self._unanswered -= 1
            self._changed.set()
            if isinstance(result, DuplicateError) and not outgoing.uncertain:
                self.duplicates += 1
            elif isinstance(result, TransientError) and monotonic() < outgoing.deadline and not self._given_up:
                outgoing.uncertain = True
                self._retries.append((order, outgoing))
                if self._recovery is None:
                    self._recovery = asyncio.create_task(self._recover())
            elif isinstance(result, Exception) and not isinstance(result, DuplicateError):
                self._fail(outgoing, result)
            else:
                self.stored += 1

        chain = (self, outgoing.key)
        self._bus.committer.submit(outgoing.stream, [outgoing.append], done, chain=chain)

    def _hold(self, held: _Held) -> None:
        """Keeps a customer's events until the customer has a key, and those of others go on meanwhile."""
        self._unanswered += 1
        customer = held.outgoing.key
        if customer not in self._held:
            self._held[customer] = []
            task = asyncio.create_task(self._fetch(customer))
            self._fetching.add(task)
            task.add_done_callback(self._fetching.discard)
        self._held[customer].append(held)

    async def _fetch(self, customer: str) -> None:
        key: CustomerKey | None = None
        failure: Exception | None = None
        try:
            key = await _patiently(partial(self._bus.keys.ensure, customer))
        except Exception as error:  # noqa: BLE001 - whatever it is, each event is told of it
            failure = error
        for held in self._held.pop(customer):
            self._unanswered -= 1
            if failure is not None and held.make is not None:
                self._fail(held.outgoing, failure)
            else:
                self._release(held, key)
        self._changed.set()

    def _release(self, held: _Held, key: CustomerKey | None) -> None:
        outgoing = held.outgoing
        outgoing.deadline = monotonic() + PATIENCE
        try:
            if held.make is not None:
                outgoing = held.make(sealer=key)
        except Exception as error:  # noqa: BLE001 - the others still have to go
            self._fail(outgoing, error)
            return
        if self._recovery is not None:
            self._retries.append((held.order, outgoing))
        else:
            self._send(held.order, outgoing)

    async def _recover(self) -> None:
        try:
            while self._retries or self._unanswered:
                while self._unanswered:
                    await self._wait()
                await asyncio.sleep(_PAUSE)
                retries, self._retries = sorted(self._retries, key=lambda item: item[0]), []
                for order, outgoing in await self._not_stored(retries):
                    self._send(order, outgoing)
        finally:
            self._recovery = None
            self._changed.set()

    async def _not_stored(self, retries: list[tuple[int, Outgoing]]) -> list[tuple[int, Outgoing]]:
        """Those of the events that are to be sent again. None while nobody can tell: the next round asks again."""
        try:
            twins = await find_twins(self._bus.transport, [item[1].sent for item in retries if item[1].uncertain])
        except TransientError as error:
            # All of them wait: a customer's later event must not overtake one of which nobody could tell.
            now = monotonic()
            for item in retries:
                if now < item[1].deadline:
                    self._retries.append(item)
                else:
                    self._fail(item[1], error)
            return []
        left = [item for item in retries if item[1].sent not in twins]
        self.stored += len(retries) - len(left)
        return left

    def _fail(self, outgoing: Outgoing, reason: Exception) -> None:
        failure = PublishError(
            f"{spec_of(outgoing.event).type} {outgoing.id} was not stored: {reason}",
            event=outgoing.event,
            reason=reason,
        )
        failure.__cause__ = reason
        if self._on_error is not None:
            self._on_error(failure)
        else:
            self.failures.append(failure)
