"""The registered schemas that a command compares with: a server's, or those of a lock file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

from sojourn.console.options import Settings
from sojourn.console.parameters import require_name
from sojourn.console.session import with_bus

if TYPE_CHECKING:
    from collections.abc import Callable

    from sojourn.bus.schemas.records import SchemaRecord, VersionRecord

    F = TypeVar("F", bound=Callable[..., Any])

LOCK_FILE = "sojourn.schemas.json"
"""As in `sojourn.bus.schemas.lock`, which is a heavy import."""

SERVER = "server"


class Known(NamedTuple):
    """Records by type name, and where they are from, in words."""

    where: str
    records: dict[str, SchemaRecord]


def against(*, default: str) -> Callable[[F], F]:
    """Adds ``--against``; the command gets it as ``against``. ``default`` says in the help what counts without it."""
    return click.option(
        "--against", metavar="server|FILE", callback=require_name,
        help=f"The server's schemas, or those of a lock file, which needs no server. Default: {default}.",
    )  # fmt: skip


def default_against() -> str:
    """The lock file of the current folder where there is one, else the server."""
    return LOCK_FILE if Path(LOCK_FILE).is_file() else SERVER


def known(settings: Settings, against: str) -> Known:
    """What is registered, by the server or in a file. Raises `NotFoundError` and `ConfigurationError`."""
    if against == SERVER:
        records = with_bus(settings, lambda bus: bus.schemas.records())
        return Known(f"{settings.where}, namespace {settings.namespace}", {record.type: record for record in records})
    from sojourn.bus.schemas.lock import read_lock

    return Known(against, read_lock(Path(against)))


def require_type(records: dict[str, SchemaRecord], type: str, where: str) -> SchemaRecord:
    """The record of a type. Raises `UnknownTypeError` with names that are close."""
    found = records.get(type)
    if found is not None:
        return found
    from difflib import get_close_matches

    from sojourn.bus.errors import UnknownTypeError

    near = [name for name in records if name.lower() == type.lower()] or get_close_matches(type, records, 3, 0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else "`sojourn schemas ls` shows those there are"
    raise UnknownTypeError(f"{where} has no event type {type!r}: {hint}", type=type)


def require_version(record: SchemaRecord, number: int) -> VersionRecord:
    """A version of a type. Raises `NotFoundError` with those there are."""
    found = record.version(number)
    if found is not None:
        return found
    from sojourn.bus.errors import NotFoundError

    has = ", ".join(str(one.version) for one in record.versions) or "none"
    raise NotFoundError(f"{record.type} has no version {number} (registered: {has})")
