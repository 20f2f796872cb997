"""Pausing, on a real server with workers in processes of their own, judged by the raw log."""

from __future__ import annotations

import asyncio
import itertools
import json
import signal
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import nats
import pytest

from sojourn.bus.client import Bus, connect
from sojourn.console.modules import load
from tests.console.conftest import Ended, Process
from tests.nats_server import NatsServer
from tests.prove.rawlog import read_log

Start = Callable[..., Process]

PAIR = """
import asyncio
from sojourn import Agent, Event, Key, agent, on

class Walked(Event):
    customer_id: Key
    number: int

class LeftSeen(Event):
    customer_id: Key
    number: int

class RightSeen(Event):
    customer_id: Key
    number: int

@agent("left", start="beginning")
class Left(Agent):
    @on(Walked)
    async def see(self, event: Walked) -> LeftSeen:
        await asyncio.sleep(0.02 if event.number % 7 == 0 else 0.002)
        return LeftSeen(customer_id=event.customer_id, number=event.number)

@agent("right", start="beginning")
class Right(Agent):
    @on(Walked)
    async def see(self, event: Walked) -> RightSeen:
        return RightSeen(customer_id=event.customer_id, number=event.number)
"""
CUSTOMERS = 40
GOES_ON = 50
"""So many events another agent answers meanwhile, and the paused one none of them."""

_numbers = itertools.count()


class Pair:
    """Two agents, workers for them, and a publisher that goes on while its block is open."""

    def __init__(self, server: NatsServer, folder: Path, start: Start) -> None:
        (folder / "pair.py").write_text(PAIR)
        self.namespace = f"pausing{next(_numbers)}"
        self.published: dict[str, int] = defaultdict(int)
        self._server = server
        self._start = start
        self._environment = {"SOJOURN_SERVER": server.url, "SOJOURN_NAMESPACE": self.namespace}

    def worker(self) -> Process:
        return self._start("run", "pair", "--logs", "json", **self._environment).until(
            lambda one: '"event": "running"' in one.err
        )

    async def agents(self, *arguments: str) -> Ended:
        """A command, in a process of its own, while publishing goes on."""
        process = self._start("agents", *arguments, **self._environment)
        return await asyncio.to_thread(process.wait)

    async def prolong(self, worker: Process) -> None:
        """Has a worker's session last for a minute, so that it counts as living however slow the machine is."""
        async with connect(self._server.url, namespace=self.namespace) as bus:
            bucket = await bus.transport.bucket(bus.namespace.bucket("leases"))
            for entry in await bucket.entries("member."):
                if entry.value is not None and json.loads(entry.value)["pid"] == worker.process.pid:
                    await bucket.put(entry.key, entry.value, ttl=60)

    @asynccontextmanager
    async def publishing(self) -> AsyncIterator[None]:
        event = next(cls for cls in load("pair").catalog if cls.__name__ == "Walked")
        async with connect(self._server.url, namespace=self.namespace) as bus:
            steady = asyncio.create_task(self._publish(bus, event))
            try:
                yield
            finally:
                steady.cancel()
                await asyncio.wait([steady])

    async def _publish(self, bus: Bus, event: type) -> None:
        async with bus.publisher(in_flight=50) as publisher:
            for turn in itertools.count():
                customer = f"c{turn % CUSTOMERS}"
                self.published[customer] += 1
                await publisher.publish(event(customer_id=customer, number=self.published[customer]))
                await asyncio.sleep(0.01)

    async def stored(self, agent: str) -> dict[str, list[int]]:
        """The numbers of the events that an agent answered, by customer, in the order of the log."""
        found: dict[str, list[int]] = defaultdict(list)
        for log in (await read_log(self._server.url, self.namespace)).values():
            for record in log:
                if f".act.{agent}." in record.subject and "data" in record.document:
                    found[record.document["data"]["customer_id"]].append(record.document["data"]["number"])
        return found

    async def count(self, agent: str) -> int:
        """How many actions of an agent the log holds, as the server counts them."""
        client = await nats.connect(self._server.url)
        try:
            total = 0
            for shard in range(4):
                info = await client.jetstream().stream_info(
                    f"{self.namespace.upper()}_{shard}", subjects_filter=f"{self.namespace}.log.*.*.act.{agent}.>"
                )
                total += sum((info.state.subjects or {}).values())
            return total
        finally:
            await client.close()

    async def until_more(self, agent: str, than: int = 0) -> None:
        async with asyncio.timeout(30):
            while await self.count(agent) <= than:  # noqa: ASYNC110 - the server sets no event
                await asyncio.sleep(0.02)

    async def is_still(self, agent: str, other: str) -> None:
        """Nothing of the agent is stored while the other goes on."""
        before, goes_on = await self.count(agent), await self.count(other)
        await self.until_more(other, goes_on + GOES_ON)
        assert await self.count(agent) == before

    async def all_answered(self, agent: str) -> None:
        """Every event once, in order."""
        expected = {customer: list(range(1, count + 1)) for customer, count in self.published.items()}
        async with asyncio.timeout(40):
            while await self.count(agent) < sum(self.published.values()):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        assert await self.stored(agent) == expected


