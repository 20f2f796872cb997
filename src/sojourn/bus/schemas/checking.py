"""Would a class be admitted? The same answer from a server's records and from a lock file's. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import NamedTuple

from sojourn.bus.errors import SchemaError
from sojourn.bus.event import Event
from sojourn.bus.schemas.admission import admitted, check_bridged, claim_of, judge
from sojourn.bus.schemas.compatibility import Change, Level, Verdict, changes
from sojourn.bus.schemas.records import SchemaRecord

_ANY_TIME = datetime(1970, 1, 1, tzinfo=UTC)


class Checked(NamedTuple):
    """What a registration of a class would meet.

    ``registered``: its version is there, with its schema or another one. ``base``: the version that ``changes``
    compares with, its own where that is registered, else the newest before it; None where there is none. ``reason``
    says in words why the class would be refused, or cannot read what is stored; empty where all is well. ``verdict``
    is that of the type's level.
    """

    type: str
    version: int
    registered: bool
    base: int | None
    changes: list[Change]
    verdict: Verdict
    reason: str

    @property
    def ok(self) -> bool:
        """True where the class would be admitted, and reads every older version."""
        return not self.reason


def check_class(cls: type[Event], record: SchemaRecord | None) -> Checked:
    """Checks a class against what is known of its type. Raises `DefinitionError` for one that has no schema."""
    claim = claim_of(cls)
    if record is None:
        return Checked(claim.type, claim.version, False, None, [], Verdict(claim.level or Level.BACKWARD, []), "")
    there = record.version(claim.version)
    earlier = record.before(claim.version)
    base, old = None, None
    if there is not None:
        base, old = there.version, there.schema_
    elif earlier:
        base, old = earlier[-1]
    reason = ""
    try:
        admitted(claim, record, now=_ANY_TIME)
        check_bridged(claim, record)
    except SchemaError as error:
        reason = str(error)
    return Checked(
        claim.type,
        claim.version,
        there is not None,
        base,
        changes(old, claim.schema) if old is not None else [],
        judge(claim, record, record.compatibility),
        reason,
    )


def check_classes(classes: Iterable[type[Event]], records: Mapping[str, SchemaRecord]) -> list[Checked]:
    """Checks every class, by type name, against the records by type name."""
    checked = [check_class(cls, records.get(cls.__name__)) for cls in classes]
    return sorted(checked, key=lambda one: (one.type, one.version))
