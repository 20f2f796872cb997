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
    _record(plan, outcome)
    _check(plan, outcome)


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


def _record(plan: Plan, outcome: Outcome) -> None:
    keep(
        "chaos",
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
