"""Whether a class can read what was written in other versions of its type. Pure."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from sojourn.bus.schemas.compatibility import Change, breaking
from sojourn.bus.schemas.records import SchemaRecord
from sojourn.bus.schemas.schema import Schema


class Gap(NamedTuple):
    """A step that nothing makes: documents of ``version`` do not fit the ``next`` stop, for the reasons in
    ``changes``. Without any, nobody knows what the next stop, an upcaster, reads."""

    version: int
    next: int
    changes: list[Change]


def find_gap(record: SchemaRecord, upcasts: Collection[int], start: int, version: int, schema: Schema) -> Gap | None:
    """Follows a document of version ``start`` up to a class of ``version`` and ``schema``, whose upcasters read the
    versions ``upcasts``: the first step that cannot be made, or None.

    A version with an upcaster is lifted to the next; one without is taken as it is, up to the next stop, which has to
    be able to read it. What an upcaster made of a version that was never registered is its author's word.
    """
    at = start
    while at < version:
        if at in upcasts:
            at += 1
            continue
        stop = min((one for one in upcasts if at < one < version), default=version)
        older = record.version(at)
        if older is not None:
            newer = schema if stop == version else _schema(record, stop)
            if newer is None:
                return Gap(at, stop, [])
            if broken := breaking(older.schema_, newer, "backward"):
                return Gap(at, stop, broken)
        at = stop
    return None


def find_gaps(record: SchemaRecord, upcasts: Collection[int], version: int, schema: Schema) -> list[Gap]:
    """The steps that are to be written before all older versions can be read, the newest first.

    Each is judged as if those before it were written already: what is mended by one of them is no gap.
    """
    written = {*upcasts}
    gaps = []
    for older in reversed(record.before(version)):
        while (gap := find_gap(record, written, older.version, version, schema)) is not None:
            gaps.append(gap)
            written.add(gap.version)
    return gaps


def _schema(record: SchemaRecord, version: int) -> Schema | None:
    known = record.version(version)
    return known.schema_ if known is not None else None
