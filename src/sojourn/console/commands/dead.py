"""``sojourn dead``: the dead letters, events that an agent could not handle, and what is done about them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import click

from sojourn.bus.errors import NotFoundError
from sojourn.console.options import Form, Settings, connection, example, form
from sojourn.console.selecting import Choice, choosing
from sojourn.console.session import with_bus

if TYPE_CHECKING:
    from sojourn.bus.client import Bus
    from sojourn.bus.deadletters import DeadLetter, Selection
    from sojourn.console.deciding import Deed, Tally

_LISTED = 200
"""Letters that are listed for people unless they say how many."""


@click.group(
    short_help="Shows, redrives and drops the events that could not be handled.",
    epilog=example(
        "sojourn dead ls --agent win-back",
        "sojourn dead show SOJOURN_2-1841",
        "sojourn dead redrive --agent win-back --error KeyError --dry-run",
        "sojourn dead drop SOJOURN_2-1841 --yes",
    ),
)
def dead() -> None:
    """Shows dead letters, the events that an agent or the ingress could not handle, and why; puts them back, or gives
    them up."""


@dead.command(
    short_help="Lists the dead letters.",
    epilog=example("sojourn dead ls --agent win-back --since 2h", "sojourn dead ls --status all -o jsonl"),
)
@choosing
@click.option(
    "--status", type=click.Choice(["open", "redriven", "dropped", "all"]), default="open", show_default=True,
    help="Only those of which this became.",
)  # fmt: skip
@click.option(
    "--limit", metavar="N", type=click.IntRange(min=1),
    help=f"Only the newest. Default: {_LISTED} as text, all otherwise.",
)  # fmt: skip
@form
@connection
def ls(
    settings: Settings,
    choice: Choice,
    status: Literal["open", "redriven", "dropped", "all"],
    limit: int | None,
    output: Form,
) -> None:
    """Lists the dead letters, the newest last, and customers that are parked until somebody redrives or drops them."""
    from sojourn.console.failures import note
    from sojourn.console.output import Column, write_json, write_json_lines, write_table

    if limit is None and output == "text":
        limit = _LISTED
    found, count = with_bus(settings, lambda bus: _newest(bus, choice.selection(status), limit))
    if output == "json":
        write_json("dead-letters/1", {"namespace": settings.namespace, "dead_letters": [facts(one) for one in found]})
    elif output == "jsonl":
        write_json_lines("dead-letter/1", map(facts, found))
    elif found:
        # Where all are open, as they are unless asked for otherwise, that says nothing.
        tells = status != "open" or any(one.kind == "parked" for one in found)
        columns = [
            Column("number"), Column("time"), *([Column("status")] if tells else []), Column("agent", "is cut"),
            Column("customer", "is cut"), Column("event", "is cut"), Column("reason", "wraps"),
        ]  # fmt: skip
        rows = [
            (
                one.number,
                f"{one.time.astimezone():%m-%d %H:%M}",
                *([_status(one)] if tells else []),
                one.writer,
                one.customer or "–",
                one.type,
                _reason(one),
            )
            for one in found
        ]
        write_table(columns, rows)
    else:
        note("no dead letters" if status in ("open", "all") else f"no {status} dead letters")
    if len(found) < count:
        note(f"the newest {len(found):,} of {count:,}: --limit says how many")


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


_yes = click.option("--yes", is_flag=True, help="Do not ask.")
_dry_run = click.option("--dry-run", is_flag=True, help="Only say what would become of them.")
_all = click.option("--all", "everything", is_flag=True, help="All that are open.")
_limit = click.option("--limit", metavar="N", type=click.IntRange(min=1), help="At most so many.")
_numbers = click.argument("numbers", metavar="[NUMBER]...", nargs=-1)


@dead.command(
    short_help="Has dead letters handled again.",
    epilog=example(
        "sojourn dead redrive SOJOURN_2-1841 --yes",
        "sojourn dead redrive --agent win-back --error KeyError --dry-run",
        "sojourn dead redrive --all --yes -o json",
    ),
)
@_numbers
@choosing
@_all
@_limit
@_yes
@_dry_run
@form
@connection
def redrive(settings: Settings, output: Form, **chosen: Any) -> None:
    """Has dead letters handled again: those of the given numbers, or those that are open and chosen by options.

    Each comes back once, however often this is called, to the agent that failed on it and to nobody else, in order for
    each customer. One that fails again is a new dead letter. Customers that are parked go on; documents that the
    ingress refused are filed, as far as they fit by now. Interrupted, it goes on where it was when it is called again.
    """
    _decide(settings, "redrive", output, **chosen)


@dead.command(
    short_help="Gives dead letters up.",
    epilog=example("sojourn dead drop SOJOURN_2-1841 --yes", "sojourn dead drop --customer c-0042 --dry-run"),
)
@_numbers
@choosing
@_all
@_limit
@_yes
@_dry_run
@form
@connection
def drop(settings: Settings, output: Form, **chosen: Any) -> None:
    """Gives dead letters up: those of the given numbers, or those that are open and chosen by options.

    They stay readable, as dropped, and cannot be redriven any more. Of a customer that is parked the event at which it
    is held is given up, and the customer goes on with the next.
    """
    _decide(settings, "drop", output, **chosen)


def _decide(
    settings: Settings,
    deed: Deed,
    output: Form,
    *,
    numbers: tuple[str, ...],
    choice: Choice,
    everything: bool,
    limit: int | None,
    yes: bool,
    dry_run: bool,
) -> None:
    from sojourn.console.confirming import confirm, require_answer
    from sojourn.console.deciding import Tally, decide, tell
    from sojourn.console.failures import note, several

    if bool(numbers) + choice.narrows + everything != 1:
        raise click.UsageError("say which: their NUMBERs, or options that choose, such as --agent, or --all")
    if not dry_run:
        require_answer(yes=yes, look=f"sojourn dead {deed} … --dry-run")

    def run(form: Form, *, dry_run: bool) -> Tally:
        tally = Tally(form, dry_run=dry_run)
        return with_bus(settings, lambda bus: decide(bus, deed, numbers, choice.selection("open"), limit, tally))

    if dry_run or not yes:
        found = run(output if dry_run else "text", dry_run=True)
        if dry_run or not found.done:
            tell(found, deed, settings.namespace, output)
            return
        note(f"to {deed}: {found}")
        what = several(found.done, "dead letter")
        confirm(f"{deed.capitalize()} {what}, in namespace {settings.namespace}?", yes=yes, otherwise=_NOTHING)
    tell(run(output, dry_run=False), deed, settings.namespace, output)


def facts(letter: DeadLetter) -> dict[str, Any]:
    """A dead letter for programs."""
    return letter.model_dump(mode="json")


def _pairs(letter: DeadLetter) -> list[tuple[str, str]]:
    return [
        ("number", letter.number),
        ("status", _status(letter)),
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


def _status(letter: DeadLetter) -> str:
    return "parked" if letter.kind == "parked" and letter.status == "open" else letter.status


async def _newest(bus: Bus, selection: Selection, limit: int | None) -> tuple[list[DeadLetter], int]:
    """The newest of those selected, the newest last, and how many there are."""
    from heapq import heappush, heappushpop

    from sojourn.bus.deadletters import dead_letters

    kept: list[tuple[Any, int, DeadLetter]] = []
    count = 0
    async for letter in dead_letters(bus, selection):
        count += 1
        item = (letter.time, count, letter)
        if limit is None or len(kept) < limit:
            heappush(kept, item)
        else:
            heappushpop(kept, item)
    return [letter for _, _, letter in sorted(kept, key=lambda item: item[:2])], count


async def _find(bus: Bus, which: str) -> list[DeadLetter]:
    from sojourn.bus.deadletters import dead_letter, dead_letters

    stream, _, sequence = which.rpartition("-")
    if stream in bus.namespace.streams and sequence.isdigit():
        return [await dead_letter(bus, which)]
    found = [one async for one in dead_letters(bus) if one.id == which]
    if not found:
        raise NotFoundError(f"there is no dead letter {which!r}: `sojourn dead ls` shows their numbers")
    return found


_NOTHING = "nothing was stored"
