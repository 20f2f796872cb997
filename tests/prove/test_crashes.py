"""SIGKILL, over and over: nothing lost, nothing doubled, in order, with the right state."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.nats_server import NatsServer
from tests.prove.crashes import Outcome, Plan, run
from tests.prove.keeping import SERVER, keep


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[NatsServer]:
    server = NatsServer(tmp_path).start()
    yield server
    server.stop()


async def test_small(own_server: NatsServer, tmp_path: Path) -> None:
    plan = Plan(events=1_500, customers=60, worker_kills=3, server_kills=1, seed=11)
    outcome = await run(plan, own_server, tmp_path)
    _check(plan, outcome)


@pytest.mark.prove
async def test_full(own_server: NatsServer, tmp_path: Path) -> None:
    plan = Plan(events=20_000, customers=500, worker_kills=20, server_kills=5, seed=2026)
    outcome = await run(plan, own_server, tmp_path)
    _record(plan, outcome)
    _check(plan, outcome)


def _check(plan: Plan, outcome: Outcome) -> None:
    verdict = outcome.verdict
    assert verdict.events == plan.events
    assert verdict.actions == verdict.deserving > plan.events // 3
    assert verdict.clean, verdict


def _record(plan: Plan, outcome: Outcome) -> None:
    keep(
        "crashes",
        {
            "plan": vars(plan),
            "server": SERVER,
            "killed": {"workers": outcome.worker_kills, "servers": outcome.server_kills},
            "log": outcome.verdict.figures(),
            "clean": outcome.verdict.clean,
            "seconds": round(outcome.seconds, 1),
        },
    )
