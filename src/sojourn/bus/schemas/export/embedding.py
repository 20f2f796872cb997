"""A schema inside a larger document, and as what is on the wire: its references and personal values rewritten."""

from __future__ import annotations

from collections.abc import Callable

from sojourn.bus.personal.field import MARK
from sojourn.bus.schemas.schema import Schema

# Where JSON Schema, draft 2020-12, has schemas in a schema. Anything else (`default`, `const`, `enum`, `examples`) is a
# value, in which a "$ref" is only a text.
_ONE = frozenset(
    {
        "additionalProperties",
        "contains",
        "contentSchema",
        "else",
        "if",
        "items",
        "not",
        "propertyNames",
        "then",
        "unevaluatedItems",
        "unevaluatedProperties",
    }
)
_LISTS = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
_MAPS = frozenset({"$defs", "definitions", "dependentSchemas", "patternProperties", "properties"})


def embedded(schema: Schema, at: str) -> Schema:
    """The schema as it reads at ``at`` (a fragment such as ``#/$defs/CartAbandoned.v2``) of a larger document.

    Its references, which point into itself, are written from the root of that document: tools that know nothing of
    ``$id`` and of schemas within schemas resolve them too.
    """

    def move(part: Schema) -> Schema:
        moved = dict(part)
        if isinstance(ref := moved.get("$ref"), str):
            moved["$ref"] = _moved(ref, at)
        discriminator = moved.get("discriminator")
        if isinstance(discriminator, dict) and isinstance(mapping := discriminator.get("mapping"), dict):
            moved["discriminator"] = discriminator | {"mapping": {tag: _moved(ref, at) for tag, ref in mapping.items()}}
        return moved

    placed = _map(schema, move)
    # The dialect is said once, by the document.
    placed.pop("$schema", None)
    return placed


def sealed(schema: Schema, pattern: str, description: str) -> Schema:
    """The schema of the same data with its personal values sealed: texts that match ``pattern``, whatever they hold.
    ``description`` is added to each."""
    kept = ("title", "description", "deprecated", MARK)

    def seal(part: Schema) -> Schema:
        if not is_personal(part):
            return part
        # What was defined of the value (its length, its format, its parts) does not hold of the sealed text.
        text = {name: part[name] for name in kept if name in part}
        return _described(text | {"type": "string", "pattern": pattern}, description)

    return _map(schema, seal)


def explained(schema: Schema, description: str) -> Schema:
    """The same schema, ``description`` added to each personal value."""
    return _map(schema, lambda part: _described(part, description) if is_personal(part) else part)


def is_personal(part: Schema) -> bool:
    """Whether this very value is personal."""
    return part.get(MARK) is True


def holds_personal(schema: Schema) -> bool:
    """Whether anything in the schema is personal."""
    found = False

    def look(part: Schema) -> Schema:
        nonlocal found
        found = found or is_personal(part)
        return part

    _map(schema, look)
    return found


def _moved(ref: str, at: str) -> str:
    return at + ref.removeprefix("#") if ref.startswith("#") else ref


def _described(part: Schema, description: str) -> Schema:
    said = part.get("description")
    return part | {"description": f"{said} {description}" if said else description}


def _map(schema: Schema, change: Callable[[Schema], Schema]) -> Schema:
    """A copy in which every schema, from the outside in, is replaced by what ``change`` makes of it."""
    copy: Schema = {}
    for keyword, value in change(schema).items():
        if keyword in _ONE and isinstance(value, dict):
            copy[keyword] = _map(value, change)
        elif keyword in _LISTS and isinstance(value, list):
            copy[keyword] = [_inner(item, change) for item in value]
        elif keyword in _MAPS and isinstance(value, dict):
            copy[keyword] = {name: _inner(item, change) for name, item in value.items()}
        else:
            copy[keyword] = value
    return copy


def _inner(value: object, change: Callable[[Schema], Schema]) -> object:
    # `True` and `False` are schemas too.
    return _map(value, change) if isinstance(value, dict) else value
