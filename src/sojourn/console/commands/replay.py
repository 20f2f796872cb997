"""``sojourn replay``: a recorded history in virtual time."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from sojourn.bus.errors import NotFoundError
from sojourn.console.options import Form, Settings, example, form, playground
from sojourn.console.simulating import conclude, drive, engine

if TYPE_CHECKING:
    from sojourn.simulation.source import Source


@click.command(
    short_help="Drives agents with a real history in virtual time.",
    epilog=example("sojourn replay cdnow", "sojourn replay events.jsonl shop.agents -o json"),
)
@click.argument("source", metavar="cdnow|FILE.jsonl")
@click.argument("module", required=False)
@click.option(
    "--file", type=click.Path(path_type=Path), help="The CDNOW log, where it is not in the package lifetimes."
)
@engine
@form
@playground
def replay(
    settings: Settings,
    source: str,
    module: str | None,
    file: Path | None,
    engine: Literal["nats", "memory"],
    lines: int,
    output: Form,
) -> None:
    """Lets the agents of MODULE (default: examples.retail) meet a recorded history, at its own times.

    `cdnow` is the CDNOW log: 69,659 real purchases by 23,570 customers of a music shop, 1997 and 1998. A file holds
    CloudEvents documents, one a line. Days pass as fast as the machine allows; the namespace is emptied at the
    beginning. The exit status is 1 where anything was doubled or lost.
    """
    from sojourn.console.modules import load, load_example
    from sojourn.simulation.replay import run_replay

    history = _source(source, file)
    loaded = load_example() if module is None else load(module)
    result = drive(
        history.name,
        settings,
        engine,
        loaded,
        lines,
        lambda carrier, watching: run_replay(
            history, loaded.processors, loaded.catalog, engine=carrier, watching=watching
        ),
    )
    head = [("replayed", f"{result.source}, {result.start:%Y-%m-%d} to {result.end:%Y-%m-%d}")]
    conclude("replay/1", head, result, settings, output)


def _source(name: str, file: Path | None) -> Source:
    from sojourn.simulation.cdnow import Cdnow
    from sojourn.simulation.source import JsonLines

    if name == "cdnow":
        if file is not None and not file.is_file():
            raise NotFoundError(f"there is no file {file}")
        return Cdnow(file)
    if file is not None:
        raise click.UsageError("--file goes with cdnow; a file of CloudEvents is named instead of it")
    path = Path(name)
    if not path.is_file():
        raise NotFoundError(
            f"there is no file {name}; a history is `cdnow` or a file of CloudEvents documents, one a line"
        )
    return JsonLines(path)
