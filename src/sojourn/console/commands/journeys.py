"""``sojourn journeys``: what is stored of customers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from sojourn.console.failures import note
from sojourn.console.options import Form, Settings, connection, example, form
from sojourn.console.parameters import CustomerKey
from sojourn.console.session import with_bus

if TYPE_CHECKING:
    from sojourn.bus.client import Bus
    from sojourn.console.erasing import Erased, Found


@click.group(
    short_help="Erases what is personal about a customer.", epilog=example("sojourn journeys erase c-0042 --dry-run")
)
def journeys() -> None:
    """Erases what is personal about a customer."""


@journeys.command(
    short_help="Erases what is personal about a customer, for good.",
    epilog=example(
        "sojourn journeys erase c-0042 --dry-run",
        "sojourn journeys erase c-0042 --yes -o json",
        "sojourn journeys erase --nobody --yes",
    ),
)
@click.argument("key", type=CustomerKey(), required=False)
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Only say what would be erased.")
@click.option("--nobody", is_flag=True, help="Instead of KEY: what is kept of documents that named no customer.")
@form
@connection
def erase(settings: Settings, key: str | None, yes: bool, dry_run: bool, nobody: bool, output: Form) -> None:
    """Destroys the data key of the customer KEY.

    Whatever is personal, wherever it is stored, reads None from then on: in the log, in dead letters, in copies of the
    streams. What happened, when and how often stays. Running processes drop the key within a second, and the event
    CustomerErased tells whoever keeps copies elsewhere. There is no way back but a backup of the bucket of keys: after
    restoring one, erase again.
    """
    from sojourn.console.confirming import confirm, require_answer
    from sojourn.console.erasing import destroy, survey, tell_erased, tell_found, to_erase

    if (key is None) != nobody:
        raise click.UsageError("give the KEY of a customer, or --nobody")
    if not dry_run:
        require_answer(yes=yes, look=f"sojourn journeys erase {key or '--nobody'} --dry-run")
    if dry_run or not yes:
        found = with_bus(settings, lambda bus: survey(bus, key))
        if dry_run:
            tell_found(found, output)
            return
        note(f"to erase: {to_erase(found)}")
        confirm(f"Erase it for good, in namespace {settings.namespace}?", yes=yes, otherwise="nothing was erased")

    async def work(bus: Bus) -> tuple[Found, Erased]:
        found = await survey(bus, key)
        return found, await destroy(bus, key)

    tell_erased(*with_bus(settings, work), output)
