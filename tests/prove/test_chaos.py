"""Many workers, killed and frozen at random, and a server that is killed too: each event has one effect, in order."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.nats_server import NatsServer
from tests.prove.chaos import Outcome, Plan, run
from tests.prove.keeping import SERVER, keep


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[NatsServer]:
    server = NatsServer(tmp_path).start()
    yield server
    server.stop()


async def test_small(own_server: NatsServer, tmp_path: Path) -> None:
    plan = Plan(workers=3, events=2_000, customers=200, kills=3, stops=1, server_kills=1, seed=12, rate=400)
    outcome = await run(plan, own_server, tmp_path)
    _check(plan, outcome)


@pytest.mark.prove
async def test_full(own_server: NatsServer, tmp_path: Path) -> None:
    plan = Plan(workers=4, events=100_000, customers=5_000, kills=50, stops=10, server_kills=5, seed=2027, rate=2_000)
    outcome = await run(plan, own_server, tmp_path)
    _record("chaos", plan, outcome)
    _check(plan, outcome)


@pytest.mark.prove
async def test_one_fault_at_a_time(own_server: NatsServer, tmp_path: Path) -> None:
    """How long customers wait for a new owner where nothing else is wrong."""
    plan = Plan(
        workers=4, events=40_000, customers=5_000, kills=8, stops=4, server_kills=4, seed=5, rate=1_000, pause=10.0
    )
    outcome = await run(plan, own_server, tmp_path)
    _record("handover", plan, outcome)
    _check(plan, outcome)
    assert outcome.undisturbed.keys() == {"killed", "stopped", "server killed"}


def _check(plan: Plan, outcome: Outcome) -> None:
    verdict = outcome.verdict
    assert verdict.events == plan.events
    assert verdict.clean, verdict
    assert verdict.actions == verdict.deserving > plan.events // 3
    assert outcome.done == {
        "killed": plan.kills,
        "stopped": plan.stops,
        "resumed": plan.stops,
        "server killed": plan.server_kills,
    }
    assert outcome.met_work == outcome.done
    assert not outcome.problems
    assert outcome.restarted <= plan.server_kills * plan.workers
    # Of each kind some hand-over was really measured.
    assert outcome.handovers.keys() == {"killed", "stopped", "server killed"}


def _record(name: str, plan: Plan, outcome: Outcome) -> None:
    keep(
        name,
        {
            "plan": vars(plan),
            "server": SERVER,
            "done": outcome.done,
            "met_work": outcome.met_work,
            "log": outcome.verdict.figures(),
            "clean": outcome.verdict.clean,
            "longest_handover_seconds": outcome.handovers,
            "longest_undisturbed_handover_seconds": outcome.undisturbed,
            "restarted": outcome.restarted,
            "problems": outcome.problems,
            "seconds": round(outcome.seconds, 1),
        },
    )
