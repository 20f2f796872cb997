"""``sojourn keys``: the master keys that wrap the keys of customers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sojourn.console.failures import Problems, note, several
from sojourn.console.options import Form, Settings, connection, debugging, example, form
from sojourn.console.parameters import require_name
from sojourn.console.session import with_bus

if TYPE_CHECKING:
    from sojourn.bus.client import Bus
    from sojourn.bus.personal.loss import Loss
    from sojourn.console.masterkeys import Status


@click.group(
    short_help="Makes, shows and changes the master keys of personal data.",
    epilog=example("sojourn keys new master.key", "sojourn keys status --master-key master.key"),
)
def keys() -> None:
    """Makes, shows and changes the master keys, which wrap the keys of customers and never go to the server."""


@keys.command(
    short_help="Writes a new master key to a new file.",
    epilog=example("sojourn keys new master.key", "sojourn keys new master-2.key --keep master.key"),
)
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path), callback=require_name)
@click.option("--id", metavar="NAME", help="What the key is called, never reused. Default: master-1, master-2 …")
@click.option(
    "--keep", metavar="FILE", type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Add the keys of this file below the new one, for a rotation.",
)  # fmt: skip
@form
@debugging
def new(file: Path, id: str | None, keep: Path | None, output: Form) -> None:
    """Writes a new master key to FILE, which only its owner may read. A file that is there is never overwritten.

    Keep a copy in a safe place: without it nobody, you included, ever reads a personal value again.
    """
    from sojourn.console.masterkeys import write_keys
    from sojourn.console.output import write, write_json, write_json_lines

    ids = write_keys(file, id, keep)
    facts: dict[str, Any] = {"file": str(file), "ids": list(ids)}
    if output == "json":
        write_json("new-master-key/1", facts)
    elif output == "jsonl":
        write_json_lines("new-master-key/1", [facts])
    else:
        write(f"{file}: {', '.join(ids)}\n")
        note("keep a copy in a safe place: without this file no personal value can be read, by nobody, ever again")


@keys.command(
    short_help="Shows which master keys are at hand and what they wrap.",
    epilog=example("sojourn keys status", "sojourn keys status --master-key master.key -o json"),
)
@form
@connection
def status(settings: Settings, output: Form) -> None:
    """Shows the master keys at hand, by their ids, and how many customers' keys each of them wraps.

    The exit status is 1 where one is missing, or another one than that of its name.
    """
    from sojourn.console.masterkeys import look, tell_status

    found = with_bus(settings, lambda bus: look(bus, settings))
    tell_status(found, settings.namespace, output)
    if found.trouble is not None:
        out = "where no copy of it is left, `sojourn keys forget MASTER_ID` gives it up, with all that it wraps"
        raise Problems([found.trouble, out])


@keys.command(
    short_help="Wraps all customers' keys with the first master key.",
    epilog=example("sojourn keys rotate --master-key master-2.key", "sojourn keys rotate --yes"),
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@form
@connection
def rotate(settings: Settings, yes: bool, output: Form) -> None:
    """Wraps the keys of all customers with the first master key of the file, so that the others are not needed any
    more.

    Every process has to have the new file before. What was wrapped by the other keys is overwritten. Interrupted, it
    goes on where it was when it is called again. Personal values stay as they are.
    """
    from sojourn.console.confirming import confirm, require_answer
    from sojourn.console.masterkeys import look, tell_rotation

    require_answer(yes=yes, look="sojourn keys status")
    if not yes:
        found = with_bus(settings, lambda bus: look(bus, settings))
        if found.trouble is not None:
            raise Problems([found.trouble])
        what = several(found.to_rotate, "key")
        confirm(f"Wrap {what} anew, with {found.first}?", yes=yes, otherwise="no key was wrapped anew")

    async def work(bus: Bus) -> tuple[int, Status]:
        rotated = await bus.keys.rotate()
        return rotated, await look(bus, settings)

    tell_rotation(*with_bus(settings, work), settings.namespace, output)


@keys.command(
    short_help="Gives up a master key that is lost, with all that it wraps.",
    epilog=example("sojourn keys forget master-1 --dry-run", "sojourn keys forget master-1 --yes"),
)
@click.argument("id", metavar="MASTER_ID")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Only say what would be erased.")
@form
@connection
def forget(settings: Settings, id: str, yes: bool, dry_run: bool, output: Form) -> None:
    """Erases the customers' keys that the master key MASTER_ID wraps, for the case that nobody has it any more.

    Without it they open nothing, and processes with personal data refuse to start in case it is found after all: this
    decides that it is not. What those customers' keys sealed reads None from then on, as after an erasure; what is
    published later gets new keys. Stop whatever still runs with MASTER_ID before. One that is at hand is refused.
    """
    from sojourn.bus.personal.loss import forget as forget_key
    from sojourn.bus.personal.loss import survey
    from sojourn.console.confirming import confirm, require_answer
    from sojourn.console.masterkeys import at_hand, tell_loss, to_forget

    if not dry_run:
        require_answer(yes=yes, look=f"sojourn keys forget {id} --dry-run")

    async def look(bus: Bus) -> Loss:
        return await survey(bus.transport, bus.namespace, at_hand(settings), id)

    if dry_run or not yes:
        loss = with_bus(settings, look)
        if dry_run:
            tell_loss(loss, None, settings.namespace, output)
            return
        note(f"to erase: {to_forget(loss)}")
        question = f"Give up {id} for good, in namespace {settings.namespace}, with no copy of it anywhere?"
        confirm(question, yes=yes, otherwise="nothing was erased")

    async def work(bus: Bus) -> tuple[Loss, int]:
        loss = await look(bus)
        return loss, await forget_key(bus.keys, bus.transport, bus.namespace, at_hand(settings), id)

    tell_loss(*with_bus(settings, work), settings.namespace, output)
