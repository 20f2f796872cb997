"""Compares two alternatives: what differs between them, and which parts have to be compared in turn."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from decimal import Decimal

from sojourn.bus.schemas.change import BACKWARD, BOTH, FORWARD, NEITHER, UPCAST, Direction
from sojourn.bus.schemas.keywords import DECIMAL, PERSONAL, TEXT_OF
from sojourn.bus.schemas.objects import object_facets
from sojourn.bus.schemas.own_facets import own_facets
from sojourn.bus.schemas.parts import Found, Part, Step, broken_by, described, quoted, shown_value
from sojourn.bus.schemas.shapes import ANYTHING, KNOWN, NUMERIC, Document, Flat, admits, same, values_of

Bound = tuple[float, bool]
"""How tight a limit is; of two, the larger one is the tighter."""

_BYTES = frozenset({"binary", "base64", "base64url", "hex"})
_WIDER = frozenset(
    {(f"uuid{version}", "uuid") for version in range(1, 9)} | {(f"ipv{version}", "ipvanyaddress") for version in (4, 6)}
)


def alternative_facets(old: Flat, new: Flat, olds: Document, news: Document) -> Iterator[Part]:
    """The differences of two alternatives."""
    yield from _marks(old, new)
    types = old.get("type"), new.get("type")
    if "enum" in old or "enum" in new:
        yield from _values(old, new, olds, news)
    elif {*types} == {"integer", "number"}:
        widened = types[1] == "number"
        way = "widened" if widened else "narrowed"
        yield Found("", f"{way} from {types[0]} to {types[1]}", FORWARD if widened else BACKWARD)
        yield from _numbers(old, new)
    elif types[0] != types[1]:
        what = f"type changed from {described(old, olds)} to {described(new, news)}"
        yield Found("", what, BOTH)
        return
    elif types[0] in {"integer", "number"}:
        yield from _numbers(old, new)
    elif types[0] == "string":
        yield from _texts(old, new, olds, news)
    elif types[0] == "array":
        yield from _lists(old, new)
    elif types[0] == "object":
        yield from object_facets(old, new, olds, news)
    if "enum" not in old and "enum" not in new:
        yield from own_facets(old, new)
    yield from _format(old, new)
    yield from _unknown(old, new, olds, news)


def _marks(old: Flat, new: Flat) -> Iterator[Found]:
    was, now = bool(old.get(PERSONAL)), bool(new.get(PERSONAL))
    if "null" in {old.get("type"), new.get("type")} or was == now:
        return
    if now:
        fix = "older readers would take the sealed text for the value: let all of them take this version first"
        yield Found("", "marked Personal", FORWARD, fix)
    else:
        fix = f"keep it Personal, since what is stored stays sealed; or {UPCAST}, which is given opened values"
        yield Found("", "no longer marked Personal", BACKWARD, fix)


def _values(old: Flat, new: Flat, olds: Document, news: Document) -> Iterator[Found]:
    were, are = values_of(old), values_of(new)
    if were is not None and are is not None:
        rest = [{word: value for word, value in flat.items() if word not in {"enum", "type"}} for flat in (old, new)]
        if same(*rest):
            gone = [value for value in were if not any(same(value, other) for other in are)]
            come = [value for value in are if not any(same(value, other) for other in were)]
        else:
            gone = [value for value in were if not admits(new, value)]
            come = [value for value in are if not admits(old, value)]
        if gone:
            yield Found("", f"no longer allowed: {quoted(gone)}", BACKWARD, f"keep it among the values, or {UPCAST}")
        if come:
            fix = "older readers refuse it: let all of them take this version before it is published"
            yield Found("", f"now allowed as well: {quoted(come)}", FORWARD, fix)
        return
    what = f"was {described(old, olds)}, now {described(new, news)}"
    backward = were is not None and all(admits(new, value) for value in were)
    forward = are is not None and all(admits(old, value) for value in are)
    yield Found("", what, broken_by(backward, forward))


def _numbers(old: Flat, new: Flat) -> Iterator[Found]:
    yield from limit("minimum", _lowest(old), _lowest(new))
    yield from limit("maximum", _highest(old), _highest(new))
    was, now = old.get("multipleOf"), new.get("multipleOf")
    if not same(was, now):
        backward = now is None or _multiple(was or (1 if old["type"] == "integer" else None), now)
        forward = was is None or _multiple(now or (1 if new["type"] == "integer" else None), was)
        yield Found("", f"multipleOf {_moved(was, now)}", broken_by(backward, forward))


def _lowest(flat: Flat) -> Bound | None:
    bounds = [(value, False) for value in (flat.get("minimum"),) if value is not None]
    bounds += [(value, True) for value in (flat.get("exclusiveMinimum"),) if value is not None]
    if not bounds:
        return None
    value, exclusive = max(bounds)
    if flat["type"] == "integer" and math.isfinite(value):
        return (math.floor(value) + 1 if exclusive else math.ceil(value)), False
    return value, exclusive


def _highest(flat: Flat) -> Bound | None:
    turned = {"minimum": flat.get("maximum"), "exclusiveMinimum": flat.get("exclusiveMaximum")}
    return _lowest({"type": flat["type"], **{word: -value for word, value in turned.items() if value is not None}})


def limit(name: str, was: Bound | None, now: Bound | None) -> Iterator[Found]:
    """What became of a limit; a maximum's bound is given with its sign turned."""
    if was == now:
        return
    backward = now is None or (was is not None and was >= now)
    forward = was is None or (now is not None and now >= was)
    sign = -1 if name.startswith("max") else 1
    shown = [
        None if bound is None else shown_value(sign * bound[0]) + (" (exclusive)" if bound[1] else "")
        for bound in (was, now)
    ]
    yield Found("", f"{name} {_moved(*shown)}", broken_by(backward, forward))


