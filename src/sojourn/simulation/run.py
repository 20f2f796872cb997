"""One run: customers, agents and an engine, from an empty namespace to the audit of its log."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from time import monotonic
from typing import Any

from sojourn.bus.catalog import Catalog
from sojourn.bus.clock import VirtualClock
from sojourn.bus.delivery.worker import Worker
from sojourn.bus.event import Event
from sojourn.bus.processor import Processor
from sojourn.simulation.audit import Tally, audit
from sojourn.simulation.driver import Action, Driver, Progress
from sojourn.simulation.engine import Engine
from sojourn.simulation.timeline import Timeline
from sojourn.simulation.timers import CustomerTimers


@dataclass(frozen=True, slots=True)
class Watching:
    """Who is told of a run while it goes on: ``on_progress`` after each round, ``on_action`` of each action."""

    on_progress: Callable[[Progress], None] | None = None
    on_action: Callable[[Action], None] | None = None


NOBODY = Watching()


@dataclass(frozen=True, slots=True)
class Timing:
    """How long a run took, in seconds of the wall clock: ``drive`` from the first event to quiescence at the end."""

    engine: str
    total: float
    drive: float
    events: int

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "engine": self.engine,
            "seconds": round(self.total, 3),
            "drive_seconds": round(self.drive, 3),
            "events_per_second": round(self.events / self.drive, 1) if self.drive else 0.0,
        }


async def run_timelines(
    timelines: Iterable[Timeline],
    processors: Sequence[Processor],
    catalog: Catalog,
    *,
    start: datetime,
    end: datetime,
    window: timedelta,
    engine: Engine,
    source: str,
    watching: Watching = NOBODY,
) -> tuple[Tally, Timing]:
    """Lets the timelines live from ``start`` to before ``end`` with the processors, and counts what that left in the
    log.

    ``source``: whose the published events are said to be. Raises what the engine, the worker and the driver raise.
    """
    began = monotonic()
    clock, timers = VirtualClock(start), CustomerTimers()
    catalog = catalog | (
        cls for processor in processors for cls in (*processor.publishes.values(), *processor.handles.values())
    )
    async with _rare_collections(), engine.open(clock=clock, timers=timers, catalog=catalog) as bus:
        async with Worker(bus, processors, catalog=catalog, ingress=False, relays=False) as worker:
            driver = Driver(
                bus,
                timers,
                timelines,
                clock=clock,
                end=end,
                quiet=worker.caught_up,
                hear=worker.widen,
                types=_by_name(catalog),
                window=window,
                source=source,
                on_progress=watching.on_progress,
                on_action=watching.on_action,
            )
            before = monotonic()
            await _drive(driver, worker)
            after = monotonic()
        # After the worker has left: its acks have reached the server.
        tally = await audit(bus.transport, bus.namespace, processors, published=driver.published, end=end)
    return tally, Timing(engine.kind, monotonic() - began, after - before, len(driver.published))


@asynccontextmanager
async def _rare_collections() -> AsyncIterator[None]:
    """Lets Python look for reference cycles less often: a run keeps millions of objects and makes hardly any cycles;
    looking through them took a third of its time (70,000 events, Python 3.11)."""
    thresholds = gc.get_threshold()
    gc.set_threshold(50_000, 20, 100)
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)


async def _drive(driver: Driver, worker: Worker) -> None:
    """Runs the driver; a worker that fails ends it, instead of being waited for for ever."""
    driving, failing = asyncio.create_task(driver.run()), asyncio.create_task(worker.wait())
    try:
        await asyncio.wait([driving, failing], return_when=asyncio.FIRST_COMPLETED)
        if driving.done():
            return driving.result()
        failing.result()
    finally:
        for task in (driving, failing):
            task.cancel()
        await asyncio.wait([driving, failing])
    return None


def _by_name(catalog: Catalog) -> dict[str, type[Event]]:
    return {cls.__name__: cls for cls in catalog}
