"""Publishing, pipelined: without the guard, with it, with a personal field, and to customers without a key yet."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from itertools import count
from time import monotonic, perf_counter, process_time
from unittest.mock import patch

from benchmarks.events import Cart, CartAbandoned, CartForgotten, Source, customers
from benchmarks.figures import Comparison, Pass
from sojourn import Event
from sojourn.bus.client import Bus, open_bus
from sojourn.bus.clock import WallClock
from sojourn.bus.envelope import Envelope, decode
from sojourn.bus.errors import ClosedError
from sojourn.bus.nats import connect_nats
from sojourn.bus.nats.bucket import NatsBucket
from sojourn.bus.personal.key import SEALED
from sojourn.bus.personal.master import MasterKeys
from sojourn.bus.ports import Stored
from sojourn.bus.publisher import PATIENCE, Publisher, prepare
from sojourn.bus.reading import Reader
from sojourn.bus.subjects import Namespace, unescape_key
from sojourn.bus.timers import JetStreamTimers

GUARD_PROMISE = 0.10
PERSONAL_PROMISE = 0.30

CUSTOMERS = 1_000
"""As many as the customers whose keys are at hand."""

_namespaces = count(1)


class WrongError(Exception):
    """What was stored is not what was published: the figures mean nothing."""


class Unguarded(Publisher):
    """The publisher as it is without a registry and without personal data: nothing is asked of an event's class."""

    async def publish(
        self,
        event: Event,
        *,
        id: str | None = None,
        time: datetime | None = None,
        source: str | None = None,
        cause: Envelope[Event] | None = None,
    ) -> None:
        outgoing = prepare(self._bus, event, id=id, time=time, source=source, cause=cause)
        while not self._closed and (self._unanswered >= self._limit or self._recovery is not None):
            await self._wait()
            outgoing.deadline = monotonic() + PATIENCE
        if self._closed:
            raise ClosedError("this publisher's block has ended: open another with bus.publisher()")
        self._send(self._order, outgoing)
        self._order += 1


@asynccontextmanager
async def fresh_bus(url: str) -> AsyncIterator[Bus]:
    """A bus in a namespace that nobody has used."""
    transport = await connect_nats(url, timers=JetStreamTimers())
    try:
        namespace = Namespace(f"bench{next(_namespaces)}")
        async with open_bus(transport, namespace, clock=WallClock(), master_keys=MasterKeys.new()) as bus:
            yield bus
    finally:
        await transport.close()


class Ledger:
    """Reads what was stored since it last looked."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._seen: dict[str, int] = {}

    async def verify(self, published: Sequence[Cart]) -> None:
        """Raises `WrongError` unless exactly these events were stored, each readable and, where personal, sealed."""
        stored: dict[int, Event] = {}
        documents = 0
        for stream in self._bus.namespace.streams:
            filter = f"{self._bus.namespace.name}.log.>"
            for message in await self._bus.transport.read(stream, filter, self._seen.get(stream, 0) + 1):
                self._seen[stream] = message.sequence
                documents += 1
                event = self._read(message, type(published[0]))
                stored[event.number] = event
        if documents != len(published) or stored != {event.number: event for event in published}:
            raise WrongError(f"{len(published)} events were published, {documents} stored, or with other content")

    def _read(self, message: Stored, cls: type[Cart]) -> Cart:
        sealed = SEALED.encode() in message.payload and b"@" not in message.payload
        if sealed is not (cls is CartForgotten):
            raise WrongError(f"a {cls.__name__} is sealed: {sealed}")
        key = self._bus.keys.cached(unescape_key(message.subject.split(".")[3])) if sealed else None
        event = decode(message.payload, cls, Reader(key=key, certain=True)).event
        if not isinstance(event, Cart):
            raise WrongError(f"a {cls.__name__} was read as {type(event).__name__}")
        return event


async def publish_all(publisher: Publisher, events: Sequence[Cart]) -> Pass:
    """Publishes the events, from the first call until the last one is stored."""
    gc.collect()
    started, cpu = perf_counter(), process_time()
    async with publisher:
        for event in events:
            await publisher.publish(event)
    measured = Pass(len(events), perf_counter() - started, process_time() - cpu)
    if publisher.stored != len(events) or publisher.duplicates:
        raise WrongError(f"of {len(events)} events {publisher.stored} were stored as new")
    return measured


Variant = tuple[Callable[[Bus], Publisher], Callable[[], Sequence[Cart]]]
"""How a variant publishes, and what."""


async def compare(bus: Bus, comparison: Comparison, first: Variant, second: Variant, rounds: int) -> Comparison:
    """Measures both in every round, in turns of who begins, and checks what each has stored."""
    ledger = Ledger(bus)
    for number in range(-1, rounds):
        passes: dict[int, Pass] = {}
        for place in (0, 1) if number % 2 else (1, 0):
            publisher, events = (first, second)[place]
            published = events()
            passes[place] = await publish_all(publisher(bus), published)
            await ledger.verify(published)
        if number >= 0:  # The first round warms up.
            comparison.rounds.append((passes[0], passes[1]))
    return comparison


async def guard(url: str, source: Source, *, events: int, rounds: int, fsync: str) -> Comparison:
    """The same plain events past the guard and through it."""
    comparison = Comparison("guard", "the guard", "without guard", "through the guard", GUARD_PROMISE, fsync)
    async with fresh_bus(url) as bus:
        # Published again in every round: an event's id is made when it is published.
        carts = source.carts(CartAbandoned, customers(CUSTOMERS), events)
        return await compare(bus, comparison, (Unguarded, lambda: carts), (Publisher, lambda: carts), rounds)


async def personal(url: str, source: Source, *, events: int, rounds: int, fsync: str) -> Comparison:
    """The same events through the guard, with a plain address and with a personal one; all keys are at hand."""
    comparison = Comparison("personal", "one Personal field", "plain", "personal", PERSONAL_PROMISE, fsync)
    async with fresh_bus(url) as bus:
        shoppers = customers(CUSTOMERS)
        await asyncio.gather(*map(bus.keys.ensure, shoppers))
        plain = source.carts(CartAbandoned, shoppers, events)
        personal = source.carts(CartForgotten, shoppers, events)
        return await compare(bus, comparison, (Publisher, lambda: plain), (Publisher, lambda: personal), rounds)


async def first_contact(url: str, source: Source, *, events: int, rounds: int, fsync: str) -> Comparison:
    """Personal events of customers whose keys are at hand, and of as many that nobody has seen before."""
    comparison = Comparison("first contact", "new customers only", "known", "new", None, fsync)
    waves = count(1)
    made: list[int] = []
    create = NatsBucket.create

    async def counted(self: NatsBucket, values: dict[str, bytes]) -> set[str]:
        made.append(len(values))
        return await create(self, values)

    async with fresh_bus(url) as bus:
        known = customers(CUSTOMERS)
        await asyncio.gather(*map(bus.keys.ensure, known))
        regulars = source.carts(CartForgotten, known, events)

        def strangers() -> Sequence[Cart]:
            return [source.cart(CartForgotten, name) for name in customers(events, f"wave{next(waves):03}")]

        with patch.object(NatsBucket, "create", counted):
            await compare(bus, comparison, (Publisher, lambda: regulars), (Publisher, strangers), rounds)
    if sum(made) != events * (rounds + 1):
        raise WrongError(f"{events * (rounds + 1)} customers needed a key, {sum(made)} were made")
    comparison.notes |= {"keys": sum(made), "writes": len(made)}
    return comparison
