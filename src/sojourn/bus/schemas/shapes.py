"""Schemas taken apart: every node as a list of alternatives, each of one type and free of references and unions."""

from __future__ import annotations

import json
import math
from itertools import product
from typing import Any
from urllib.parse import unquote

from sojourn.bus.schemas.keywords import BITS, COMPLETE, KEY, MEMBERS, OWN, PERSONAL, STRICT

Node = Any
"""A schema inside a document: a dict or a bool, as JSON has it."""
Flat = dict[str, Any]
"""One alternative: it has a ``type`` (a single one) or an ``enum``, and no $ref, anyOf, oneOf or const."""

NUMERIC = frozenset("minimum maximum exclusiveMinimum exclusiveMaximum multipleOf".split())
TEXTUAL = frozenset("minLength maxLength pattern contentEncoding contentMediaType contentSchema".split())
LISTED = frozenset("items prefixItems minItems maxItems uniqueItems".split())
NAMED = frozenset(
    "properties required additionalProperties patternProperties propertyNames minProperties maxProperties".split()
)
KNOWN = NUMERIC | TEXTUAL | LISTED | NAMED | OWN | {"type", "enum", "format"}
_RELEVANT = {"integer": NUMERIC, "number": NUMERIC, "string": TEXTUAL, "array": LISTED, "object": NAMED}
_SPECIFIC = NUMERIC | TEXTUAL | LISTED | NAMED

_ANNOTATIONS = {COMPLETE} | frozenset(
    "$schema $id $comment title description example examples deprecated readOnly writeOnly default $defs definitions "
    "discriminator".split()
)
# Of these it is known which scalars they let through.
_PLAIN = frozenset({KEY, PERSONAL, STRICT, BITS, MEMBERS})
_STRUCTURE = frozenset("$ref anyOf oneOf allOf".split())

ANYTHING: Flat = {}
ANY: list[Flat] = [{"type": type} for type in ("null", "boolean", "number", "string", "array", "object")]
TEXT: Flat = {"type": "string"}


class Document:
    """A schema with its definitions. What is made of a node is made once, so that nodes can be told by identity."""

    def __init__(self, schema: Flat) -> None:
        self.schema = schema
        # Each entry holds its node as well: an id is only good as long as its object lives.
        self._alternatives: dict[int, tuple[Node, list[Flat]]] = {}
        self._bases: dict[int, tuple[Node, Flat]] = {}
        self._names: dict[int, tuple[Flat, Node]] = {}
        self._labels: dict[int, tuple[Flat, str]] = {}

    def alternatives(self, node: Node) -> list[Flat]:
        """What a value may be: it conforms to ``node`` if it conforms to one of these. Empty where nothing does."""
        known = self._alternatives.get(id(node))
        if known is None:
            flats = self._expand(node, frozenset())
            known = (node, [typed for flat in flats for typed in self._typed(flat)])
            self._alternatives[id(node)] = known
        return known[1]

    def names_of(self, flat: Flat) -> Node:
        """The schema of the names that an object may have."""
        if "propertyNames" not in flat:
            return TEXT
        return self._names.setdefault(id(flat), (flat, {"type": "string", "allOf": [flat["propertyNames"]]}))[1]

    def label(self, flat: Flat) -> str:
        """What an alternative's model is called; empty for one without a title."""
        known = self._labels.get(id(flat))
        return known[1] if known is not None else ""

    def _expand(self, node: Node, trail: frozenset[int]) -> list[Flat]:
        if node is False or id(node) in trail:  # a union that contains itself gains nothing by it
            return []
        if node is True:
            return [ANYTHING]
        if not isinstance(node, dict):
            return [{"not a schema": node}]
        trail |= {id(node)}
        flats = [self._base(node)]
        if "$ref" in node:
            target = self._target(node["$ref"])
            found = [{"$ref": node["$ref"]}] if target is None else self._expand(target, trail)
            flats = self._combined(flats, found)
        for part in node.get("allOf", ()):
            flats = self._combined(flats, self._expand(part, trail))
        for word in ("anyOf", "oneOf"):
            if word in node:
                members = [flat for member in node[word] for flat in self._expand(member, trail)]
                tag = node.get("discriminator", {}).get("propertyName") if word == "oneOf" else None
                if tag is not None:
                    members = [self._tagged(member, tag) for member in members]
                flats = self._combined(flats, members)
        return flats

    def _base(self, node: Flat) -> Flat:
        known = self._bases.get(id(node))
        if known is None:
            base = {
                word: value
                for word, value in node.items()
                if word not in _ANNOTATIONS
                and word not in _STRUCTURE
                and (word[:2] != "x-" or word[:10] == "x-sojourn-")
            }
            if "const" in base:
                only = [base.pop("const")]
                base["enum"] = [value for value in base.get("enum", only) if same(value, only[0])]
            known = self._bases[id(node)] = (node, base)
            if isinstance(title := node.get("title"), str):
                self._labels[id(base)] = (base, title)
        return known[1]

    def _target(self, reference: object) -> Node | None:
        if not isinstance(reference, str) or not reference.startswith("#"):
            return None
        found: Node = self.schema
        for step in reference.removeprefix("#").split("/")[1:]:
            name = unquote(step).replace("~1", "/").replace("~0", "~")
            if isinstance(found, dict) and name in found:
                found = found[name]
            else:
                return None
        return found

    def _combined(self, left: list[Flat], right: list[Flat]) -> list[Flat]:
        merged = []
        for a, b in product(left, right):
            both = _merged(a, b)
            if both is not None:
                merged.append(both)
                if both is not a and both is not b and (label := self.label(b) or self.label(a)):
                    self._labels[id(both)] = (both, label)
        return merged

    def _tagged(self, flat: Flat, tag: str) -> Flat:
        """A member of a discriminated union: without its tag no instance finds to it, whatever its own default says."""
        if tag in flat.get("required", ()):
            return flat
        tagged = {**flat, "required": [*flat.get("required", ()), tag]}
        if label := self.label(flat):
            self._labels[id(tagged)] = (tagged, label)
        return tagged

    def _typed(self, flat: Flat) -> list[Flat]:
        types = flat.get("type")
        if isinstance(types, str) and "enum" not in flat:
            return [flat]
        if not flat:
            return ANY
        if "enum" in flat:
            accepted = [types] if isinstance(types, str) else types
            values = [v for v in flat["enum"] if accepted is None or any(is_of(v, type) for type in accepted)]
            rest = {word: value for word, value in flat.items() if word not in {"type", "enum"}}
            texts = [{**rest, "enum": [value for value in values if value is not None]}] if values != [None] else []
            return texts + ([{**rest, "type": "null"}] if None in values else [])
        names = [flat["type"] for flat in ANY] if types is None else types
        return [
            {
                "type": name,
                **{
                    word: value
                    for word, value in flat.items()
                    if word != "type" and (word not in _SPECIFIC or word in _RELEVANT.get(name, ()))
                },
            }
            for name in names
        ]


