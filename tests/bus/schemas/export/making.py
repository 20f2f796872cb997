"""Records and validators for the tests of the exports."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from jsonschema import Draft202012Validator
from referencing import Registry
from referencing.jsonschema import DRAFT202012, SchemaRegistry

from sojourn.bus.event import Event, spec_of
from sojourn.bus.schemas.records import SchemaRecord, VersionRecord
from sojourn.bus.schemas.schema import fingerprint, key_name, schema_of

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def record_of(*classes: type[Event], **facts: Any) -> SchemaRecord:
    """The record of an event type, of a class per version, oldest first."""
    versions = [
        VersionRecord(
            version=spec_of(cls).version,
            schema=schema_of(cls),
            hash=fingerprint(schema_of(cls)),
            registered=NOW,
            reference=f"{cls.__module__}:{cls.__qualname__}",
        )
        for cls in classes
    ]
    type = spec_of(classes[0]).type
    return SchemaRecord(type=type, key_field=key_name(versions[-1].schema_), versions=versions, **facts)


def records_of(classes: Iterable[type[Event]]) -> list[SchemaRecord]:
    return [record_of(cls, owner="shop", description=(cls.__doc__ or "").strip()) for cls in classes]


def at(document: dict[str, Any], fragment: str) -> Draft202012Validator:
    """The validator of a schema somewhere in a document. It fetches nothing: an unknown reference is an error."""
    nothing: SchemaRegistry = Registry()
    registry = nothing.with_resource("urn:document", DRAFT202012.create_resource(document))
    return Draft202012Validator({"$ref": f"urn:document{fragment}"}, registry=registry)