@pytest.fixture
def pair(nats_server: NatsServer, folder: Path, start: Start) -> Pair:
    return Pair(nats_server, folder, start)


def workers(processes: Sequence[Process]) -> set[int]:
    return {one.process.pid for one in processes}


async def test_a_paused_agent_stores_nothing_and_misses_nothing(pair: Pair) -> None:
    crew = [pair.worker() for _ in range(3)]
    async with pair.publishing():
        await pair.until_more("left")
        for _ in range(2):
            paused = await pair.agents("pause", "left", "-o", "json")
            assert paused.status == 0, paused.err
            document = json.loads(paused.out)
            assert {one["pid"] for one in document["workers"]} == workers(crew)
            await pair.is_still("left", "right")
            resumed = await pair.agents("resume", "left")
            assert (resumed.status, resumed.out) == (0, "left is live; 3 workers acknowledged it\n")
            await pair.until_more("left", await pair.count("left"))
        assert (await pair.agents("pause", "left")).status == 0
        # Workers that come, go and die obey it too.
        crew[0].signal(signal.SIGTERM)
        crew[1].signal(signal.SIGKILL)
        assert crew[0].wait(15).status == 0
        crew[:2] = [pair.worker()]
        await pair.is_still("left", "right")
        crew += [pair.worker()]
        again = await pair.agents("pause", "left", "-o", "json")
        assert {one["pid"] for one in json.loads(again.out)["workers"]} == workers(crew)
        await pair.is_still("left", "right")
        assert (await pair.agents("mode", "left", "live")).status == 0
    await pair.all_answered("left")
    await pair.all_answered("right")


async def test_a_worker_that_stands_still_is_named(pair: Pair) -> None:
    crew = [pair.worker() for _ in range(2)]
    async with pair.publishing():
        await pair.until_more("left")
        crew[0].signal(signal.SIGSTOP)
        await pair.prolong(crew[0])
        try:
            ended = await pair.agents("pause", "left", "--timeout", "2")
        finally:
            crew[0].signal(signal.SIGCONT)
        assert (ended.status, ended.out) == (5, "")
        summary, named = ended.err.splitlines()
        assert "1 of 2 workers did not acknowledge it within 2 s" in summary
        assert f"pid {crew[0].process.pid})" in named
        assert (await pair.agents("pause", "left")).status == 0
        await pair.is_still("left", "right")
        assert (await pair.agents("resume", "left")).status == 0
    await pair.all_answered("left")
    await pair.all_answered("right")


async def test_with_all_agents_paused_nothing_is_stored(pair: Pair) -> None:
    crew = pair.worker()
    async with pair.publishing():
        await pair.until_more("left")
        assert (await pair.agents("pause", "--all")).status == 0
        before = await pair.count("left"), await pair.count("right")
        published = sum(pair.published.values())
        async with asyncio.timeout(30):
            while sum(pair.published.values()) < published + GOES_ON:  # noqa: ASYNC110 - nothing is set by it
                await asyncio.sleep(0.02)
        assert (await pair.count("left"), await pair.count("right")) == before
        crew.signal(signal.SIGTERM)
        assert crew.wait(15).status == 0
    resumed = await pair.agents("resume", "--all")
    assert resumed.out == "left, right are live; no worker has the code now, whoever starts obeys\n"
    pair.worker()
    await pair.all_answered("left")
    await pair.all_answered("right")
