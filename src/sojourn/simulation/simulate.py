"""A simulation: synthetic customers live for some days with a module's agents."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import ModuleType
from typing import Any, cast

from sojourn.bus.catalog import Catalog
from sojourn.bus.errors import ConfigurationError
from sojourn.bus.processor import Processor
from sojourn.simulation.audit import Tally
from sojourn.simulation.engine import EMBEDDED, Engine
from sojourn.simulation.population import Population
from sojourn.simulation.run import NOBODY, Timing, Watching, run_timelines
from sojourn.simulation.shoppers import shoppers
from sojourn.simulation.timeline import Timeline

START = datetime(2026, 1, 5, tzinfo=UTC)
"""The first moment of every simulation, a Monday: the same seed gives the same table on any day."""

WINDOW = timedelta(hours=24)


@dataclass(frozen=True, slots=True)
class SimulationResult:
    """What came of a simulation. All but ``timing`` is the same for the same module, customers, days and seed."""

    customers: int
    days: float
    seed: int
    start: datetime
    tally: Tally
    timing: Timing

    @property
    def clean(self) -> bool:
        """Nothing doubled, nothing lost, nothing dead."""
        return self.tally.clean

    def table(self) -> dict[str, Any]:
        """What must not differ between two runs, as plain JSON values."""
        return {
            "customers": self.customers,
            "days": self.days,
            "seed": self.seed,
            "start": self.start.isoformat(),
            **self.tally.to_json(),
        }

    def to_json(self) -> dict[str, Any]:
        """The table, and how long it took."""
        return {**self.table(), "run": self.timing.to_json()}


async def run_simulation(
    processors: Sequence[Processor],
    catalog: Catalog,
    *,
    module: ModuleType | None = None,
    customers: int = 500,
    days: float = 14,
    seed: int = 7,
    start: datetime = START,
    window: timedelta = WINDOW,
    engine: Engine = EMBEDDED,
    watching: Watching = NOBODY,
) -> SimulationResult:
    """Lets ``customers`` live with the processors for ``days`` of virtual time.

    The customers are those of ``module`` where it brings some (`customers_of`), else the built-in shoppers, who speak
    ``catalog``'s language. ``window``: how far customers may be apart in virtual time, which changes nothing but
    speed. Raises `ConfigurationError` for numbers that make no run, for a catalogue that the shoppers cannot speak,
    and for a namespace that is in use.
    """
    if customers < 1:
        raise ConfigurationError(f"customers={customers}: at least one customer is needed")
    if not days > 0:
        raise ConfigurationError(f"days={days}: give a number above 0")
    end = start + timedelta(days=days)
    timelines = customers_of(module, catalog, customers=customers, seed=seed, start=start, end=end)
    tally, timing = await run_timelines(
        timelines,
        processors,
        catalog,
        start=start,
        end=end,
        window=window,
        engine=engine,
        source=f"/{engine.namespace}/shoppers",
        watching=watching,
    )
    return SimulationResult(customers, days, seed, start, tally, timing)


def customers_of(
    module: ModuleType | None, catalog: Catalog, *, customers: int, seed: int, start: datetime, end: datetime
) -> Iterable[Timeline]:
    """The customers that a module brings.

    A function ``shoppers(customers, catalog, *, seed, start, end)`` in the module makes its own timelines; a
    `Population` named ``population`` tunes the built-in shoppers; with neither they are as they come. Raises
    `ConfigurationError`.
    """
    name = module.__name__ if module is not None else "the module"
    make = getattr(module, "shoppers", None)
    if callable(make):
        made = cast("Callable[..., object]", make)(customers, catalog, seed=seed, start=start, end=end)
        if not isinstance(made, Iterable):
            raise ConfigurationError(
                f"{name}.shoppers returned {type(made).__name__}: return the timelines, one per customer"
            )
        return cast("Iterable[Timeline]", made)
    population = getattr(module, "population", None)
    if population is not None and not isinstance(population, Population):
        raise ConfigurationError(
            f"{name}.population is a {type(population).__name__}: make it a sojourn.simulation.Population, or rename it"
        )
    return shoppers(customers, catalog, seed=seed, start=start, end=end, population=population)
