"""``sojourn run``: a worker for a module's agents."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import click

from sojourn.console.failures import Interrupted, say
from sojourn.console.options import Settings, connection, example, frozen

if TYPE_CHECKING:
    from sojourn.bus.processor import Processor
    from sojourn.console.modules import Loaded

DRAIN = 10.0
"""Seconds within which a worker that is told to stop is gone."""


@click.command(
    short_help="Runs a module's agents until it is told to stop.",
    epilog=example(
        "sojourn run examples.retail", "sojourn run shop.agents --server nats://nats.internal:4222 --logs json"
    ),
)
@click.argument("module")
@click.option(
    "--logs", "style", type=click.Choice(["auto", "text", "json"]), default="auto", show_default=True,
    envvar="SOJOURN_LOGS", show_envvar=True, help="The form of the logs; auto is text on a terminal, else JSON lines.",
)  # fmt: skip
@click.option(
    "--level", type=click.Choice(["debug", "info", "warning", "error"]), default="info", show_default=True,
    help="The least that is logged.",
)  # fmt: skip
@frozen
@connection
def run(
    settings: Settings,
    module: str,
    style: Literal["auto", "text", "json"],
    level: Literal["debug", "info", "warning", "error"],
    frozen: bool,
) -> None:
    """Registers and runs the agents of MODULE until SIGTERM or Ctrl-C.

    It then takes no more events, lets handlers finish, stores what they did, and is gone within ten seconds. What was
    not finished comes again, to the next worker. A second Ctrl-C ends it at once, which loses nothing either.
    """
    from sojourn.console import logs
    from sojourn.console.modules import load
    from sojourn.console.running import run_async

    text = logs.configure(style=style, level=level)
    loaded = load(module)
    stopped_by = run_async(_run(replace(settings, frozen=frozen), loaded, text=text))
    if stopped_by == signal.SIGINT:
        raise Interrupted(signal.SIGINT)


async def _run(settings: Settings, loaded: Loaded, *, text: bool) -> int:
    """Works until a signal comes, and returns its number."""
    import structlog

    from sojourn.bus.delivery.worker import Worker
    from sojourn.console.running import handling
    from sojourn.console.session import open_session

    log = structlog.get_logger("sojourn.run")
    loop = asyncio.get_running_loop()
    told: asyncio.Future[int] = loop.create_future()

    def tell(number: int) -> None:
        if not told.done():
            told.set_result(number)

    def stop(number: int) -> None:
        loop.call_soon_threadsafe(tell, number)
        _give_up_after(DRAIN)

    async with open_session(settings, say=log.warning) as bus:
        with handling(stop):
            if text:
                _introduce(loaded.processors)
            async with Worker(bus, loaded.processors, catalog=loaded.catalog) as worker:
                log.info("running", **_circumstances(loaded.processors, settings, text=text))
                working = asyncio.ensure_future(worker.wait())
                working.add_done_callback(lambda _: tell(0))
                try:
                    await told
                    if working.done():
                        working.result()
                finally:
                    working.cancel()
                    await asyncio.wait([working])
                log.info("stopping: no new events, waiting for handlers")
            log.info("stopped")
    return told.result()


def _give_up_after(seconds: float) -> None:
    """Keeps the promise to be gone in time, even where a handler blocks the whole loop."""

    def leave() -> None:
        from sojourn.console.running import leave

        say("sojourn: a handler did not end in time; its event comes again, to the next worker\n")
        leave(1)

    timer = threading.Timer(seconds, leave)
    timer.daemon = True
    timer.start()


def _circumstances(processors: Sequence[Processor], settings: Settings, *, text: bool) -> dict[str, Any]:
    where = {"namespace": settings.namespace, "server": settings.where, "pid": os.getpid()}
    return where if text else {**where, "agents": [_facts(processor) for processor in processors]}


def _introduce(processors: Sequence[Processor]) -> None:
    """Shows people what is about to run."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from sojourn.console.terminal import wants_colour

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("agent", "version", "group", "handles", "publishes"):
        table.add_column(name, overflow="fold")
    for processor in processors:
        facts = _facts(processor)
        table.add_row(
            Text(facts["agent"], "bold"), str(facts["version"]), facts["group"],
            ", ".join(facts["handles"]), ", ".join(facts["publishes"]) or "–",
        )  # fmt: skip
    Console(stderr=True, highlight=False, no_color=not wants_colour(sys.stderr)).print(table)


def _facts(processor: Processor) -> dict[str, Any]:
    return {
        "agent": processor.writer,
        "version": processor.version,
        "group": processor.group,
        "handles": sorted(processor.handles),
        "publishes": sorted(processor.publishes),
    }
