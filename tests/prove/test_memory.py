"""A burst, a slow handler, large events and a hot customer: memory is bounded and the others are not kept waiting."""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from sojourn.bus.delivery.budget import LIMIT
from sojourn.bus.delivery.group import MAX_ACK_PENDING
from sojourn.bus.ports import Stored
from tests.nats_server import NatsServer
from tests.prove.clerk import EVERY, HOT, PageFiled, office
from tests.prove.keeping import ROOT, SERVER, keep

MEGABYTE = 1024 * 1024
LARGE = 256 * 1024
SHARE = 0.3
"""The part of the large pages that are the hot customer's."""

COPIES = 3
"""As docs/operating.md says: a worker takes this many times its ``memory``, beside what it takes at rest and what its
agents keep of customers."""

REST = 16 * MEGABYTE
"""What the allocator does not give back."""

EACH = 4 * 1024
"""What a worker keeps of each customer in memory, as docs/operating.md says: its lane, a small state, its queue."""


@dataclass(frozen=True)
class Plan:
    """How big the proof is. ``crowd``: short pages of the hot customer, before everything else; ``large``: how many of
    the other events have 256 KB, all in a row; ``memory``: the worker's, in bytes; ``hot_page`` and ``slow_page``:
    seconds for each page of the hot customer, and for a large one of anybody else. The hot customer is to take longer
    than all others together."""

    crowd: int
    events: int
    large: int
    customers: int
    partitions: int
    memory: int
    hot_page: float
    slow_page: float
    seed: int
    deadline: float

    @property
    def bound(self) -> int:
        """Bytes that a worker may take more than at rest."""
        return COPIES * self.memory + self.customers * EACH + REST


SMALL = Plan(
    1_100, 800, 165, 150, partitions=8, memory=4 * MEGABYTE, hot_page=0.001, slow_page=0.2, seed=5, deadline=120
)
FULL = Plan(
    60_000, 140_000, 4_000, 5_000, partitions=32, memory=LIMIT, hot_page=0.002, slow_page=1.0, seed=2026, deadline=3_000
)


@dataclass(frozen=True)
class Outcome:
    """Bytes of a worker at rest and at its peak, and the moments (nanoseconds) at which answers were stored: those to
    the hot customer, to the other customers of its partition, and to all others."""

    rest: int
    peak: int
    began: int
    hot: list[int]
    neighbours: list[int]
    others: list[int]

    def ahead(self, answers: Sequence[int]) -> float:
        """The part of these answers that were stored before half of the hot customer's were."""
        middle = sorted(self.hot)[len(self.hot) // 2]
        return sum(moment < middle for moment in answers) / len(answers)


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[NatsServer]:
    server = NatsServer(tmp_path).start()
    yield server
    server.stop()


async def test_small(own_server: NatsServer, tmp_path: Path) -> None:
    _check(SMALL, await run(SMALL, own_server, tmp_path))


@pytest.mark.prove
async def test_full(own_server: NatsServer, tmp_path: Path) -> None:
    outcome = await run(FULL, own_server, tmp_path)
    _record(FULL, outcome)
    _check(FULL, outcome)


def _check(plan: Plan, outcome: Outcome) -> None:
    # Were it all taken in, the raw events alone would be more.
    assert plan.large * LARGE * (1 - SHARE) > plan.bound
    grown = outcome.peak - outcome.rest
    assert grown <= plan.bound, f"the worker took {grown // MEGABYTE} MB more than at rest"
    # A crowd that is not left in the log is all that fits into the partition: nobody else of it is handled before the
    # hot customer is more than half done. Whoever is not kept waiting is answered at once, whatever the machine.
    assert plan.crowd - MAX_ACK_PENDING > len(outcome.hot) * EVERY / 2
    assert outcome.ahead(outcome.neighbours) > 0.6
    assert outcome.ahead(outcome.others) > 0.6


async def run(plan: Plan, server: NatsServer, folder: Path) -> Outcome:
    """Files all pages, then lets a worker read them."""
    events = _events(plan)
    log = folder / "worker.log"
    # At rest, nothing having been published yet.
    worker = await _start(server.url, plan, log)
    rest = _bytes_of(worker, "VmHWM")
    _end(worker, log)
    async with office(server.url, plan.partitions) as bus, bus.publisher(in_flight=200) as publisher:
        for event in events:
            await publisher.publish(event)
    worker = await _start(server.url, plan, log)
    try:
        due = sum(event.number % EVERY == 0 for event in events)
        answers = await _answers(server.url, plan, due, worker)
        peak = _bytes_of(worker, "VmHWM")
        _end(worker, log)
    finally:
        worker.kill()
        worker.wait(10)
    assert len(answers) == due
    partition = next(answer.subject.split(".")[2] for answer in answers if answer.subject.split(".")[3] == HOT)
    hot: list[int] = []
    neighbours: list[int] = []
    others: list[int] = []
    for answer in answers:
        tokens = answer.subject.split(".")
        (hot if tokens[3] == HOT else neighbours if tokens[2] == partition else others).append(answer.timestamp)
    return Outcome(rest, peak, min(answer.timestamp for answer in answers), hot, neighbours, others)


def _events(plan: Plan) -> list[PageFiled]:
    chance = random.Random(plan.seed)
    begin = (plan.events - plan.large) * 3 // 4
    large = range(begin, begin + plan.large)
    # One text for all: here it is in memory once, in the worker each event has its own.
    text = "".join(chance.choices("abcdefghij klmnop", k=LARGE))
    counts = {HOT: plan.crowd}
    events = [PageFiled(customer_id=HOT, number=number + 1, text="short") for number in range(plan.crowd)]
    for number in range(plan.events):
        customer = f"c{chance.randrange(plan.customers)}"
        if number in large and chance.random() < SHARE:
            customer = HOT
        count = counts[customer] = counts.get(customer, 0) + 1
        events.append(PageFiled(customer_id=customer, number=count, text=text if number in large else "short"))
    return events


async def _start(url: str, plan: Plan, log: Path) -> subprocess.Popen[bytes]:
    command = [
        sys.executable,
        "-m",
        "tests.prove.clerk",
        url,
        str(plan.partitions),
        str(plan.memory),
        str(plan.hot_page),
        str(plan.slow_page),
    ]
    with log.open("wb") as file:
        worker = subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=file)
    async with asyncio.timeout(60):
        while b"running" not in log.read_bytes():
            assert worker.poll() is None, log.read_text()[-2_000:]
            await asyncio.sleep(0.005)
    return worker


