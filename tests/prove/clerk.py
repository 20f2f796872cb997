"""The agent under test in the proof of bounded memory: slow, and fed with large events. Run as a program it
is a worker of its own."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog

from sojourn import Agent, Context, Event, Key, agent, on
from sojourn.agents.processor import AgentProcessor
from sojourn.bus.client import Bus, open_bus
from sojourn.bus.clock import WallClock
from sojourn.bus.delivery.worker import Worker
from sojourn.bus.nats import connect_nats
from sojourn.bus.subjects import Namespace
from sojourn.bus.timers import JetStreamTimers

log = structlog.get_logger("clerk")

HOT = "hot"
"""The customer who has a large part of all events."""

EVERY = 5
"""Of a customer's events, each so-manieth is answered."""


class PageFiled(Event):
    """A page of a customer's file. ``number`` counts the customer's pages."""

    customer_id: Key
    number: int
    text: str = ""


class PageRead(Event):
    """The page was read."""

    customer_id: Key
    number: int


@agent("clerk", start="beginning")
class Clerk(Agent):
    """Reads page by page. ``hot_page``: seconds for each page of the hot customer, one after the other; ``slow_page``:
    for a large one of anybody else, so that what is in memory stays there."""

    hot_page = 0.0
    slow_page = 0.0

    @on(PageFiled)
    async def read(self, event: PageFiled, ctx: Context) -> PageRead | None:
        slow = self.slow_page if len(event.text) > 1_000 else 0.001
        await asyncio.sleep(self.hot_page if event.customer_id == HOT else slow)
        if event.number % EVERY:
            return None
        return PageRead(customer_id=event.customer_id, number=event.number)


@asynccontextmanager
async def office(url: str, partitions: int) -> AsyncIterator[Bus]:
    """The bus of the proof. Few partitions take little memory each to have several large messages."""
    transport = await connect_nats(url, timers=JetStreamTimers())
    try:
        async with open_bus(transport, Namespace("office", partitions=partitions), clock=WallClock()) as bus:
            yield bus
    finally:
        await transport.close()


async def main(url: str, partitions: int, memory: int, hot_page: float, slow_page: float) -> None:
    """Works until it is told to stop."""
    Clerk.hot_page, Clerk.slow_page = hot_page, slow_page
    told = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
    async with office(url, partitions) as bus:
        async with Worker(bus, [AgentProcessor(Clerk)], catalog=[PageFiled, PageRead], memory=memory) as worker:
            log.info("running")
            await told.wait()
        log.info("stopped", **{group.name: str(group.counters) for group in worker.groups})


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]), float(sys.argv[5])))
