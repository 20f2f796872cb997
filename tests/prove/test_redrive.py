"""SIGKILL while dead letters are put back: each comes back once, in order, and has one effect."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.nats_server import NatsServer
from tests.prove.keeping import SERVER, keep
from tests.prove.redriving import Outcome, Plan, run


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[NatsServer]:
    server = NatsServer(tmp_path).start()
    yield server
    server.stop()


async def test_small(own_server: NatsServer) -> None:
    plan = Plan(letters=3_000, customers=200, kills=2)
    _check(plan, await run(plan, own_server))


@pytest.mark.prove
async def test_full(own_server: NatsServer) -> None:
    plan = Plan(letters=100_000, customers=5_000, kills=5)
    outcome = await run(plan, own_server)
    keep("redrive", {"plan": vars(plan), "server": SERVER, **vars(outcome)})
    _check(plan, outcome)
    assert outcome.peak < 400 << 20


def _check(plan: Plan, outcome: Outcome) -> None:
    assert len(outcome.survived) == plan.kills
    assert 0 < outcome.survived[0] < plan.letters, "it was killed half-way"
    assert outcome.survived == sorted(outcome.survived)
    assert (outcome.redriven, outcome.repeated, outcome.unordered) == (plan.letters, 0, 0)
    assert outcome.last == f"{plan.letters - outcome.survived[-1]:,} redriven"
    assert (outcome.actions, outcome.doubled) == (plan.letters, 0)
