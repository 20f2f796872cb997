"""``sojourn dead``: the dead letters, events that an agent could not handle."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from sojourn.bus.errors import NotFoundError
from sojourn.console.options import Form, Settings, connection, example, form
from sojourn.console.parameters import AgentName, CustomerKey
from sojourn.console.session import with_bus

if TYPE_CHECKING:
    from sojourn.bus.client import Bus
    from sojourn.bus.deadletters import DeadLetter


@click.group(
    short_help="Shows the events that could not be handled.",
    epilog=example("sojourn dead ls --agent win-back", "sojourn dead show SOJOURN_2-1841"),
)
def dead() -> None:
    """Shows dead letters: the events that an agent, or the ingress, could not handle, and why."""


@dead.command(short_help="Lists the dead letters.", epilog=example("sojourn dead ls --agent win-back"))
@click.option("--agent", type=AgentName(ingress=True), help="Only those of this agent.")
@click.option("--customer", type=CustomerKey(), help="Only those of this customer.")
@form
@connection
def ls(settings: Settings, agent: str | None, customer: str | None, output: Form) -> None:
    """Lists the dead letters."""
    from sojourn.console.failures import note
    from sojourn.console.output import Column, write_json, write_json_lines, write_table

    found = with_bus(settings, lambda bus: _letters(bus, agent, customer))
    if output == "json":
        write_json("dead-letters/1", {"namespace": settings.namespace, "dead_letters": [facts(one) for one in found]})
    elif output == "jsonl":
        write_json_lines("dead-letter/1", map(facts, found))
    elif found:
        columns = [
            Column("number"), Column("time"), Column("agent", "is cut"), Column("customer", "is cut"),
            Column("event", "is cut"), Column("reason", "wraps"),
        ]  # fmt: skip
        rows = [
            (
                one.number,
                f"{one.time.astimezone():%m-%d %H:%M}",
                one.writer,
                one.customer or "–",
                one.type,
                _reason(one),
            )
            for one in found
        ]
        write_table(columns, rows)
    else:
        note("no dead letters")


@dead.command(short_help="Tells all about one dead letter.", epilog=example("sojourn dead show SOJOURN_2-1841"))
@click.argument("which", metavar="NUMBER|ID")
@form
@connection
def show(settings: Settings, which: str, output: Form) -> None:
    """Tells all about a dead letter: its number, as `sojourn dead ls` shows it, or the id of the event.

    Several agents may have failed on the same event; with an id all of them are shown.
    """
    from sojourn.console.output import write, write_facts, write_json, write_json_lines
    from sojourn.console.terminal import plain

    found = with_bus(settings, lambda bus: _find(bus, which))
    if output == "json":
        write_json("dead-letters/1", {"namespace": settings.namespace, "dead_letters": [facts(one) for one in found]})
        return
    if output == "jsonl":
        write_json_lines("dead-letter/1", map(facts, found))
        return
    for number, one in enumerate(found):
        write("\n" if number else "")
        write_facts(_pairs(one))
        write("\n" + "".join(f"{plain(line)}\n" for line in one.traceback.splitlines()) if one.traceback else "")


def facts(letter: DeadLetter) -> dict[str, Any]:
    """A dead letter for programs."""
    return letter.model_dump(mode="json")


def _pairs(letter: DeadLetter) -> list[tuple[str, str]]:
    return [
        ("number", letter.number),
        ("agent", f"{letter.writer} version {letter.version}" if letter.version else letter.writer),
        ("customer", letter.customer or "–"),
        ("event", letter.type),
        ("event id", letter.id or "–"),
        ("stored at", f"{letter.cause_stream} sequence {letter.cause}"),
        ("subject", letter.subject),
        ("correlation", letter.correlation_id or "–"),
        ("time", f"{letter.time.astimezone():%Y-%m-%d %H:%M:%S}"),
        ("attempts", str(letter.attempts)),
        ("error", letter.error),
        ("reason", _reason(letter)),
    ]


def _reason(letter: DeadLetter) -> str:
    """The reason on one line: a difference between two schemas has several."""
    return " ".join(letter.reason.split())


async def _letters(bus: Bus, agent: str | None, customer: str | None) -> list[DeadLetter]:
    from sojourn.bus.deadletters import dead_letters

    found = [one async for one in dead_letters(bus, writer=agent, customer=customer)]
    return sorted(found, key=lambda one: one.time)


async def _find(bus: Bus, which: str) -> list[DeadLetter]:
    from sojourn.bus.deadletters import dead_letter, dead_letters

    stream, _, sequence = which.rpartition("-")
    if stream in bus.namespace.streams and sequence.isdigit():
        return [await dead_letter(bus, which)]
    found = [one async for one in dead_letters(bus) if one.id == which]
    if not found:
        raise NotFoundError(f"there is no dead letter {which!r}: `sojourn dead ls` shows their numbers")
    return found
