"""A log on a real server, over which versions of a shop run one after the other or side by side, on virtual time."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from pydantic_core import from_json

from sojourn.agents.loading import catalog_of, load_agents
from sojourn.bus.client import Bus, open_bus
from sojourn.bus.clock import VirtualClock
from sojourn.bus.delivery.worker import Worker
from sojourn.bus.envelope import decode
from sojourn.bus.event import Event
from sojourn.bus.nats import connect_nats
from sojourn.bus.personal.master import MasterKeys
from sojourn.bus.ports import Append
from sojourn.bus.processor import Recorded
from sojourn.bus.reading import Reader
from sojourn.bus.subjects import Namespace, parse_log_subject
from sojourn.bus.timers import VirtualTimers
from sojourn.state.fold import fold
from sojourn.state.journey import Journey
from tests.nats_server import NatsServer

J = TypeVar("J", bound=Journey)

ROOT = Path(__file__).parents[2]
DEADLINE = 30.0

_namespaces = count(1)


def at(moment: str) -> datetime:
    """A moment in UTC, written short: 2024-03-01 10:00."""
    return datetime.fromisoformat(moment).replace(tzinfo=UTC)


class World:
    """A namespace of its own on a server. Timers wait here, and stay when a worker goes: as on the server itself."""

    def __init__(self, server: NatsServer) -> None:
        self.url = server.url
        self.namespace = Namespace(f"evolution{next(_namespaces)}", 4, 2)
        self._clock = VirtualClock(at("2024-03-01 00:00"))
        self._timers = VirtualTimers()
        self._keys = MasterKeys.new()
        self._workers: list[Worker] = []
        self._stored: dict[int, int] = {}

    @asynccontextmanager
    async def bus(self) -> AsyncIterator[Bus]:
        """The bus as a process of its own has it."""
        transport = await connect_nats(self.url, timers=self._timers)
        try:
            async with open_bus(transport, self.namespace, clock=self._clock, master_keys=self._keys) as bus:
                bus.committer.observers.append(self._note)
                yield bus
        finally:
            await transport.close()

    @asynccontextmanager
    async def runs(self, shop: ModuleType, *, only: Collection[str] = ()) -> AsyncIterator[Bus]:
        """A worker with the agents of a version of the shop, or some of them, as `sojourn run` starts it."""
        agents = [agent for agent in load_agents(shop.__name__) if not only or agent.writer in only]
        async with self.bus() as bus:
            for agent in agents:
                # Versions stand in modules of their own here; in a shop the same module changes.
                await bus.registry.register(agent, replace=True)
            worker = Worker(bus, agents, catalog=catalog_of(agents, shop), ingress=False)
            async with worker:
                self._workers.append(worker)
                try:
                    yield bus
                finally:
                    self._workers.remove(worker)

    async def happens(self, bus: Bus, *story: tuple[str, Event]) -> None:
        """What ``bus`` publishes, one after the other, each handled by all workers before the next."""
        for moment, event in story:
            await self.until(moment)
            await bus.publish(event, time=at(moment))
            await self.handled()

    async def until(self, moment: str) -> None:
        """Time passes; timers fire, each handled before the next."""
        bus = self._workers[0].bus
        while (due := self._timers.next_due()) is not None and due <= at(moment):
            for timer in self._timers.pop_due(due):
                self._clock.advance_to(due)
                await bus.committer.store(timer.stream, [Append(timer.target, timer.payload)])
                await self.handled()
        self._clock.advance_to(at(moment))

    async def journeys(self, bus: Bus, journey: type[J], *keys: str) -> list[J]:
        """What the log tells of customers, folded anew."""
        evolvers, found = journey.__sojourn_journey__.evolvers, []
        for key in keys:
            story, reader = [], Reader(bus.schemas, await bus.keys.load(key))
            where = self.namespace.locate(key)
            for message in await bus.transport.read(where.stream, self.namespace.story_filter(where)):
                subject = parse_log_subject(message.subject)
                if subject is not None and subject.family != "due" and subject.name in evolvers:
                    cls = evolvers[subject.name].event
                    story.append(Recorded(decode(message.payload, cls, reader), message.sequence))
            found.append(fold(journey, story))
        return found

    async def documents(self, bus: Bus, *, family: str) -> list[dict[str, Any]]:
        """What the log holds under ``evt`` (without timers) or ``act``, as it was written, in the order of storing."""
        found = []
        for stream in self.namespace.streams:
            for message in await bus.transport.read(stream, f"{self.namespace.name}.log.>"):
                subject = parse_log_subject(message.subject)
                if subject is not None and subject.family == family:
                    found.append((message.timestamp, from_json(message.payload)))
        return [document for _, document in sorted(found, key=lambda pair: pair[0])]

    def command(self, *arguments: str, namespace: str | None = None) -> str:
        """What a command in a process of its own prints, with this server's namespace or another."""
        where = ("--server", self.url, "--namespace", namespace or self.namespace.name)
        done = subprocess.run(
            [sys.executable, "-c", "from sojourn.console.main import main; main()", *arguments, *where],
            cwd=ROOT,
            env=os.environ | {"TZ": "UTC", "NO_COLOR": "1"},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def _note(self, stream: str, appends: Sequence[Append], sequences: Sequence[int]) -> None:
        for append, sequence in zip(appends, sequences, strict=True):
            tokens = append.subject.split(".", 5)
            if tokens[1] == "log" and tokens[4] == "evt":
                self._stored[int(tokens[2])] = sequence

    async def handled(self) -> None:
        """Waits until every worker has closed every event, whoever stored it."""
        await until(
            lambda: all(
                bool(group.partitions) and group.partitions[partition].floor >= sequence
                for worker in self._workers
                for group in worker.groups
                for partition, sequence in self._stored.items()
            )
        )


async def until(condition: Callable[[], bool]) -> None:
    """Waits for a condition, with a deadline."""
    async with asyncio.timeout(DEADLINE):
        while not condition():  # noqa: ASYNC110 - it is about a server's answers, of which nothing here is told
            await asyncio.sleep(0.002)


def lines(text: str) -> list[str]:
    """Lines without the blanks that columns are filled up with."""
    return [" ".join(line.split()) for line in text.splitlines()]