def _moved(was: object, now: object) -> str:
    texts = [value if isinstance(value, str) else shown_value(value) for value in (was, now)]
    if was is None:
        return f"{texts[1]} added"
    return f"{texts[0]} removed" if now is None else f"changed from {texts[0]} to {texts[1]}"


def _multiple(one: object, other: object) -> bool:
    if one is None:
        return False
    return Decimal(str(one)) % Decimal(str(other)) == 0


def _texts(old: Flat, new: Flat, olds: Document, news: Document) -> Iterator[Part]:
    yield from counts(old, new, "Length")
    if NUMERIC & (old.keys() | new.keys()):  # of a Decimal's text
        yield from _numbers(old, new)
    if TEXT_OF in old and TEXT_OF in new:
        yield Step("", old[TEXT_OF], new[TEXT_OF])
    elif TEXT_OF in old or TEXT_OF in new:
        shown = [described(old, olds), described(new, news)]
        yield Found("", f"was {shown[0]}, now {shown[1]}", BACKWARD if TEXT_OF in new else FORWARD)
    if "contentSchema" in old and "contentSchema" in new:
        yield Step("(json)", old["contentSchema"], new["contentSchema"])
    elif "contentSchema" in old or "contentSchema" in new:
        yield Found("", "contentSchema changed", BACKWARD if "contentSchema" in new else FORWARD)
    for word in ("pattern", "contentEncoding", "contentMediaType"):
        was, now = old.get(word), new.get(word)
        if not same(was, now):
            what = (
                f"{word} {_moved(None if was is None else shown_value(was), None if now is None else shown_value(now))}"
            )
            yield Found("", what, broken_by(now is None, was is None))


def counts(old: Flat, new: Flat, noun: str) -> Iterator[Found]:
    """What became of the limits on a length or a number of things."""
    lows = [(value, False) if (value := flat.get(f"min{noun}", 0)) else None for flat in (old, new)]
    highs = [(-flat[f"max{noun}"], False) if f"max{noun}" in flat else None for flat in (old, new)]
    yield from limit(f"min{noun}", *lows)
    yield from limit(f"max{noun}", *highs)


def _format(old: Flat, new: Flat) -> Iterator[Found]:
    was, now = old.get("format"), new.get("format")
    if "enum" in old or "enum" in new or same(was, now):
        return  # _values has looked at it
    names = [
        None if name is None else "decimal number" if name == DECIMAL else shown_value(name) for name in (was, now)
    ]
    yield Found("", f"format {_moved(*names)}", broken_by(_formatted(old, new), _formatted(new, old)))


def _formatted(writer: Flat, reader: Flat) -> bool:
    written, read = writer.get("format"), reader.get("format")
    if read is None:
        # A length of bytes is not one of characters.
        return written not in _BYTES or not reader.keys() & {"minLength", "maxLength"}
    return (written, read) in _WIDER


def _lists(old: Flat, new: Flat) -> Iterator[Part]:
    yield from counts(old, new, "Items")
    was, now = bool(old.get("uniqueItems")), bool(new.get("uniqueItems"))
    if was != now:
        yield Found("", f"items {'have to be' if now else 'need not be'} unique now", BACKWARD if now else FORWARD)
    first, second = old.get("prefixItems", []), new.get("prefixItems", [])
    places = max(len(first), len(second))
    for place in range(places):
        yield Step(
            f"[{place}]",
            first[place] if place < len(first) else old.get("items", ANYTHING),
            second[place] if place < len(second) else new.get("items", ANYTHING),
            _reaching(old, new, place),
        )
    rest = _reaching(old, new, places)
    if rest != NEITHER:
        yield Step("[]", old.get("items", ANYTHING), new.get("items", ANYTHING), rest)


def _reaching(old: Flat, new: Flat, place: int) -> frozenset[Direction]:
    """The directions in which a list may have an item at ``place``, from 0."""
    return broken_by(old.get("maxItems", math.inf) <= place, new.get("maxItems", math.inf) <= place)


def _unknown(old: Flat, new: Flat, olds: Document, news: Document) -> Iterator[Found]:
    for word in dict.fromkeys([*old, *new]):
        if word in KNOWN:
            continue
        was, now = old.get(word), new.get(word)
        refers = "$ref" in json.dumps([word, was, now], default=str)
        shown = [shown_value(value) if word in flat else None for value, flat in ((was, old), (now, new))]
        if word not in old or word not in new or not same(was, now) or (refers and not same(olds.schema, news.schema)):
            yield Found(
                "",
                f"keyword {word!r} {_moved(*shown)}",
                BOTH,
                f"what {word!r} means for readers is not known here: leave it as it was, or {UPCAST}",
            )
