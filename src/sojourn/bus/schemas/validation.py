"""Holds data to a registered JSON Schema, where the class that it was made from is not at hand."""

from __future__ import annotations

from collections.abc import Iterator

from sojourn.bus.schemas.records import VersionRecord
from sojourn.bus.schemas.schema import Schema

_SHOWN = 3


class Contract:
    """One version's schema, compiled. ``personal``: some of its fields are."""

    def __init__(self, schema: Schema) -> None:
        # Tens of milliseconds, which nobody should pay whose events are all classes.
        from jsonschema import Draft202012Validator

        self._validator = Draft202012Validator(schema)
        self._names = frozenset(_names(schema))
        self.personal = _marked(schema)

    def problems(self, data: object) -> str | None:
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
    """The contracts that were needed so far, by fingerprint."""

    def __init__(self) -> None:
        self._compiled: dict[str, Contract] = {}

    def of(self, version: VersionRecord) -> Contract:
        """The contract of a version."""
        known = self._compiled.get(version.hash)
        if known is None:
            known = self._compiled[version.hash] = Contract(version.schema_)
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
