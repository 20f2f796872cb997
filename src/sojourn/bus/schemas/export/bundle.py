"""Event types as plain JSON Schema: one bundle, or one schema a file. The data alone, as handlers see it and foreign
producers send it: without its envelope, personal values plain."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from sojourn.bus.schemas.export.embedding import embedded
from sojourn.bus.schemas.records import SchemaRecord
from sojourn.bus.schemas.schema import DIALECT, Schema


def jsonschema_bundle(records: Sequence[SchemaRecord], *, title: str = "Events") -> Schema:
    """One schema whose ``$defs`` are every version of every type, ``CartAbandoned.v1`` and so on, and under its plain
    name, ``CartAbandoned``, the newest."""
    definitions: dict[str, Any] = {}
    for record in _sorted(records):
        if record.latest is not None:
            definitions[record.type] = {"$ref": f"#/$defs/{record.type}.v{record.latest.version}"}
        for number, schema in _versions(record):
            name = f"{record.type}.v{number}"
            definitions[name] = embedded(schema, f"#/$defs/{name}")
    return {"$schema": DIALECT, "title": title, "$defs": definitions}


def jsonschema_files(records: Sequence[SchemaRecord]) -> dict[str, Schema]:
    """A schema that stands alone for every version of every type, by file name: ``CartAbandoned.v1.json``.

    Its ``$id`` is the ``dataschema`` of the documents that hold such data.
    """
    return {
        f"{record.type}.v{number}.json": {"$schema": DIALECT, "$id": f"urn:sojourn:{record.type}:{number}", **schema}
        for record in _sorted(records)
        for number, schema in _versions(record)
    }


def _sorted(records: Sequence[SchemaRecord]) -> list[SchemaRecord]:
    return sorted(records, key=lambda record: record.type)


def _versions(record: SchemaRecord) -> Iterator[tuple[int, Schema]]:
    """The versions and their schemas, oldest first, all but the newest marked as deprecated."""
    for one in record.versions:
        yield one.version, {**one.schema_, "deprecated": True} if one is not record.latest else one.schema_
