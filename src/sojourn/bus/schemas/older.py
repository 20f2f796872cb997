"""Schemas as they were before Sojourn's own keywords, so that one without them can be compared with one that has them.

A schema that is not `COMPLETE` says nothing of time zones, digits, a mapping's keys and the like: that a new one does
is no change. So both are compared by what both can say, as it was when the older one was registered.
"""

from __future__ import annotations

from typing import Any

from sojourn.bus.schemas.contract import NAMED, ONE, SEVERAL, Schema
from sojourn.bus.schemas.keywords import BITS, COMPLETE, DECIMAL, KEY, MEMBERS, OWN, PERSONAL

_Node = Any
"""A part of a schema: a dict or a bool."""

_FORGOTTEN = OWN - {KEY, PERSONAL}
_LIMITS = frozenset("minimum maximum exclusiveMinimum exclusiveMaximum multipleOf".split())
_PLAIN = frozenset({"type", "title", "description", "default", "pattern", PERSONAL})
# How pydantic up to 2.13 begins the pattern of a Decimal's text; 2.14 shows a bare string.
_PATTERN = r"^(?!^[-+.]*$)[+-]?0*"


def comparable(old: Schema, new: Schema) -> tuple[Schema, Schema]:
    """Both schemas as they are where both are complete, else both without what an older one could not say."""
    if old.get(COMPLETE) and new.get(COMPLETE):
        return old, new
    return _plain(old), _plain(new)


def _plain(part: _Node) -> _Node:
    if not isinstance(part, dict):
        return part
    found: Schema = {}
    for word, value in part.items():
        if word in ONE:
            found[word] = _plain(value)
        elif (word in NAMED or word in {"$defs", "definitions"}) and isinstance(value, dict):
            found[word] = {name: _plain(inner) for name, inner in value.items()}
        elif (word in SEVERAL or word == "prefixItems") and isinstance(value, list):
            found[word] = [_plain(inner) for inner in value]
        else:
            found[word] = value
    for word in ("anyOf", "oneOf"):
        if isinstance(found.get(word), list):
            found[word] = _doubted(found[word])
    if found.get("format") == DECIMAL:
        found = {word: value for word, value in found.items() if word not in _LIMITS}
    if MEMBERS in found:
        limits = _LIMITS if BITS in found else frozenset()
        found = {**{word: value for word, value in found.items() if word not in limits}, "enum": found[MEMBERS]}
    if "propertyNames" in found and not found["propertyNames"].keys() - _FORGOTTEN:
        del found["propertyNames"]
    return {word: value for word, value in found.items() if word not in _FORGOTTEN}


def _doubted(members: list[_Node]) -> list[_Node]:
    """A Decimal showed as ``number or string``, just as ``float | str`` does, and does not read every text. So where a
    number stands beside a text without bounds, that text is taken for a decimal's."""
    if not any(isinstance(member, dict) and member.get("type") == "number" for member in members):
        return members
    doubted = [
        {**{word: value for word, value in member.items() if word != "pattern"}, "format": DECIMAL}
        if isinstance(member, dict)
        and member.get("type") == "string"
        and not member.keys() - _PLAIN
        and member.get("pattern", _PATTERN).startswith(_PATTERN)
        else member
        for member in members
    ]
    return [member for place, member in enumerate(doubted) if member not in doubted[:place]]
