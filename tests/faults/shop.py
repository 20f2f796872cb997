"""What the tests of faults run: a worker and a publisher, each behind a proxy of its own, judged by the raw log."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
from collections.abc import AsyncIterator, Callable
from typing import Any

import nats
from nats.aio.client import Client

from sojourn.bus.client import Bus, connect
from sojourn.bus.delivery.worker import Worker
from sojourn.bus.ids import derived_id
from sojourn.console.modules import load
from tests.faults.proxy import DROP, Proxy
from tests.nats_server import NatsServer
from tests.prove.escort import VALUABLE, CartUpdated
from tests.prove.rawlog import Verdict, count_actions, judge, read_log

_numbers = itertools.count()


class Shop:
    """A namespace of its own with the agent of the proofs, which a worker runs through ``to_worker`` while events are
    published through ``to_publisher``. ``watcher`` is a plain connection past both."""

    def __init__(self, server: NatsServer, namespace: str, seed: int, watcher: Client) -> None:
        self.namespace = namespace
        self.to_worker = Proxy(server.port)
        self.to_publisher = Proxy(server.port)
        self.chance = random.Random(seed)
        self.worker_states: list[str] = []
        self.publisher_states: list[str] = []
        self.bus: Bus
        self.ids: set[str] = set()
        self.deserving = 0
        self._server = server
        self._seed = seed
        self._watcher = watcher
        self._counts: dict[str, int] = {}

    @property
    def proxies(self) -> tuple[Proxy, Proxy]:
        return self.to_worker, self.to_publisher

    def make(self, count: int, *, customers: int = 20, note: str = "") -> list[tuple[str, CartUpdated]]:
        """So many new events with their ids; ``note`` makes them large."""
        made = []
        for _ in range(count):
            customer = f"c{self.chance.randrange(customers)}"
            number = self._counts[customer] = self._counts.get(customer, 0) + 1
            event = CartUpdated(customer_id=customer, number=number, value=self.chance.randint(0, 100), note=note)
            id = derived_id("faults", self.namespace, self._seed, len(self.ids))
            self.ids.add(id)
            self.deserving += event.value > VALUABLE
            made.append((id, event))
        return made

    async def publish(self, events: list[tuple[str, CartUpdated]], *, pause: float = 0.0) -> None:
        async with self.bus.publisher(in_flight=100) as publisher:
            for id, event in events:
                await publisher.publish(event, id=id)
                if pause:
                    await asyncio.sleep(pause)

    async def actions(self) -> int:
        return await count_actions(self._watcher, self.namespace)

    async def handled(self, count: int, seconds: float = 40.0) -> None:
        """Waits until the log holds that many actions."""
        async with asyncio.timeout(seconds):
            while await self.actions() < count:  # noqa: ASYNC110 - the server sets no event
                await asyncio.sleep(0.02)

    async def stored(self, id: str) -> int:
        """How many events of that id the log holds."""
        logs = await read_log(self._server.url, self.namespace)
        return sum(record.document.get("id") == id for log in logs.values() for record in log)

    async def until_stored(self, id: str) -> None:
        """Waits until the log holds an event of that id."""
        async with asyncio.timeout(20):
            while not await self.stored(id):  # noqa: ASYNC110 - the server sets no event
                await asyncio.sleep(0.02)

    async def remember(self, seconds: float) -> None:
        """Has the server remember message ids for so long only."""
        for shard in range(4):
            stream = f"{self.namespace.upper()}_{shard}"
            config = (await self._ask(f"STREAM.INFO.{stream}"))["config"]
            config["duplicate_window"] = int(seconds * 1e9)
            changed = await self._ask(f"STREAM.UPDATE.{stream}", config)
            assert changed["config"]["duplicate_window"] == int(seconds * 1e9), changed

    async def _ask(self, subject: str, document: object = None) -> dict[str, Any]:
        body = b"" if document is None else json.dumps(document).encode()
        answer: dict[str, Any] = json.loads((await self._watcher.request(f"$JS.API.{subject}", body, timeout=10)).data)
        assert "error" not in answer, answer
        return answer

    async def verdict(self) -> Verdict:
        return judge(await read_log(self._server.url, self.namespace), self.ids)

    async def check(self) -> None:
        """0 lost, 0 doubled, in order, with the right state."""
        verdict = await self.verdict()
        assert verdict.clean, verdict
        assert verdict.events == len(self.ids)
        assert verdict.actions == verdict.deserving == self.deserving > 0


@contextlib.asynccontextmanager
async def open_shop(server: NatsServer, seed: int) -> AsyncIterator[Shop]:
    namespace = f"faults{next(_numbers)}"
    watcher = await nats.connect(server.url)
    shop = Shop(server, namespace, seed, watcher)
    try:
        loaded = load("tests.prove.escort")
        async with (
            shop.to_worker,
            shop.to_publisher,
            connect(shop.to_worker.url, namespace=namespace, say=shop.worker_states.append) as workers,
            connect(shop.to_publisher.url, namespace=namespace, say=shop.publisher_states.append) as shop.bus,
            Worker(workers, loaded.processors, catalog=loaded.catalog),
        ):
            try:
                yield shop
            finally:
                # A test that failed is to end, whatever its network is like.
                for proxy in shop.proxies:
                    proxy.clear()
                    proxy.reset()
    finally:
        await watcher.close()


async def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Waits until the condition holds."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - what is waited for sets no event
            await asyncio.sleep(0.005)


def lose_answers(proxy: Proxy, pattern: bytes) -> asyncio.Event:
    """Swallows whatever the server says from the moment on when ``pattern`` is sent to it; the event is then set."""
    lost = asyncio.Event()

    def lose(_: object) -> None:
        proxy.set(down=DROP)
        lost.set()

    proxy.when("up", pattern, lose)
    return lost
