from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta
from types import ModuleType
from typing import Any

import pytest

from sojourn.bus.catalog import Catalog
from sojourn.bus.delivery.worker import Worker
from sojourn.bus.errors import ConfigurationError, SojournError
from sojourn.bus.processor import Processor
from sojourn.simulation.driver import Action, Progress
from sojourn.simulation.engine import Engine
from sojourn.simulation.population import Population
from sojourn.simulation.run import Watching
from sojourn.simulation.simulate import START, SimulationResult, run_simulation
from tests.nats_server import NatsServer
from tests.simulation.shop import CATALOG, DiscountOffered, Lapse, Recovery
from tests.simulation.world import MEMORY, Scripted, abandoned

AGENTS: tuple[Processor, ...] = (Recovery(), Lapse(days=3))


async def simulate(engine: Engine = MEMORY, **settings: Any) -> SimulationResult:
    settings = {"customers": 60, "days": 6, "seed": 7} | settings
    return await run_simulation(AGENTS, CATALOG, engine=engine, **settings)


async def test_the_same_seed_gives_the_same_table_on_both_engines(server: NatsServer) -> None:
    memory, nats = await simulate(), await simulate(Engine("nats", "seeds", url=server.url))
    assert memory.clean
    assert nats.clean
    assert memory.table() == nats.table()
    assert nats.timing.engine == "nats"
    assert memory.table()["actions"]["total"] > 20
    assert memory.table()["timers_fired"] > 5


async def test_another_seed_gives_another_table() -> None:
    assert (await simulate()).table() == (await simulate()).table() != (await simulate(seed=8)).table()


async def test_the_window_changes_nothing_but_speed() -> None:
    tables = [(await simulate(window=timedelta(hours=hours))).table() for hours in (1, 24, 24 * 30)]
    assert tables[0] == tables[1] == tables[2]


async def test_the_result_is_json_with_timings_apart() -> None:
    result = await simulate(customers=5, days=2)
    document = json.loads(json.dumps(result.to_json()))
    assert document.pop("run").keys() == {"engine", "seconds", "drive_seconds", "events_per_second"}
    assert document == result.table()
    assert (document["customers"], document["days"], document["seed"]) == (5, 2, 7)
    assert document["start"] == "2026-01-05T00:00:00+00:00"


async def test_it_is_watched_while_it_goes_on() -> None:
    progress: list[Progress] = []
    actions: list[Action] = []
    result = await simulate(watching=Watching(progress.append, actions.append))
    assert progress[-1].fraction == 1.0
    assert len(actions) == progress[-1].actions == result.table()["actions"]["total"]
    assert all(action.envelope is not None for action in actions)


@pytest.mark.parametrize(("settings", "message"), [({"customers": 0}, "customers=0"), ({"days": 0}, "days=0")])
async def test_numbers_that_make_no_run_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        await simulate(**settings)


async def test_a_catalogue_that_shoppers_cannot_speak_is_refused_before_anything_is_started() -> None:
    with pytest.raises(ConfigurationError, match="the built-in shoppers make events named"):
        await run_simulation([], Catalog([DiscountOffered]), engine=Engine("nats", url="nats://127.0.0.1:1"))


async def test_a_module_may_bring_its_own_customers() -> None:
    module = ModuleType("shop")

    def shoppers(customers: int, catalog: Catalog, *, seed: int, start: datetime, end: datetime) -> Iterable[Scripted]:
        assert (start, end, seed) == (START, START + timedelta(days=6), 7)
        return [Scripted(f"mine-{number}", [abandoned(f"mine-{number}", 1)]) for number in range(customers)]

    module.shoppers = shoppers  # type: ignore[attr-defined]  # a module made here
    result = await simulate(module=module, customers=3)
    assert result.tally.events == {"CartAbandoned": 3}


async def test_a_module_may_tune_the_shoppers() -> None:
    module = ModuleType("shop")
    module.population = replace(Population(), buys=0.0, responses={})  # type: ignore[attr-defined]  # made here
    assert "OrderPlaced" not in (await simulate(module=module)).tally.events


async def test_what_a_module_calls_so_but_is_something_else_is_refused() -> None:
    module = ModuleType("shop")
    module.population = 500  # type: ignore[attr-defined]  # made here
    with pytest.raises(ConfigurationError, match=r"shop\.population is a int"):
        await simulate(module=module)
    module.shoppers = lambda *args, **settings: 3  # type: ignore[attr-defined]  # made here
    with pytest.raises(ConfigurationError, match=r"shop\.shoppers returned int"):
        await simulate(module=module)


async def test_a_worker_that_fails_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(worker: Worker) -> None:
        raise SojournError("the worker broke")

    async def never(worker: Worker) -> None:
        await asyncio.get_running_loop().create_future()

    monkeypatch.setattr(Worker, "wait", fail)
    monkeypatch.setattr(Worker, "caught_up", never)
    async with asyncio.timeout(20):
        with pytest.raises(SojournError, match="the worker broke"):
            await simulate()


async def test_a_run_that_is_cancelled_lets_the_next_one_start_at_once(server: NatsServer) -> None:
    engine = Engine("nats", "cut", url=server.url)
    begun = asyncio.Event()
    watching = Watching(on_action=lambda action: begun.set())
    running = asyncio.create_task(simulate(engine, customers=200, days=30, watching=watching))
    async with asyncio.timeout(30):
        await begun.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert (await simulate(engine, customers=5, days=2)).clean
