from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import ModuleType
from typing import Any

import sojourn.simulation
from sojourn.bus.catalog import Catalog
from sojourn.simulation import Population, run_simulation
from tests.simulation.shop import CATALOG, Lapse, Recovery
from tests.simulation.world import MEMORY

PAGE = Path(__file__).parents[2] / "docs" / "simulation.md"


def modules() -> list[ModuleType]:
    """The page's Python blocks, each as a module of its own."""
    found = []
    for number, code in enumerate(re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)):
        module = ModuleType(f"docs_{number}")
        exec(compile(code, str(PAGE), "exec", dont_inherit=True), vars(module))
        found.append(module)
    return found


async def test_the_examples_of_the_page_work() -> None:
    tuned, own, compare = modules()
    assert isinstance(tuned.population, Population)
    result = await run_simulation([], CATALOG, module=tuned, customers=5, days=2, engine=MEMORY)
    assert result.clean
    trials = await run_simulation([], Catalog.of_module(own), module=own, customers=7, engine=MEMORY)
    assert trials.tally.events == {"TrialStarted": 7}
    run: Callable[..., Coroutine[Any, Any, None]] = compare.compare
    async with asyncio.timeout(60):
        await run([Recovery(), Lapse()], CATALOG)


def test_everything_offered_is_there_and_sorted() -> None:
    assert list(sojourn.simulation.__all__) == sorted(sojourn.simulation.__all__)
    assert all(hasattr(sojourn.simulation, name) for name in sojourn.simulation.__all__)
