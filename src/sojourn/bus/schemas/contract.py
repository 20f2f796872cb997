"""What of a schema is a contract with whoever reads the documents. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from typing import Any

from sojourn.bus.schemas.keywords import COMPLETE, MEMBERS, READ_AS, TEXT_OF

Schema = dict[str, Any]
"""A JSON Schema, draft 2020-12."""

_Json = Any
"""A JSON value; as a part of a schema also one that is a schema itself: an object, True or False."""

_ANNOTATIONS = {READ_AS, COMPLETE, MEMBERS} | frozenset(
    "$schema $comment title description example examples deprecated readOnly writeOnly".split()
)
ONE = {TEXT_OF} | frozenset(
    "items additionalProperties contains propertyNames not if then else unevaluatedItems unevaluatedProperties".split()
)
NAMED = frozenset("properties patternProperties dependentSchemas".split())
SEVERAL = frozenset("anyOf oneOf allOf".split())
"""The keywords that hold a schema, schemas by name, and a list of schemas."""
_SETS = frozenset("required enum".split())
_DEFINITIONS = "#/$defs/"


def contract(schema: Schema) -> Schema:
    """What a reader of the documents depends on: the schema without titles, descriptions, examples and the like, and
    without foreign ``x-`` keywords; properties of such names stay. In a form of its own, so that equal contracts are
    equal:

    - What is read besides (`READ_AS`) says nothing of what is stored, nor do the names of flags (`MEMBERS`).
    - What has no order (``required``, ``enum``, the members of a union, the default of a set) is sorted. Python's own
      cache of ``Union`` decides which of two orders pydantic shows, and a set has another one in every process.
    - Definitions are named by what they hold. A nested class's name is not on the wire, so renaming it changes
      nothing for a reader; neither does splitting it into two equal ones. Recursion is kept.
    """
    definitions = {name: _strip(part, schema) for name, part in schema.get("$defs", {}).items()}
    root = _strip({key: value for key, value in schema.items() if key != "$defs"}, schema)
    used = _reachable(root, definitions)
    names = _names({name: part for name, part in definitions.items() if name in used})
    result: Schema = _named(root, names)
    if used:
        result["$defs"] = dict(sorted((names[name], _named(definitions[name], names)) for name in used))
    return result


def resolve(part: Schema, schema: Schema) -> Schema:
    """``part``, or the definition in ``schema`` that it refers to."""
    seen: set[str] = set()
    while isinstance(target := part.get("$ref"), str) and target.startswith(_DEFINITIONS) and target not in seen:
        seen.add(target)
        part = schema["$defs"][target.removeprefix(_DEFINITIONS)]
    return part


def canonical(value: object) -> str:
    """The one JSON text of a value: sorted keys, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _strip(part: _Json, schema: Schema) -> _Json:
    """The part without annotations, and with what has no order sorted. References stay."""
    if not isinstance(part, dict):
        return part
    result: Schema = {}
    for key, value in part.items():
        if key in _ANNOTATIONS or (key.startswith("x-") and (not key.startswith("x-sojourn-") or value is False)):
            continue
        if key in ONE:
            stripped = _strip(value, schema)
            if not (key == "additionalProperties" and stripped is True):  # as good as absent: open
                result[key] = stripped
        elif key in NAMED:
            result[key] = {name: _strip(inner, schema) for name, inner in value.items()}
        elif key in SEVERAL or key == "prefixItems":
            result[key] = [_strip(inner, schema) for inner in value]
        elif key in _SETS or (key == "type" and isinstance(value, list)):
            result[key] = sorted(value, key=canonical)
        elif key == "default":
            result[key] = _settled(value, part, schema)
        else:
            result[key] = value
    return result


def _settled(value: _Json, part: _Json, schema: Schema) -> _Json:
    """A default with its sets in order."""
    if not isinstance(part, dict) or not isinstance(value, dict | list):
        return value
    part = resolve(part, schema) if "$ref" in part else part
    for branch in (*part.get("anyOf", ()), *part.get("oneOf", ()), *part.get("allOf", ())):
        value = _settled(value, branch, schema)
    if isinstance(value, list):
        inner = part.get("items")
        value = [_settled(item, inner, schema) for item in value]
        return sorted(value, key=canonical) if part.get("uniqueItems") else value
    properties, rest = part.get("properties", {}), part.get("additionalProperties")
    return {name: _settled(item, properties.get(name, rest), schema) for name, item in value.items()}


def _reachable(root: Schema, definitions: Schema) -> set[str]:
    found: set[str] = set()
    pending = [root]
    while pending:
        for name in _references(pending.pop()):
            if name in definitions and name not in found:
                found.add(name)
                pending.append(definitions[name])
    return found


def _names(definitions: Schema) -> dict[str, str]:
    """A name for each definition, the same for two that accept the same documents, however they refer to others.

    Definitions are told apart by their content, then by that of those they refer to, and so on until no more differ:
    partition refinement, as in the minimisation of automata.
    """
    names, told_apart = dict.fromkeys(definitions, ""), 0
    while True:
        finer = {name: digest(_named(part, names))[:12] for name, part in definitions.items()}
        if len(set(finer.values())) == told_apart:
            return finer
        names, told_apart = finer, len(set(finer.values()))


def _named(part: _Json, names: dict[str, str]) -> _Json:
    """The part with its references renamed, and the members of its unions sorted by what they are then."""

    def rename(target: str) -> str:
        name = target.removeprefix(_DEFINITIONS)
        return f"{_DEFINITIONS}{names[name]}" if name in names and name != target else target

    def walk(part: _Json) -> _Json:
        if not isinstance(part, dict):
            return part
        result: Schema = {}
        for key, value in part.items():
            if key == "$ref":
                result[key] = rename(value)
            elif key == "discriminator":
                mapping = {tag: rename(target) for tag, target in value.get("mapping", {}).items()}
                result[key] = {**value, **({"mapping": mapping} if mapping else {})}
            else:
                result[key] = _descend(key, value, walk)
        return result

    return walk(part)


def _descend(key: str, value: _Json, walk: Callable[[_Json], _Json]) -> _Json:
    if key in ONE:
        return walk(value)
    if key in NAMED:
        return {name: walk(inner) for name, inner in value.items()}
    if key in SEVERAL:
        return sorted((walk(inner) for inner in value), key=canonical)
    return [walk(inner) for inner in value] if key == "prefixItems" else value


def _references(part: Schema) -> Iterator[str]:
    found: list[str] = []

    def walk(part: _Json) -> _Json:
        if isinstance(part, dict):
            targets = [part.get("$ref"), *part.get("discriminator", {}).get("mapping", {}).values()]
            found.extend(target for target in targets if isinstance(target, str))
            for key, value in part.items():
                _descend(key, value, walk)
        return None

    walk(part)
    return (target.removeprefix(_DEFINITIONS) for target in found)


def digest(value: object) -> str:
    """SHA-256 of the canonical text, in hexadecimal digits."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()
