"""A namespace on a server, opened as often as a test needs processes."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable

from sojourn.bus.client import Bus, open_bus
from sojourn.bus.clock import WallClock
from sojourn.bus.deadletters import DeadLetter, dead_letters
from sojourn.bus.envelope import Envelope, decode
from sojourn.bus.event import Event
from sojourn.bus.nats import connect_nats
from sojourn.bus.personal.master import MasterKeys
from sojourn.bus.reading import Reader, read_as
from sojourn.bus.subjects import Namespace
from sojourn.bus.timers import JetStreamTimers
from tests.nats_server import NatsServer

DEADLINE = 30.0

_numbers = itertools.count()


def namespace() -> Namespace:
    """A small one that nobody else has."""
    return Namespace(f"erasure{next(_numbers)}", 4, 1)


@contextlib.asynccontextmanager
async def opened(server: NatsServer, namespace: Namespace, master: MasterKeys | None) -> AsyncIterator[Bus]:
    """The namespace as one process has it."""
    transport = await connect_nats(server.url, timers=JetStreamTimers())
    try:
        async with open_bus(transport, namespace, clock=WallClock(), master_keys=master) as bus:
            yield bus
    finally:
        await transport.close()


async def until(condition: Callable[[], Awaitable[object]], seconds: float = DEADLINE) -> None:
    """Waits until a condition holds that the server is asked about."""
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110 - any condition, not one with an event
            await asyncio.sleep(0.02)


async def story(bus: Bus, customer: str, *types: type[Event]) -> list[Envelope[Event]]:
    """The events and actions of a customer that are of these types, in the order of the log, as they read now."""
    at = bus.namespace.locate(customer)
    known = {cls.__name__: cls for cls in types}
    stored = await bus.transport.read(at.stream, f"{bus.namespace.name}.log.{at.partition}.{at.token}.>")
    wanted = [(message.payload, known[type]) for message in stored if (type := message.subject.split(".")[-1]) in known]
    reader = Reader(bus.schemas, await bus.keys.load(customer), certain=False)
    return await read_as(reader, bus.keys, customer, lambda: [decode(payload, cls, reader) for payload, cls in wanted])


async def dead(bus: Bus) -> list[DeadLetter]:
    """All dead letters."""
    return [letter async for letter in dead_letters(bus)]