def _end(worker: subprocess.Popen[bytes], log: Path) -> None:
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(15) == 0, f"the worker did not drain: {log.read_text()[-2_000:]}"


def _bytes_of(process: subprocess.Popen[bytes], name: str) -> int:
    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"the kernel says no {name} of process {process.pid}")


async def _answers(url: str, plan: Plan, count: int, worker: subprocess.Popen[bytes]) -> list[Stored]:
    """All answers of the log, once there are so many."""
    found: dict[str, list[Stored]] = {}
    async with office(url, plan.partitions) as bus, asyncio.timeout(plan.deadline):
        while sum(map(len, found.values())) < count:
            assert worker.poll() is None, f"the worker ended by itself with status {worker.returncode}"
            await asyncio.sleep(0.2)
            for stream in bus.namespace.streams:
                known = found.setdefault(stream, [])
                start = known[-1].sequence + 1 if known else 1
                known += await bus.transport.read(stream, f"{bus.namespace.name}.log.*.*.act.>", start)
    return [answer for stream in found.values() for answer in stream]


def _record(plan: Plan, outcome: Outcome) -> None:
    keep(
        "memory",
        {
            "plan": vars(plan),
            "server": SERVER,
            "megabytes": {
                "memory of the worker": plan.memory // MEGABYTE,
                "waiting in the log": plan.large * LARGE // MEGABYTE,
                "worker at rest": outcome.rest // MEGABYTE,
                "worker at its peak": outcome.peak // MEGABYTE,
                "bound of the peak": (outcome.rest + plan.bound) // MEGABYTE,
            },
            "seconds until answered, after the first answer": {
                "hot customer": _spread(outcome.hot, outcome.began),
                "customers of its partition": _spread(outcome.neighbours, outcome.began),
                "all others": _spread(outcome.others, outcome.began),
            },
            "part answered before half of the hot customer's": {
                "customers of its partition": round(outcome.ahead(outcome.neighbours), 3),
                "all others": round(outcome.ahead(outcome.others), 3),
            },
        },
    )


def _spread(moments: Sequence[int], began: int) -> dict[str, float]:
    ordered = sorted(moments)
    return {
        name: round((ordered[int((len(ordered) - 1) * part)] - began) / 1e9, 1)
        for name, part in (("half", 0.5), ("99 of 100", 0.99), ("last", 1.0))
    }
