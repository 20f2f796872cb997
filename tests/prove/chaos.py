"""Drives the chaos proof: workers share the customers while they are killed and frozen, and the server is killed."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import nats
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js.errors import Error as JetStreamError

from sojourn.bus.client import connect
from sojourn.bus.ids import derived_id
from tests.nats_server import NatsServer
from tests.prove.escort import VALUABLE, CartUpdated
from tests.prove.handover import Fault, handovers, waiting
from tests.prove.rawlog import Verdict, count_actions, judge, read_log
from tests.prove.workers import WorkerProcess

DEADLINE = 2_400.0
NAMESPACE = "sojourn"
GROUP = "escort"
APART = 2.0
"""Seconds after which what happened before is taken to be over, where nobody froze."""
AT_WORK = 15
"""Events that wait, at least, when something is done to those who handle them."""


@dataclass(frozen=True)
class Plan:
    """How big the proof is. ``rate``: events published a second at most. Workers are frozen for ``freeze`` to
    ``freeze`` + 2 seconds, which is longer than the lease. ``pause``: seconds after each fault in which no other comes.
    """

    workers: int
    events: int
    customers: int
    kills: int
    stops: int
    server_kills: int
    seed: int
    rate: float
    freeze: float = 6.0
    pause: float = 0.0


@dataclass
class Outcome:
    """What happened, and what the raw log says of it. ``met_work``: at how many of the faults (the end of a freeze is
    one too) events waited. ``handovers``: the longest of each kind, in seconds; ``undisturbed``: of those beside which
    nothing else happened. ``restarted``: workers that found no server when they started."""

    verdict: Verdict
    done: dict[str, int]
    met_work: dict[str, int]
    handovers: dict[str, float]
    undisturbed: dict[str, float]
    seconds: float
    restarted: int = 0
    problems: list[str] = field(default_factory=list)


async def run(plan: Plan, server: NatsServer, folder: Path) -> Outcome:
    """Runs the plan, seeded, against a server of its own."""
    started = time.monotonic()
    chaos = _Chaos(plan, server, folder)
    try:
        async with asyncio.timeout(DEADLINE):
            await chaos.run()
    finally:
        chaos.kill_all()
    logs = await read_log(server.url, NAMESPACE)
    met = waiting(logs, [fault.time for fault in chaos.faults])
    return Outcome(
        judge(logs, set(chaos.ids)),
        dict(Counter(fault.kind for fault in chaos.faults)),
        dict(Counter(fault.kind for fault, number in zip(chaos.faults, met, strict=True) if number)),
        _rounded(handovers(logs, chaos.faults)),
        _rounded(handovers(logs, chaos.faults, undisturbed=APART)),
        time.monotonic() - started,
        chaos.restarted,
        chaos.problems,
    )


def _rounded(found: dict[str, float]) -> dict[str, float]:
    return {kind: round(seconds, 2) for kind, seconds in found.items()}


class _Chaos:
    def __init__(self, plan: Plan, server: NatsServer, folder: Path) -> None:
        self.plan = plan
        self.chance = random.Random(plan.seed)
        customers = [f"c{number}" for number in range(plan.customers)]
        counts = dict.fromkeys(customers, 0)
        self.events: list[CartUpdated] = []
        self.deserving = [0]
        for _ in range(plan.events):
            customer = self.chance.choice(customers)
            counts[customer] += 1
            value = self.chance.randint(0, 100)
            self.events.append(CartUpdated(customer_id=customer, number=counts[customer], value=value))
            self.deserving.append(self.deserving[-1] + (value > VALUABLE))
        self.ids = [derived_id("chaos", plan.seed, number) for number in range(plan.events)]
        self.faults: list[Fault] = []
        self.problems: list[str] = []
        self.restarted = 0
        self._server = server
        self._folder = folder
        self._workers: list[WorkerProcess] = []
        self._published = 0
        self._allowed = 0
        self._hurried = 0
        self._gate = asyncio.Event()
        self._frozen: asyncio.Task[None] | None = None
        self._held: set[WorkerProcess] = set()
        self._stillness = asyncio.Lock()
        self._client: Client

    async def run(self) -> None:
        plan = self.plan
        kinds = ["killed"] * plan.kills + ["stopped"] * plan.stops + ["server killed"] * plan.server_kills
        self.chance.shuffle(kinds)
        # For each fault, and for each end of a freeze, a slice of events and a burst: whatever happens meets work.
        self._slice = plan.events // (2 * (len(kinds) + plan.stops) + 1)
        self._client = await nats.connect(
            self._server.url, max_reconnect_attempts=-1, reconnect_time_wait=0.1, error_cb=_expected
        )
        try:
            for _ in range(plan.workers):
                self._start()
            await asyncio.gather(*(worker.ready() for worker in self._workers))
            publishing = asyncio.create_task(self._publish())
            try:
                for kind in kinds:
                    await self._into_work()
                    await asyncio.sleep(self.chance.uniform(0, 0.05))
                    await self._strike(kind)
                    await asyncio.sleep(plan.pause)
                if self._frozen is not None:
                    await self._frozen
                self._allow(plan.events)
                await publishing
            finally:
                publishing.cancel()
                if self._frozen is not None:
                    self._frozen.cancel()
            await self._until(self.deserving[-1])
            await self._drain()
        finally:
            await self._client.close()

    async def _strike(self, kind: str) -> None:
        if kind == "server killed":
            async with self._at_work():
                self._note(kind, frozenset(range(32)))
                self._server.kill9()
            await asyncio.sleep(self.chance.uniform(0, 0.3))
            await asyncio.to_thread(self._server.restart)
            return
        if kind == "stopped" and self._frozen is not None:
            await self._frozen
        victim, owned = await self._victim()
        async with self._at_work():
            self._note(kind, owned)
            if kind == "killed":
                victim.kill()
                self._workers.remove(victim)
                self._start()
            else:
                self._held.discard(victim)  # and so it stays still
                self._frozen = asyncio.create_task(self._resume(victim, self.plan.freeze + 2 * self.chance.random()))

    async def _resume(self, victim: WorkerProcess, seconds: float) -> None:
        await asyncio.sleep(seconds)
        self._allow(self._slice)
        async with self._at_work():
            self._note("resumed", frozenset())
            victim.resume()

    @asynccontextmanager
    async def _at_work(self) -> AsyncIterator[None]:
        """Has a burst of events published, and opens its block while they wait. All workers stand still meanwhile, for
        far less than their lease: so whatever is done in the block meets work, however fast the machine is."""
        async with self._stillness:
            self._held = {worker for worker in self._workers if worker.running and not worker.stopped}
            for worker in self._held:
                worker.stop()
            try:
                await self._some_waiting()
                yield
            finally:
                for worker in self._held:
                    if worker.status is None:
                        worker.resume()

    def _note(self, kind: str, partitions: frozenset[int]) -> None:
        self.faults.append(Fault(kind, time.time(), partitions))

    async def _victim(self) -> tuple[WorkerProcess, frozenset[int]]:
        """A worker that runs and owns partitions, picked by chance, and those partitions."""
        while True:
            self._all_alive()
            running = [worker for worker in self._workers if not worker.stopped and worker.running]
            if running:
                victim = self.chance.choice(running)
                if owned := await self._owned(victim):
                    return victim, owned
            await asyncio.sleep(0.02)

    async def _owned(self, worker: WorkerProcess) -> frozenset[int]:
        """The partitions that a worker has claimed, by what stands in the bucket of the leases."""
        try:
            bucket = await self._client.jetstream().key_value(f"{NAMESPACE.upper()}_leases")
            found = await asyncio.gather(*(bucket.get(key) for key in await bucket.keys()))
            entries = {entry.key: json.loads(entry.value or b"{}") for entry in found}
        except (NatsError, JetStreamError, TimeoutError):
            return frozenset()
        sessions = {key.removeprefix("member.") for key, entry in entries.items() if entry.get("pid") == worker.pid}
        return frozenset(
            int(key.rpartition(".")[2])
            for key, entry in entries.items()
            if key.startswith(f"owner.{GROUP}.") and entry["session"] in sessions
        )

    async def _some_waiting(self) -> None:
        """Has a burst of events published, and returns once they wait."""
        while True:
            handled = await self._actions()
            if self.deserving[self._published] - handled >= AT_WORK or self._published == self.plan.events:
                return
            if self._published == self._allowed:
                self._allow(self._slice // 4)
            self._hurried = self._allowed
            await asyncio.sleep(0.001)

    async def _actions(self) -> int:
        while not (count := await count_actions(self._client, NAMESPACE)) and self._published > self._slice:
            self._all_alive()
            await asyncio.sleep(0.02)
        return count

    async def _into_work(self) -> None:
        """Lets the next slice be published, and waits until some of it, or of what was left, is handled."""
        handled = await self._actions()
        before = self._allowed
        self._allow(self._slice)
        await self._until(handled + (self.deserving[self._allowed] - self.deserving[before]) // 3)

    async def _until(self, count: int) -> None:
        while await self._actions() < count:
            self._all_alive()
            await asyncio.sleep(0.02)

    def _allow(self, count: int) -> None:
        self._allowed = min(self._allowed + count, self.plan.events)
        self._gate.set()

    async def _publish(self) -> None:
        pause = 10 / self.plan.rate
        async with connect(self._server.url, namespace=NAMESPACE) as bus, bus.publisher(in_flight=200) as publisher:
            for number, (event, id) in enumerate(zip(self.events, self.ids, strict=True)):
                while number >= self._allowed:
                    self._gate.clear()
                    await self._gate.wait()
                await publisher.publish(event, id=id)
                self._published = number + 1
                if number % 10 == 9 and number >= self._hurried:
                    await asyncio.sleep(pause)

    async def _drain(self) -> None:
        """Ends all; one more worker then shows that nothing was left to be handled again."""
        while not all(worker.running for worker in self._workers):
            self._all_alive()
            await asyncio.sleep(0.02)
        workers, self._workers = self._workers, []
        await self._end(workers)
        self._start()
        [last] = self._workers
        await last.ready()
        await asyncio.sleep(1)
        await self._end([last])

    async def _end(self, workers: Sequence[WorkerProcess]) -> None:
        for worker in workers:
            worker.terminate()
        try:
            for worker in workers:
                if (status := await worker.ended()) != 0:
                    self.problems.append(f"a worker did not drain but ended with {status}: {worker.tail()}")
        finally:
            self.kill_all(workers)

    def _start(self) -> None:
        number = len(list(self._folder.glob("worker-*.log")))
        self._workers.append(WorkerProcess(self._folder / f"worker-{number}.log", self._server.url))

    def _all_alive(self) -> None:
        for worker in list(self._workers):
            if worker.status is None:
                continue
            # Whoever starts without a server says so and ends; a service manager starts it again.
            assert not worker.said('"event": "running"'), (
                f"a worker ended by itself with {worker.status}: {worker.tail()}"
            )
            self._workers.remove(worker)
            self._start()
            self.restarted += 1

    def kill_all(self, workers: Sequence[WorkerProcess] | None = None) -> None:
        for worker in self._workers if workers is None else workers:
            worker.kill()


async def _expected(error: Exception) -> None:
    """The server is killed on purpose: nats-py need not print that."""
