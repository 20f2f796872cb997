"""``sojourn simulate``: synthetic customers in virtual time."""

from __future__ import annotations

from typing import Literal

import click

from sojourn.console.options import Form, Settings, example, form, playground
from sojourn.console.simulating import conclude, drive, engine


@click.command(
    short_help="Drives agents with synthetic customers in virtual time.",
    epilog=example(
        "sojourn simulate examples.retail --customers 500 --days 14",
        "sojourn simulate shop.agents --engine memory --seed 3 -o json",
    ),
)
@click.argument("module", required=False)
@click.option("--customers", type=click.IntRange(min=1), default=500, show_default=True, help="How many.")
@click.option(
    "--days", type=click.FloatRange(min=0, min_open=True), default=14, show_default=True, help="Virtual ones."
)
@click.option("--seed", type=int, default=7, show_default=True, help="The same seed gives the same table.")
@engine
@form
@playground
def simulate(
    settings: Settings,
    module: str | None,
    customers: int,
    days: float,
    seed: int,
    engine: Literal["nats", "memory"],
    lines: int,
    output: Form,
) -> None:
    """Lets synthetic customers live with the agents of MODULE (default: examples.retail).

    They browse, fill carts, abandon them, buy, return and go silent, and react to what agents do. Days pass as fast
    as the machine allows. The namespace is emptied at the beginning and stays to be looked at: `sojourn watch
    --namespace sim --since beginning`. The exit status is 1 where anything was doubled or lost.
    """
    from sojourn.console.modules import load, load_example
    from sojourn.simulation.simulate import run_simulation

    loaded = load_example() if module is None else load(module)
    result = drive(
        f"{customers:,} customers",
        settings,
        engine,
        loaded,
        lines,
        lambda carrier, watching: run_simulation(
            loaded.processors,
            loaded.catalog,
            module=loaded.module,
            customers=customers,
            days=days,
            seed=seed,
            engine=carrier,
            watching=watching,
        ),
    )
    head = [("simulated", f"{customers:,} customers, {days:g} days from {result.start:%Y-%m-%d}, seed {seed}")]
    conclude("simulation/1", head, result, settings, output)
