"""Drives the redrive proof: thousands of dead letters, put back by processes that are killed with SIGKILL."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sojourn.agents.processor import AgentProcessor
from sojourn.bus.client import Bus, connect
from sojourn.bus.crashpoints import VARIABLE
from sojourn.bus.delivery.worker import Worker
from sojourn.bus.errors import TransientError
from sojourn.bus.ports import Append
from tests.nats_server import NatsServer
from tests.prove.escort import CartUpdated, Escort

DEADLINE = 900.0
ROOT = Path(__file__).parents[2]
_BATCH = 500


@dataclass(frozen=True)
class Plan:
    """How big the proof is; the kills are spread evenly over the letters."""

    letters: int
    customers: int
    kills: int


@dataclass(frozen=True)
class Outcome:
    """What the raw log says. ``survived``: how many letters stood there after each kill; ``redriven``, ``repeated`` and
    ``unordered`` are of redrive messages; ``actions`` and ``doubled`` of the effects; ``peak``: the most memory that a
    redriving process held, in bytes."""

    survived: list[int]
    redriven: int
    repeated: int
    unordered: int
    actions: int
    doubled: int
    last: str
    seconds: float
    rate: float
    peak: int


async def run(plan: Plan, server: NatsServer) -> Outcome:
    """Runs the plan against a server of its own."""
    started = time.monotonic()
    async with connect(server.url) as bus:
        await bury(bus, plan.letters, plan.customers)
        before = await _messages(bus)
        survived, peak = [], 0
        for kill in range(plan.kills):
            goal = plan.letters * (kill + 1) // (plan.kills + 1)
            async with redriving(server.url) as process:

                async def reached(goal: int = goal, process: asyncio.subprocess.Process = process) -> bool:
                    assert process.returncode is None, "it ended before it was killed"
                    return await _messages(bus) - before >= goal

                await _until(reached)
                peak = max(peak, _memory(process.pid))
                process.send_signal(signal.SIGKILL)
                await process.wait()
            survived.append(await _messages(bus) - before)
        left, since = plan.letters - (survived[-1] if survived else 0), time.monotonic()
        async with redriving(server.url) as process:
            out, _ = await process.communicate()
            assert process.returncode == 0, out
        rate = left / (time.monotonic() - since)
        redriven, repeated, unordered = await put_back(bus)
        handled = await _messages(bus)
        async with Worker(bus, [AgentProcessor(Escort)]):

            async def done() -> bool:
                return await _messages(bus) - handled >= plan.letters

            await _until(done, 0.2)
        found = await causes(bus)
    doubled = sum(count - 1 for count in found.values())
    total = sum(found.values())
    text = out.decode().strip()
    seconds = time.monotonic() - started
    return Outcome(survived, redriven, repeated, unordered, total, doubled, text, seconds, rate, peak)


@contextlib.asynccontextmanager
async def redriving(url: str, namespace: str = "sojourn", armed: str = "") -> AsyncIterator[asyncio.subprocess.Process]:
    """A process that redrives all there is; ``armed``: the crash point in it."""
    program = str(Path(sys.executable).with_name("sojourn"))
    command = [program, "dead", "redrive", "--all", "--yes", "--server", url, "--namespace", namespace]
    process = await asyncio.create_subprocess_exec(
        *command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env={**os.environ, VARIABLE: armed}
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def bury(bus: Bus, count: int, customers: int) -> None:
    """Events, and a dead letter of each: what a deployment with a fault in its handler leaves behind."""
    async with bus.publisher() as publisher:
        for number in range(count):
            event = CartUpdated(customer_id=f"c{number % customers}", number=number // customers, value=100)
            await publisher.publish(event)
    for stream in bus.namespace.streams:
        letters: list[Append] = []
        for message in await bus.transport.read(stream, f"{bus.namespace.name}.log.*.*.evt.CartUpdated"):
            tokens, document = message.subject.split("."), json.loads(message.payload)
            facts: dict[str, Any] = {
                "kind": "dead", "cause": message.sequence, "generation": 0, "timers": {}, "reason": "a fault",
                "error": "KeyError", "traceback": "", "attempts": 1, "version": 1, "subject": message.subject,
                "type": "CartUpdated", "id": document["id"], "correlationid": document["correlationid"],
                "time": document["time"],
            }  # fmt: skip
            subject = f"{bus.namespace.name}.lane.{tokens[2]}.{tokens[3]}.act.escort.dead"
            letters.append(Append(subject, json.dumps(facts).encode()))
        for start in range(0, len(letters), _BATCH):
            await bus.transport.commit(stream, letters[start : start + _BATCH])


async def _messages(bus: Bus) -> int:
    states = [await bus.transport.stream_state(stream) for stream in bus.namespace.streams]
    return sum(state.messages for state in states if state is not None)


async def put_back(bus: Bus) -> tuple[int, int, int]:
    """How many redrive messages there are, how many of them too many, and out of order for their customer."""
    total = unordered = 0
    subjects: set[str] = set()
    for stream in bus.namespace.streams:
        last: dict[str, int] = {}
        for message in await bus.transport.read(stream, f"{bus.namespace.name}.log.*.*.evt.redrive.>"):
            tokens = message.subject.split(".")
            total += 1
            subjects.add(message.subject)
            unordered += int(tokens[7]) < last.get(tokens[3], 0)
            last[tokens[3]] = int(tokens[7])
    return total, total - len(subjects), unordered


async def causes(bus: Bus) -> Counter[tuple[str, int]]:
    """The redriven letters by how many actions each led to."""
    found: Counter[tuple[str, int]] = Counter()
    for stream in bus.namespace.streams:
        for message in await bus.transport.read(stream, f"{bus.namespace.name}.log.*.*.act.escort.OfferMade"):
            found[stream, json.loads(message.payload)["causeseq"]] += 1
    return found


async def _until(condition: Callable[[], Awaitable[bool]], pause: float = 0.01) -> None:
    async with asyncio.timeout(DEADLINE):
        while True:
            # A server that is busy with thousands of customers may leave a ping without an answer.
            with contextlib.suppress(TransientError):
                if await condition():
                    return
            await asyncio.sleep(pause)


def _memory(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:  # no such file system
        return 0
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))
