"""Two schemas of one event type, registered or in the code, and what lies between them."""

from __future__ import annotations

from typing import Any, NamedTuple

import click

from sojourn.bus.schemas.admission import claim_of
from sojourn.bus.schemas.change import Change
from sojourn.bus.schemas.compatibility import changes
from sojourn.bus.schemas.records import SchemaRecord, VersionRecord
from sojourn.console.failures import note
from sojourn.console.modules import load_event_type
from sojourn.console.options import Form, Settings
from sojourn.console.output import write, write_json, write_json_lines, write_spans
from sojourn.console.schemas.difference import addressed, change_lines
from sojourn.console.schemas.judging import difference_json
from sojourn.console.schemas.known import SERVER, known, require_type, require_version


class Side(NamedTuple):
    """One of the two. ``reference`` is the class; ``registered`` is False for what only the code says."""

    version: int
    reference: str
    hash: str
    schema: dict[str, Any]
    registered: bool

    def facts(self) -> dict[str, Any]:
        """The side for programs, without its schema."""
        return {name: value for name, value in self._asdict().items() if name != "schema"}


class Compared(NamedTuple):
    """What lies between two schemas of a type."""

    type: str
    old: Side
    new: Side
    changes: list[Change]


def compare(settings: Settings, words: tuple[str, ...], module: str | None) -> Compared:
    """Compares what the words of ``sojourn schemas diff`` name. Raises `click.UsageError`, `NotFoundError`."""
    names = [word for word in words if not word.isdecimal()]
    numbers = [int(word) for word in words if word.isdecimal()]
    if [*names, *map(str, numbers)] != [str(int(word)) if word.isdecimal() else word for word in words]:
        raise click.UsageError("versions come last: TYPE A B, or MODULE TYPE A")
    if module is None and len(names) == 2:
        module = names.pop(0)
    if len(names) != 1 or len(numbers) > (1 if module is not None else 2):
        raise click.UsageError("give TYPE with up to two versions, or MODULE and TYPE with one at most")
    (name,) = names
    cls = load_event_type(module, name) if module is not None else None
    record = require_type(known(settings, SERVER).records, name, f"namespace {settings.namespace}")
    if cls is not None:
        claim = claim_of(cls)
        new = Side(claim.version, claim.reference, claim.hash, claim.schema, registered=False)
        old = _side(_version(record, numbers[0] if numbers else None))
    else:
        new = _side(_version(record, numbers[1] if len(numbers) == 2 else None))
        old = _side(_version(record, numbers[0]) if numbers else _before(record))
    return Compared(record.type, old, new, addressed(changes(old.schema, new.schema), record.type, old.version))


def tell_difference(compared: Compared, output: Form) -> None:
    """Writes what lies between the two."""
    sides = {"type": compared.type, "old": compared.old.facts(), "new": compared.new.facts()}
    if output == "json":
        write_json("schema-diff/1", {**sides, "changes": difference_json(compared.changes)})
        return
    if output == "jsonl":
        write_json_lines("schema-change/1", ({**sides, **one} for one in difference_json(compared.changes)))
        return
    if not compared.changes:
        note(f"{compared.type}: nothing changed from {_called(compared.old)} to {_called(compared.new)}")
        return
    write(f"{compared.type}, from {_called(compared.old)} to {_called(compared.new)}\n")
    for line in change_lines(compared.changes):
        write_spans(line)


def _called(side: Side) -> str:
    return f"version {side.version}" if side.registered else f"{side.reference}, version {side.version}"


def _side(record: VersionRecord) -> Side:
    return Side(record.version, record.reference, record.hash, record.schema_, registered=True)


def _version(record: SchemaRecord, number: int | None) -> VersionRecord:
    if number is None and record.latest is not None:
        return record.latest
    return require_version(record, number or 1)


def _before(record: SchemaRecord) -> VersionRecord:
    if len(record.versions) < 2:
        raise click.UsageError(
            f"{record.type} has {len(record.versions)} version registered, so there is nothing to compare it with but "
            "code: --module MODULE"
        )
    return record.versions[-2]
