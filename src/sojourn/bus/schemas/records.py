"""What is known of an event type: its owner, its level, and every version that was ever registered.

Stored as JSON under ``type.{Type}`` in the bucket ``{NS}_registry``: one entry holds all versions, so that a
registration is one compare-and-set, and of two that contradict each other one wins.
"""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sojourn.bus.envelope import problems
from sojourn.bus.errors import ConfigurationError
from sojourn.bus.schemas.compatibility import Level, Version
from sojourn.bus.schemas.schema import Schema

PREFIX = "type."
"""What the keys of event types begin with."""


class VersionRecord(BaseModel):
    """One version. ``hash`` is the fingerprint of ``schema_`` (on the wire ``schema``), ``registered`` when it was
    first seen, ``reference`` the import path of the class that brought it, ``module:Class``; ``upcasts`` the versions
    that this class's upcasters read."""

    model_config = ConfigDict(frozen=True)

    version: int
    schema_: Schema = Field(alias="schema")
    hash: str
    registered: datetime
    reference: str
    upcasts: list[int] = []


class SchemaRecord(BaseModel):
    """An event type. ``key_field`` is the name of the key on the wire, ``versions`` ascend. An entry written before
    versions were kept has none."""

    model_config = ConfigDict(frozen=True)

    type: str
    key_field: str
    owner: str | None = None
    compatibility: Level = Level.BACKWARD
    description: str = ""
    versions: list[VersionRecord] = []

    @property
    def latest(self) -> VersionRecord | None:
        """The newest version, or None."""
        return self.versions[-1] if self.versions else None

    def version(self, number: int) -> VersionRecord | None:
        """A version, or None where that was never registered."""
        return next((version for version in self.versions if version.version == number), None)

    def before(self, number: int) -> list[Version]:
        """The versions older than ``number``, ascending, as the compatibility check takes them."""
        return [Version(one.version, one.schema_) for one in self.versions if one.version < number]


def dump_record(record: SchemaRecord) -> bytes:
    """The record as it is stored."""
    return record.model_dump_json(by_alias=True).encode()


def parse_record(value: bytes, key: str) -> SchemaRecord:
    """The record stored under ``key``. Raises `ConfigurationError` for one that is none."""
    try:
        return SchemaRecord.model_validate_json(value)
    except ValidationError as error:
        raise ConfigurationError(
            f"the registry holds an entry, {key.removeprefix(PREFIX)}, that this version of Sojourn cannot read: "
            f"{problems(error)}"
        ) from error
