"""Brings a foreign document into the names that it is stored under, where the model reads others too."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any

from sojourn.bus.schemas.contract import Schema
from sojourn.bus.schemas.keywords import READ_AS

_Value = Any
"""What JSON holds."""
_Node = Any
"""A part of a schema: a dict or a bool."""

_Place = str | list[str | int]
"""A name, or a path of several steps."""

_NOTHING = object()


class Names:
    """The names of one schema. ``fits`` says whether a value is valid by a part of it."""

    def __init__(self, schema: Schema, fits: Callable[[_Value, _Node], bool]) -> None:
        self._schema = schema
        self._fits = fits
        self._several = _reads_others(schema)

    def stored(self, data: dict[str, Any]) -> dict[str, Any]:
        """The data with each value that stands under another name of its field moved to the one that it is stored
        under; what the model reads stays the same. Data without such names are returned as they are."""
        if not self._several:
            return data
        named: dict[str, Any] = _Walk(self._schema, self._fits).value(data, self._schema)
        return named


class _Walk:
    """One document. What a part of it becomes under a part of the schema is found once, since unions ask again."""

    def __init__(self, schema: Schema, fits: Callable[[_Value, _Node], bool]) -> None:
        self._root = schema
        self._fits = fits
        self._found: dict[tuple[int, int], tuple[_Value, _Value]] = {}

    def value(self, value: _Value, node: _Node) -> _Value:
        if not isinstance(node, dict) or not isinstance(value, dict | list):
            return value
        known = self._found.get((id(value), id(node)))
        if known is None:
            # With the value itself, whose id would else be another's once it is gone.
            known = self._found[id(value), id(node)] = value, self._named(value, node)
        return known[1]

    def _named(self, value: _Value, node: dict[str, Any]) -> _Value:
        if isinstance(reference := node.get("$ref"), str):
            value = self.value(value, _resolved(self._root, reference))
        for part in node.get("allOf", ()):
            value = self.value(value, part)
        for word in ("anyOf", "oneOf"):
            if word in node:
                value = self._chosen(value, node[word])
        if isinstance(value, list):
            first = node.get("prefixItems", [])
            return [
                self.value(item, first[place] if place < len(first) else node.get("items"))
                for place, item in enumerate(value)
            ]
        if not isinstance(value, dict):
            return value
        value = _renamed(value, node)
        properties, further = node.get("properties", {}), node.get("additionalProperties")
        patterns = [*node.get("patternProperties", {}).values()]
        found = dict(value)
        for name in value:
            for schema in [properties[name]] if name in properties else [*patterns, further]:
                found[name] = self.value(found[name], schema)
        return found

    def _chosen(self, value: _Value, members: list[_Node]) -> _Value:
        """The value as the member reads it that names most of it, as pydantic chooses too."""
        members = [member for member in members if member != {"type": "null"}]
        if len(members) == 1:
            return self.value(value, members[0])
        best, most = value, -1
        for member in members:
            named = self.value(value, member)
            if (count := self._count(named, member)) > most and self._fits(named, member):
                best, most = named, count
        return best

    def _count(self, value: _Value, member: _Node) -> int:
        while isinstance(member, dict) and isinstance(reference := member.get("$ref"), str):
            member = _resolved(self._root, reference)
        if not isinstance(value, dict) or not isinstance(member, dict):
            return 0
        return len(value.keys() & member.get("properties", {}).keys())


def _renamed(value: dict[str, _Value], node: Mapping[str, Any]) -> dict[str, _Value]:
    read_as: dict[str, list[_Place]] = node.get(READ_AS, {})
    properties, closed = node.get("properties", {}), node.get("additionalProperties") is False
    found, moved = dict(value), []
    for name, places in read_as.items():
        # Found twice, a closed model refuses it; and what is not read as it is stored stays where it is.
        if name not in places or (closed and name in value):
            continue
        place = next((place for place in places if _at(value, place) is not _NOTHING), name)
        if place != name:
            found[name] = _at(value, place)
            moved.append(place)
    for place in moved:
        if _first(place) not in properties:
            _remove(found, place, whole=closed)
    # Where names stand for each other, moving one could change what is read as the other.
    unchanged = all(_read(found, places) == _read(value, places) for places in read_as.values())
    return found if moved and unchanged else value


def _read(value: dict[str, _Value], places: list[_Place]) -> _Value:
    return next((part for place in places if (part := _at(value, place)) is not _NOTHING), _NOTHING)


def _at(value: _Value, place: _Place) -> _Value:
    for step in [place] if isinstance(place, str) else place:
        if isinstance(value, dict) and isinstance(step, str):
            value = value.get(step, _NOTHING)
        elif isinstance(value, list) and isinstance(step, int) and -len(value) <= step < len(value):
            value = value[step]
        else:
            return _NOTHING
    return value


def _first(place: _Place) -> str:
    return place if isinstance(place, str) else str(place[0])


def _remove(found: dict[str, _Value], place: _Place, *, whole: bool) -> None:
    name = _first(place)
    if name not in found:
        return
    if isinstance(place, str) or whole:
        del found[name]
        return
    part: Any = deepcopy(found[name])
    found[name] = part
    *steps, last = place[1:]
    for step in steps:
        part = part[step]
    if isinstance(part, dict):
        part.pop(last, None)
    elif isinstance(last, int):
        part[last] = None  # what follows keeps its place


def _reads_others(schema: _Node) -> bool:
    if isinstance(schema, dict):
        return READ_AS in schema or any(_reads_others(part) for part in schema.values())
    return isinstance(schema, list) and any(_reads_others(part) for part in schema)


def _resolved(root: _Node, reference: str) -> _Node:
    node = root
    for token in reference.split("/")[1:]:
        node = node.get(token.replace("~1", "/").replace("~0", "~"), {}) if isinstance(node, dict) else {}
    return node
