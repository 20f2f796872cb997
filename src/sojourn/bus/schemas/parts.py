"""What comparing two nodes yields: findings of its own, and pairs of nodes to compare next."""

from __future__ import annotations

import json
from typing import NamedTuple

from sojourn.bus.schemas.change import BACKWARD, BOTH, FORWARD, NEITHER, Direction
from sojourn.bus.schemas.keywords import DECIMAL, TEXT_OF
from sojourn.bus.schemas.shapes import Document, Flat, Node, is_any

Key = tuple[int, int, bool]


class Found(NamedTuple):
    """A difference at ``path`` (relative). ``fix`` is said where it breaks, instead of the general way out; ``hint``
    always."""

    path: str
    what: str
    breaks: frozenset[Direction]
    fix: str = ""
    hint: str = ""


class Step(NamedTuple):
    """A pair to compare at ``path`` (relative). What it breaks counts in ``directions`` only. ``flat`` tells a pair of
    alternatives from a pair of nodes."""

    path: str
    old: Node
    new: Node
    directions: frozenset[Direction] = BOTH
    flat: bool = False

    @property
    def key(self) -> Key:
        return id(self.old), id(self.new), self.flat


Part = Found | Step


def broken_by(backward: bool, forward: bool) -> frozenset[Direction]:
    """The directions that are *not* held."""
    return {
        (True, True): NEITHER,
        (False, True): BACKWARD,
        (True, False): FORWARD,
        (False, False): BOTH,
    }[backward, forward]


def quoted(values: list[object], *, most: int = 8) -> str:
    """JSON values for people: ``'a', 'b' and 3 more``."""
    shown = [shown_value(value) for value in values[:most]]
    more = len(values) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def shown_value(value: object, *, most: int = 60) -> str:
    """A JSON value for people, cut where it is long."""
    text = f"'{value}'" if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= most else f"{text[: most - 1]}…"


def describe(node: Node, document: Document) -> str:
    """What a node holds, in a few words."""
    flats = document.alternatives(node)
    if is_any(flats):
        return "anything"
    return " or ".join(dict.fromkeys(described(flat, document) for flat in flats)) or "nothing"


def described(flat: Flat, document: Document) -> str:
    """What an alternative holds, in a few words."""
    if "enum" in flat:
        return ("one of " if len(flat["enum"]) > 1 else "") + quoted(flat["enum"])
    match flat["type"]:
        case "array":
            rest = flat.get("items")
            what = "tuple" if "prefixItems" in flat else "set" if flat.get("uniqueItems") else "list"
            plain = isinstance(rest, dict) and set(rest) <= {"type", "title", "format"} and "type" in rest
            return f"{what} of {rest['type']}s" if plain and isinstance(rest, dict) else what
        case "object":
            return document.label(flat) or ("object" if "properties" in flat else "mapping")
        case "string" if TEXT_OF in flat:
            return f"{describe(flat[TEXT_OF], document)} as text"
        case "string" if flat.get("format") == DECIMAL:
            return "decimal text"
        case type:
            return f"{type} ({flat['format']})" if "format" in flat else str(type)
