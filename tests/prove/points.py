"""Drives a worker into a crash point, and another one behind it, in a namespace of their own."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import nats
from nats.aio.client import Client

from sojourn.bus.client import Bus, connect
from sojourn.bus.crashpoints import VARIABLE
from sojourn.bus.ids import derived_id
from tests.bus.delivery.processors import log_of
from tests.bus.relay_routes import check_routes, post
from tests.nats_server import NatsServer
from tests.prove.escort import VALUABLE, CartUpdated
from tests.prove.rawlog import Verdict, count_actions, judge, read_log
from tests.prove.redriving import bury, put_back, redriving
from tests.prove.workers import WorkerProcess

LETTERS = 600
"""Dead letters of a proof: what a process puts back in many steps."""


class Stage:
    """A namespace with events of a few customers, and worker processes for them."""

    def __init__(
        self, server: NatsServer, folder: Path, namespace: str, module: str, bus: Bus, watcher: Client
    ) -> None:
        self.namespace = namespace
        self.ids: set[str] = set()
        self.deserving = 0
        self.workers: list[WorkerProcess] = []
        self._server = server
        self._folder = folder
        self._module = module
        self._bus = bus
        self._watcher = watcher
        self._chance = random.Random(namespace)
        self._counts: dict[str, int] = {}

    async def publish(self, count: int, *, customers: int = 20) -> None:
        async with self._bus.publisher() as publisher:
            for _ in range(count):
                customer = f"c{self._chance.randrange(customers)}"
                number = self._counts[customer] = self._counts.get(customer, 0) + 1
                event = CartUpdated(customer_id=customer, number=number, value=self._chance.randint(0, 100))
                self.deserving += event.value > VALUABLE
                id = derived_id("points", self.namespace, len(self.ids))
                self.ids.add(id)
                await publisher.publish(event, id=id)

    async def publish_one(self, customer: str, *, note: str) -> str:
        """One event that deserves an action, of a customer of its own; returns its id."""
        id = derived_id("points", self.namespace, len(self.ids))
        self.ids.add(id)
        self.deserving += 1
        await self._bus.publish(CartUpdated(customer_id=customer, number=1, value=100, note=note), id=id)
        return id

    def start(self, armed: str | None = None, *, url: str | None = None) -> WorkerProcess:
        """Starts a worker, with a crash point armed in it or none."""
        log = self._folder / f"{self.namespace}-{len(self.workers)}.log"
        worker = WorkerProcess(
            log,
            url or self._server.url,
            self._module,
            namespace=self.namespace,
            environment={VARIABLE: armed or ""},
        )
        self.workers.append(worker)
        return worker

    async def actions(self) -> int:
        return await count_actions(self._watcher, self.namespace)

    async def messages(self) -> int:
        """How many messages all streams of the log hold."""
        total = 0
        for shard in range(4):
            answer = await self._watcher.request(f"$JS.API.STREAM.INFO.{self.namespace.upper()}_{shard}", timeout=10)
            document: dict[str, Any] = json.loads(answer.data)
            total += document["state"]["messages"]
        return total

    async def handled(self, seconds: float = 40.0, *, but: int = 0) -> None:
        """Waits until there is an action for every event that deserves one, ``but`` for so many."""
        async with asyncio.timeout(seconds):
            while await self.actions() < self.deserving - but:
                for worker in self.workers:
                    assert worker.status in {None, -9, 0}, f"a worker ended with {worker.status}: {worker.tail()}"
                await asyncio.sleep(0.02)

    async def verdict(self) -> Verdict:
        return judge(await read_log(self._server.url, self.namespace), self.ids)

    async def check(self) -> None:
        """0 lost, 0 doubled, in order, with the right state."""
        verdict = await self.verdict()
        assert verdict.clean, verdict
        assert verdict.events == len(self.ids)
        assert verdict.actions == verdict.deserving == self.deserving > 0


@asynccontextmanager
async def stage(
    server: NatsServer, folder: Path, namespace: str, module: str = "tests.prove.escort"
) -> AsyncIterator[Stage]:
    watcher = await nats.connect(server.url)
    try:
        async with connect(server.url, namespace=namespace) as bus:
            there = Stage(server, folder, namespace, module, bus, watcher)
            try:
                yield there
            finally:
                for worker in there.workers:
                    worker.kill()
    finally:
        await watcher.close()


async def crash(
    server: NatsServer,
    folder: Path,
    namespace: str,
    armed: Sequence[str],
    *,
    module: str = "tests.prove.escort",
    joined: bool = False,
    customers: int = 20,
) -> None:
    """Has one worker after the other die at its crash point, and then one that goes on; and judges the log.

    ``customers``: with few of them, each has more events waiting than memory is meant for, and is parked for that.
    ``joined``: another worker joins once the armed one runs, which then hands partitions over to it.
    """
    async with stage(server, folder, namespace, module) as there:
        await there.publish(max(160, 80 * min(customers, 4)), customers=customers)
        for point in armed:
            victim = there.start(point)
            if joined:
                await victim.ready()
                there.start()
            await there.publish(20, customers=customers)
            try:
                status = await victim.ended(30)
            except TimeoutError:
                raise AssertionError(f"{point} was never reached: {victim.tail()}") from None
            assert status == -9, f"at {point} it ended with {status}: {victim.tail()}"
        last = there.start()
        await there.publish(20, customers=customers)
        await there.handled()
        await last.ready()
        for worker in there.workers:
            if worker.status is None:
                await worker.ready()
                worker.terminate()
                assert await worker.ended() == 0, worker.tail()
        await there.check()


async def crash_relaying(server: NatsServer, folder: Path, namespace: str, armed: Sequence[str]) -> None:
    """As `crash`, with an agent whose every answer is for another customer: each arrives once and in order."""
    routes = [(f"k{n % 7}", f"t{n % 5}", f"u{n % 3}") for n in range(60)]
    async with connect(server.url, namespace=namespace) as bus:
        await post(bus, routes)

        def start(point: str) -> WorkerProcess:
            log = folder / f"{namespace}-{point.partition(':')[0]}.log"
            module = "tests.bus.relay_shop:Courier"
            return WorkerProcess(log, server.url, module, namespace=namespace, environment={VARIABLE: point})

        for point in armed:
            victim = start(point)
            try:
                assert await victim.ended(60) == -9, victim.tail()
            finally:
                victim.kill()
        last = start("")
        try:
            async with asyncio.timeout(60):
                while (  # noqa: ASYNC110 - another process sets no event
                    len(await log_of(bus.transport, bus.namespace, "log.*.*.act.*.*")) < 2 * len(routes)
                ):
                    await asyncio.sleep(0.02)
            await last.ready()
            last.terminate()
            assert await last.ended(30) == 0, last.tail()
        finally:
            last.kill()
        await check_routes(bus, routes)


async def crash_redriving(server: NatsServer, folder: Path, namespace: str, armed: Sequence[str]) -> None:
    """Has one process after the other die while it puts dead letters back, and then one that ends it: each letter is
    back once, in order for its customer."""
    async with connect(server.url, namespace=namespace) as bus:
        await bury(bus, LETTERS, 20)
        for point in armed:
            async with redriving(server.url, namespace, point) as process, asyncio.timeout(30):
                assert await process.wait() == -9, f"{point} was never reached"
        assert (await put_back(bus))[0] < LETTERS
        async with redriving(server.url, namespace) as process:
            out, _ = await process.communicate()
            assert process.returncode == 0, out
        assert await put_back(bus) == (LETTERS, 0, 0)
