"""A bus in memory with a driver over it, and customers who do what a list says."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from sojourn.bus.client import Bus
from sojourn.bus.clock import VirtualClock
from sojourn.bus.delivery.worker import Worker
from sojourn.bus.envelope import Envelope
from sojourn.bus.event import Event
from sojourn.bus.ports import Stored
from sojourn.bus.processor import Processor
from sojourn.simulation.driver import Action, Driver, Progress
from sojourn.simulation.engine import Engine
from sojourn.simulation.timeline import Happening, Timeline
from sojourn.simulation.timers import CustomerTimers
from tests.simulation import shop

START = datetime(2026, 1, 5, tzinfo=UTC)
MEMORY = Engine("memory")


def at(days: float) -> datetime:
    return START + timedelta(days=days)


def ordered(key: str, days: float, *, items: int = 1, id: str | None = None) -> Happening:
    event = shop.OrderPlaced(customer_id=key, order_id=f"o{days}", amount=Decimal(10), items=items)
    return Happening(at(days), id or f"{key}-{days}", event)


def abandoned(key: str, days: float, value: int = 80) -> Happening:
    return Happening(at(days), f"{key}-{days}-a", shop.CartAbandoned(customer_id=key, cart_value=Decimal(value)))


class Scripted:
    """Does what its list says; ``answer`` says what it does about an action."""

    def __init__(
        self,
        key: str,
        happenings: Iterable[Happening],
        answer: Callable[[Envelope[Event]], Iterable[Happening]] = lambda action: (),
    ) -> None:
        self._key = key
        self._happenings = list(happenings)
        self._answer = answer
        self.seen: list[Envelope[Event]] = []

    @property
    def key(self) -> str:
        return self._key

    def next_at(self) -> datetime | None:
        return self._happenings[0].time if self._happenings else None

    def take(self) -> Happening:
        return self._happenings.pop(0)

    def react(self, action: Envelope[Event]) -> None:
        self.seen.append(action)
        self._happenings = sorted([*self._happenings, *self._answer(action)], key=lambda happening: happening.time)


class World:
    """An open bus in memory, with a worker and the timers of a driver."""

    def __init__(self, bus: Bus, worker: Worker, clock: VirtualClock, timers: CustomerTimers) -> None:
        self.bus = bus
        self.worker = worker
        self.clock = clock
        self.timers = timers

    def driver(
        self,
        timelines: Iterable[Timeline],
        *,
        days: float = 14,
        window: timedelta = timedelta(hours=6),
        on_progress: Callable[[Progress], None] | None = None,
        on_action: Callable[[Action], None] | None = None,
    ) -> Driver:
        return Driver(
            self.bus,
            self.timers,
            timelines,
            clock=self.clock,
            end=at(days),
            quiet=self.worker.caught_up,
            hear=self.worker.widen,
            types={cls.__name__: cls for cls in shop.CATALOG},
            window=window,
            on_progress=on_progress,
            on_action=on_action,
        )

    async def story(self, key: str) -> list[str]:
        """What the log tells of a customer: ``day:type``, timers as ``day:due``, in the order of the log."""
        where = self.bus.namespace.locate(key)
        messages = await self.bus.transport.read(where.stream, self.bus.namespace.story_filter(where))
        return [_told(message) for message in messages]


def _told(message: Stored) -> str:
    from pydantic_core import from_json

    document = from_json(message.payload)
    days = (datetime.fromisoformat(document["time"]) - START) / timedelta(days=1)
    return f"{days:g}:{'due' if '.evt.due.' in message.subject else document['type']}"


@asynccontextmanager
async def world(*processors: Processor) -> AsyncIterator[World]:
    clock, timers = VirtualClock(START), CustomerTimers()
    members: Sequence[Processor] = processors
    async with (
        MEMORY.open(clock=clock, timers=timers, catalog=shop.CATALOG) as bus,
        Worker(bus, members, catalog=shop.CATALOG, ingress=False, relays=False) as worker,
    ):
        yield World(bus, worker, clock, timers)
