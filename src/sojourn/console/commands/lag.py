"""``sojourn lag``: how far each group is behind."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

import click

from sojourn.console.options import Form, Settings, connection, example, form
from sojourn.console.parameters import AgentName
from sojourn.console.session import with_bus

if TYPE_CHECKING:
    from sojourn.bus.client import Bus
    from sojourn.bus.lag import Lag

WINDOW = 1.0
"""Seconds between the two looks that rates are made of."""


@click.command(
    short_help="Shows how far each group is behind.",
    epilog=example(
        "sojourn lag",
        "sojourn lag --group win-back --partitions",
        "sojourn lag --watch",
        "sojourn lag --fail-over 300 -o json",
    ),
)
@click.option("--group", "groups", multiple=True, type=AgentName(ingress=True), help="Only this group.")
@click.option("--partitions", is_flag=True, help="A row for each partition.")
@click.option("--watch", "again", is_flag=True, help="Measure again and again, until Ctrl-C.")
@click.option(
    "--every", metavar="SECONDS", type=click.FloatRange(min=0.5), default=2.0, show_default=True, help="With --watch."
)
@click.option(
    "--fail-over",
    "limit",
    metavar="SECONDS",
    type=click.FloatRange(min=0.0),
    help="Exit with 1 where an unhandled event is older than that.",
)
@form
@connection
def lag(
    settings: Settings,
    groups: tuple[str, ...],
    partitions: bool,
    again: bool,
    every: float,
    limit: float | None,
    output: Form,
) -> None:
    """Shows what waits for each group, for how long, and when it will be done.

    It is measured from the server alone, so it is true while no worker runs. Events that none of a group's agents
    handles count as pending until a worker has passed them. "oldest" is the age of the oldest event that is not
    handled, those of parked customers included; the group "ingress" are foreign documents that wait to be filed.

    "drain" tells in how long nothing would wait should things go on like this, or why not: idle, steady, growing,
    standing (something waits, nothing moves), paused, new (it never ran).
    """
    if again and output == "json":
        raise click.UsageError(
            "measuring again and again gives no one JSON document: use -o jsonl, or leave out --watch"
        )
    if again and limit is not None:
        raise click.UsageError("--fail-over is for one look: leave out --watch")
    if again:
        with_bus(settings, lambda bus: _watch(bus, groups, every, output, partitions=partitions))
        return
    measured = with_bus(settings, lambda bus: _once(bus, groups))
    _tell(measured, output, partitions=partitions)
    _judge(measured, limit)


async def _once(bus: Bus, groups: tuple[str, ...]) -> Lag:
    from sojourn.bus.lag import Meter

    meter = Meter(bus, groups)
    await meter.measure()
    await asyncio.sleep(WINDOW)
    return await meter.measure()


async def _watch(bus: Bus, groups: tuple[str, ...], every: float, output: Form, *, partitions: bool) -> None:
    from sojourn.bus.errors import TransientError
    from sojourn.bus.lag import Meter
    from sojourn.console.failures import note
    from sojourn.console.lagging import unmeasured

    meter = Meter(bus, groups)
    await meter.measure()
    wait = min(WINDOW, every)
    while True:
        await asyncio.sleep(wait)
        wait = every
        try:
            measured = await meter.measure()
        except TransientError as error:
            note(f"{error}; trying again")
            continue
        if output == "text":
            _clear(measured, every)
        _tell(measured, output, partitions=partitions)
        for line in unmeasured(measured):
            note(line)


def _clear(measured: Lag, every: float) -> None:
    from sojourn.console.output import write
    from sojourn.console.terminal import is_terminal

    # From the top, and nothing of before below it; elsewhere one table after the other.
    start = "\x1b[H\x1b[J" if is_terminal(sys.stdout) else ""
    write(f"{start}lag of {measured.namespace}, every {every:g} s: {measured.time.astimezone():%H:%M:%S}\n\n")


def _tell(measured: Lag, output: Form, *, partitions: bool) -> None:
    from sojourn.console.failures import note
    from sojourn.console.lagging import facts, group_facts, remarks, table
    from sojourn.console.output import write_json, write_json_lines, write_table

    if output == "json":
        write_json("lag/1", facts(measured, partitions=partitions))
    elif output == "jsonl":
        write_json_lines("group-lag/1", group_facts(measured, partitions=partitions))
    elif measured.groups:
        write_table(*table(measured, partitions=partitions))
    else:
        note(f"nothing is registered in namespace {measured.namespace}; `sojourn run MODULE` registers what it runs")
    for line in remarks(measured):
        note(line)


def _judge(measured: Lag, limit: float | None) -> None:
    """Raises what makes the exit status: 1 for what is too old, 5 for what could not be measured."""
    from sojourn.bus.errors import UnavailableError
    from sojourn.console.failures import Problems
    from sojourn.console.lagging import over, unmeasured

    late = over(measured, limit) if limit is not None else []
    silent = unmeasured(measured)
    if late:
        raise Problems([*late, *silent])
    if silent:
        raise UnavailableError("; ".join(silent))