def is_any(flats: list[Flat]) -> bool:
    """True where every value conforms."""
    return flats is ANY or all(plain in flats for plain in ANY)


def values_of(flat: Flat) -> list[Any] | None:
    """All values of an alternative, where they can be counted."""
    if "enum" in flat:
        values: list[Any] = flat["enum"]
        return values
    countable: dict[str, list[Any]] = {"boolean": [False, True], "null": [None]}
    return countable.get(str(flat.get("type")))


def admits(flat: Flat, value: object) -> bool:
    """True where an alternative is known to hold ``value``, a scalar: patterns and formats are not run."""
    if flat.keys() - KNOWN or flat.keys() & {"pattern", "format", "contentMediaType", "contentEncoding"}:
        return False
    if flat.keys() & (OWN - _PLAIN):
        return False
    if "enum" in flat and not any(same(value, member) for member in flat["enum"]):
        return False
    if "type" in flat and not is_of(value, flat["type"]):
        return False
    if isinstance(value, str):
        return bool(flat.get("minLength", 0) <= len(value) <= flat.get("maxLength", math.inf))
    if isinstance(value, int | float) and not isinstance(value, bool):
        lowest, highest = flat.get("minimum", -math.inf), flat.get("maximum", math.inf)
        above, below = flat.get("exclusiveMinimum", -math.inf), flat.get("exclusiveMaximum", math.inf)
        whole = isinstance(value, int) or not flat.keys() & {STRICT, BITS}
        flags = BITS not in flat or (isinstance(value, int) and value & ~flat[BITS] == 0)
        return (
            bool(lowest <= value <= highest and above < value < below) and whole and flags and "multipleOf" not in flat
        )
    return value is None or isinstance(value, bool) or not flat.keys() & _SPECIFIC


def is_of(value: object, type: str) -> bool:
    """Whether a JSON value is of a type; 1.0 is an integer."""
    match value:
        case None:
            return type == "null"
        case bool():
            return type == "boolean"
        case int():
            return type in {"integer", "number"}
        case float():
            return type == "number" or (type == "integer" and value.is_integer())
        case str():
            return type == "string"
        case list():
            return type == "array"
        case _:
            return type == "object"


def same(one: object, other: object) -> bool:
    """Whether two JSON values are equal: True is not 1."""
    if one is other:
        return True
    return json.dumps(one, sort_keys=True, default=str) == json.dumps(other, sort_keys=True, default=str)


def _merged(one: Flat, other: Flat) -> Flat | None:
    """An alternative that conforms to both; None where none can."""
    if not one or not other:
        return other or one
    merged = dict(one)
    clashes: Flat = {}
    apart = ("additionalProperties" in one and "properties" in other) or (
        "additionalProperties" in other and "properties" in one
    )
    for word, value in other.items():
        if word not in merged or same(merged[word], value):
            merged[word] = value
        elif word == "type":
            types = _common_types(merged["type"], value)
            if not types:
                return None
            merged["type"] = types[0] if len(types) == 1 else types
        elif word == "enum":
            merged["enum"] = [value for value in merged["enum"] if any(same(value, known) for known in other["enum"])]
            if not merged["enum"]:
                return None
        elif word == "required":
            merged["required"] = list(dict.fromkeys([*merged["required"], *value]))
        elif word == "properties":
            shared = {
                name: {"allOf": [merged["properties"][name], part]} if name in merged["properties"] else part
                for name, part in value.items()
            }
            merged["properties"] = {**merged["properties"], **shared}
        else:
            clashes[word] = value
    # What cannot be merged stays a keyword that nobody knows: equal it is fine, different it breaks.
    if apart or clashes:
        merged["allOf"] = [*merged.get("allOf", ()), other if apart else clashes]
    return merged


def _common_types(one: object, other: object) -> list[str]:
    left, right = ([one] if isinstance(one, str) else one, [other] if isinstance(other, str) else other)
    if not isinstance(left, list) or not isinstance(right, list):
        return []
    common = [type for type in left if type in right]
    numbers = "integer" not in common and {"integer", "number"} <= {*left, *right}
    return common + ["integer"] * (numbers and not {"integer", "number"} <= {*common})
