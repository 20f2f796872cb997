"""Holds data to a registered JSON Schema."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sojourn.bus.event import Event
from sojourn.bus.schemas.dialect import dialect
from sojourn.bus.schemas.records import VersionRecord
from sojourn.bus.schemas.schema import Schema, schema_of
from sojourn.bus.schemas.stored_names import Names

_SHOWN = 3


class Contract:
    """One version's schema, compiled. ``personal``: some of its fields are."""

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self._validator = dialect()(schema)
        self._names = frozenset(_names(schema))
        self._stored = Names(schema, lambda value, part: self._validator.evolve(schema=part).is_valid(value))
        self.personal = _marked(schema)

    def stored(self, data: dict[str, Any]) -> dict[str, Any]:
        """The data in the names that they are stored under, where the class reads others too."""
        return self._stored.stored(data)

    def problems(self, data: dict[str, Any]) -> str | None:
        """What does not fit, on one line and without the values, which may be personal; None where all does."""
        found: list[str] = []
        for error in self._validator.iter_errors(data):
            if len(found) == _SHOWN:
                found.append("and more")
                break
            # Keys of dictionaries are values too, and what a pattern forbids may be quoted in it.
            place = ".".join(str(part) if isinstance(part, int) or part in self._names else "*" for part in error.path)
            found.append(
                f"{place or 'data'}: {_told(str(error.validator), error.validator_value, data=error.instance)}"
            )
        return "; ".join(found) or None


class Contracts:
    """The contracts that were needed so far."""

    def __init__(self) -> None:
        self._compiled: dict[str, Contract] = {}
        self._own: dict[type[Event], Contract] = {}

    def of(self, version: VersionRecord) -> Contract:
        """The contract of a version."""
        known = self._compiled.get(version.hash)
        if known is None:
            known = self._compiled[version.hash] = Contract(version.schema_)
        return known

    def own(self, cls: type[Event]) -> Contract:
        """The contract of a class that is registered as it is defined here. It may read more names than the first one
        that was registered with this contract, and say more than an earlier build could."""
        known = self._own.get(cls)
        if known is None:
            known = self._own[cls] = Contract(schema_of(cls))
        return known


def _told(rule: str, wanted: object, *, data: object) -> str:
    match rule:
        case "required" if isinstance(wanted, list) and isinstance(data, dict):
            return f"{', '.join(str(name) for name in wanted if name not in data)} missing"
        case "type":
            return f"is not of type {' or '.join(wanted) if isinstance(wanted, list) else wanted}"
        case "enum" | "const" | "minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum" | "multipleOf":
            return f"does not fit {rule} {wanted!r}"[:200]
        case "minLength" | "maxLength" | "minItems" | "maxItems" | "pattern" | "format":
            return f"does not fit {rule} {wanted!r}"[:200]
    return f"does not fit {rule}"


def _names(schema: object) -> Iterator[str]:
    if isinstance(schema, dict):
        properties = schema.get("properties")
        if isinstance(properties, dict):
            yield from properties
        for part in schema.values():
            yield from _names(part)
    elif isinstance(schema, list):
        for part in schema:
            yield from _names(part)


def _marked(schema: object) -> bool:
    if isinstance(schema, dict):
        return schema.get("x-sojourn-personal") is True or any(_marked(part) for part in schema.values())
    return isinstance(schema, list) and any(_marked(part) for part in schema)
