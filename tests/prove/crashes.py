"""Drives the crash proof: publishes events while workers and the server are killed with SIGKILL."""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import nats

from sojourn.bus.client import connect
from sojourn.bus.ids import derived_id
from tests.nats_server import NatsServer
from tests.prove.escort import CartUpdated
from tests.prove.rawlog import Verdict, count_actions, judge, read_log

DEADLINE = 900.0
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Plan:
    """How big the proof is. Kills are spread evenly over the actions to be seen, at random moments in between."""

    events: int
    customers: int
    worker_kills: int
    server_kills: int
    seed: int


@dataclass(frozen=True)
class Outcome:
    """What happened, and what the raw log says of it."""

    verdict: Verdict
    worker_kills: int
    server_kills: int
    seconds: float


async def run(plan: Plan, server: NatsServer, folder: Path) -> Outcome:
    """Runs the plan, seeded, against a server of its own."""
    started = time.monotonic()
    chance = random.Random(plan.seed)
    events = [
        CartUpdated(
            customer_id=f"c{number % plan.customers}", number=number // plan.customers, value=chance.randint(0, 100)
        )
        for number in range(plan.events)
    ]
    deserving = sum(event.value > 50 for event in events)
    kills = ["worker"] * plan.worker_kills + ["server"] * plan.server_kills
    chance.shuffle(kills)
    ids = [derived_id("crashes", plan.seed, number) for number in range(plan.events)]
    with (folder / "worker.log").open("ab") as log:
        worker = _start_worker(server.url, log)
        try:
            publishing = asyncio.create_task(_publish(server.url, events, ids))
            for turn, kill in enumerate(kills):
                # By progress and not by time, so that every kill meets work whatever the machine.
                await _wait_for_actions(server.url, deserving * (turn + 1) // (len(kills) + 2), publishing, worker)
                await asyncio.sleep(chance.uniform(0, 0.05))
                if kill == "worker":
                    worker.send_signal(signal.SIGKILL)
                    worker.wait(10)
                    worker = _start_worker(server.url, log)
                else:
                    server.kill9()
                    await asyncio.sleep(chance.uniform(0, 0.3))
                    server.restart()
            await publishing
            await _wait_for_actions(server.url, deserving, publishing, worker)
            # One drains; what was handled twice would now be there twice.
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(15) == 0, "the worker did not drain"
            starts = _starts(folder)
            worker = _start_worker(server.url, log)
            async with asyncio.timeout(60):
                while _starts(folder) == starts:  # noqa: ASYNC110 - another process sets no event
                    await asyncio.sleep(0.02)
            await asyncio.sleep(1)
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(15) == 0, "the worker did not drain"
        finally:
            worker.kill()
            worker.wait(10)
    verdict = judge(await read_log(server.url, "sojourn"), set(ids))
    return Outcome(verdict, plan.worker_kills, plan.server_kills, time.monotonic() - started)


def _start_worker(url: str, log: object) -> subprocess.Popen[bytes]:
    command = [str(Path(sys.executable).with_name("sojourn")), "run", "tests.prove.escort", "--server", url]
    return subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)  # type: ignore[call-overload, no-any-return]


def _starts(folder: Path) -> int:
    """How many workers have said that they run: from then on they drain when they are told to stop."""
    return (folder / "worker.log").read_bytes().count(b'"event": "running"')


async def _publish(url: str, events: list[CartUpdated], ids: list[str]) -> None:
    async with connect(url) as bus, bus.publisher(in_flight=200) as publisher:
        for event, id in zip(events, ids, strict=True):
            await publisher.publish(event, id=id)


async def _wait_for_actions(
    url: str, count: int, publishing: asyncio.Task[None], worker: subprocess.Popen[bytes]
) -> None:
    """Waits until the log holds that many actions, asking the server and nobody else."""
    async with asyncio.timeout(DEADLINE):
        client = await nats.connect(url, max_reconnect_attempts=-1, reconnect_time_wait=0.1)
        try:
            while await count_actions(client, "sojourn") < count:
                if publishing.done():
                    publishing.result()
                assert worker.poll() is None, f"the worker ended by itself with status {worker.returncode}"
                await asyncio.sleep(0.02)
        finally:
            await client.close()
