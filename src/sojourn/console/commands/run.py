"""``sojourn run``: a worker for a module's agents."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import click

from sojourn.console.cli import Session
from sojourn.console.failures import Interrupted, note, say
from sojourn.console.options import Settings, connection, example, frozen

if TYPE_CHECKING:
    from sojourn.bus.processor import Processor
    from sojourn.console.lifeline import Lifeline
    from sojourn.console.modules import Loaded

DRAIN = 10.0
"""Seconds within which a worker that is told to stop is gone."""

MOST = 256
"""Worker processes of one command; more than a namespace has partitions have nothing to do."""


@click.command(
    short_help="Runs a module's agents until it is told to stop.",
    epilog=example(
        "sojourn run examples.retail",
        "sojourn run examples.retail --workers 4",
        "sojourn run shop.agents --server nats://nats.internal:4222 --logs json",
    ),
)
@click.argument("module")
@click.option(
    "--workers", metavar="N", type=click.IntRange(1, MOST), default=1, show_default=True,
    help="Run so many worker processes, and start again those that die.",
)  # fmt: skip
@click.option(
    "--logs", "style", type=click.Choice(["auto", "text", "json"]), default="auto", show_default=True,
    envvar="SOJOURN_LOGS", show_envvar=True, help="The form of the logs; auto is text on a terminal, else JSON lines.",
)  # fmt: skip
@click.option(
    "--level", type=click.Choice(["debug", "info", "warning", "error"]), default="info", show_default=True,
    help="The least that is logged.",
)  # fmt: skip
@click.option("--name", hidden=True, help="The worker's name, which its parent gave it.")
@click.option("--lifeline", "descriptor", hidden=True, type=int, help="A socket, whose end means the parent's.")
@frozen
@connection
def run(
    settings: Settings,
    module: str,
    workers: int,
    style: Literal["auto", "text", "json"],
    level: Literal["debug", "info", "warning", "error"],
    name: str | None,
    descriptor: int | None,
    frozen: bool,
) -> None:
    """Registers and runs the agents of MODULE until SIGTERM or Ctrl-C.

    It then takes no more events, lets handlers finish, stores what they did, and is gone within ten seconds. What was
    not finished comes again, to the next worker. A second Ctrl-C ends it at once, which loses nothing either.

    With --workers it runs that many processes, which share the customers among them, starts those again that die, and
    leaves when all have left.
    """
    from sojourn.console import logs
    from sojourn.console.running import run_async

    lifeline = _lifeline(descriptor)
    text = logs.configure(style=style, level=level)
    settings = replace(settings, frozen=frozen)
    if workers > 1:
        from sojourn.console.crew import CrewFailed

        session = click.get_current_context().find_object(Session)
        arguments = [module, "--level", level, "--logs", "text" if text else "json"]
        if session is not None and session.debug:
            arguments.append("--debug")
        try:
            stopped_by = run_async(_run_many(settings, arguments, workers, text=text))
        except CrewFailed as failure:
            note(str(failure))
            raise click.exceptions.Exit(failure.status) from failure
    else:
        from sojourn.console.modules import load

        stopped_by = run_async(_run(settings, load(module), text=text, name=name, lifeline=lifeline))
    if stopped_by == signal.SIGINT:
        raise Interrupted(signal.SIGINT)


def _lifeline(descriptor: int | None) -> Lifeline | None:
    if descriptor is None:
        return None
    from sojourn.console.lifeline import Lifeline

    try:
        return Lifeline(descriptor)
    except OSError as error:
        raise click.UsageError("--lifeline is for workers that `sojourn run --workers` starts") from error


async def _run(settings: Settings, loaded: Loaded, *, text: bool, name: str | None, lifeline: Lifeline | None) -> int:
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
        with handling(stop), lifeline.ending(lambda: stop(signal.SIGTERM)) if lifeline else nullcontext():
            if text and lifeline is None:
                _introduce(loaded.processors)
            async with Worker(bus, loaded.processors, catalog=loaded.catalog, name=name) as worker:
                log.info("running", **_circumstances(loaded.processors, settings, text=text))
                if lifeline is not None:
                    lifeline.running()
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


async def _run_many(settings: Settings, arguments: Sequence[str], workers: int, *, text: bool) -> int:
    """Keeps worker processes running until a signal comes, and returns its number."""
    import structlog

    from sojourn.bus.ids import uuid7
    from sojourn.console.crew import Crew
    from sojourn.console.environment import of_worker
    from sojourn.console.running import handling

    log = structlog.get_logger("sojourn.run")
    loop = asyncio.get_running_loop()
    received: list[int] = []
    crew = f"worker-{uuid7()[-8:]}"
    names = [f"{crew}-{number}" for number in range(1, workers + 1)]
    command = [sys.executable, "-P", "-m", "sojourn", "run", *arguments]
    many = Crew(names, command, of_worker(settings), text=text)

    def stop(number: int) -> None:
        received.append(number)
        loop.call_soon_threadsafe(many.stop)

    # Held for as long as any worker runs or is to be started again, so that the server does not come and go with them.
    async with _server(settings, say=log.warning):
        with handling(stop, last=many.kill):
            log.info("starting workers", workers=names, server=settings.where, pid=os.getpid())
            await many.run(DRAIN)
            log.info("stopped")
    return received[0]


@asynccontextmanager
async def _server(settings: Settings, *, say: Callable[[str], None]) -> AsyncIterator[None]:
    if settings.server is not None:
        yield
        return
    from sojourn.bus.embedded.server import embedded_server

    async with embedded_server(settings.store, say=say):
        yield


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
