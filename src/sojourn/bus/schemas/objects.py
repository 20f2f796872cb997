"""Compares objects: models by their fields, mappings by their names and values. Lenient: a reader ignores what it does
not know, and what a schema does not name is not written."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sojourn.bus.schemas.change import BACKWARD, FORWARD, NEITHER, UPCAST, Direction
from sojourn.bus.schemas.keywords import READ_AS
from sojourn.bus.schemas.parts import Found, Part, Step, broken_by, describe, shown_value
from sojourn.bus.schemas.shapes import ANYTHING, Document, Flat, Node, same

_READERS_FIRST = "let all readers take this version before it is published"


def object_facets(old: Flat, new: Flat, olds: Document, news: Document) -> Iterator[Part]:
    """The differences of two objects."""
    yield from _fields(old, new, olds, news)
    yield from _further(old, new)
    yield from _named(old, new, olds, news)
    yield from _sizes(old, new)


def _fields(old: Flat, new: Flat, olds: Document, news: Document) -> Iterator[Part]:
    were, are = old.get("properties", {}), new.get("properties", {})
    needed, needs = old.get("required", ()), new.get("required", ())
    renamed = _renamed(old, new, olds, news)
    for name in dict.fromkeys([*were, *needed, *are, *needs]):
        path = f".{name}"
        was, now = were.get(name, ANYTHING), are.get(name, ANYTHING)
        missing = broken_by(name not in needs or _found(name, new, old), name not in needed or _found(name, old, new))
        if (name in were or name in needed) and (name in are or name in needs):
            yield from _kept(path, was, now, missing, name in needs)
            yield Step(path, was, now)
        elif name in were or name in needed:
            after = next((other for other in are if name in _names(other, new)), None)
            hint = f"read as {after} now" if after is not None else _guessed("to", renamed.get(name), name)
            yield _removed(name, describe(was, olds), name in needed, missing, hint)
            yield from (Step(path, was, part) for part in _unnamed(new))
        else:
            before = next((other for other in _names(name, new) if other in were), None)
            other = next((first for first, second in renamed.items() if second == name), None)
            hint = f"read from {before} in older data" if before is not None else _guessed("from", other, other)
            yield _added(name, f"{describe(now, news)}{_default(now)}", name in needs, missing, hint)
            yield from (Step(path, part, now) for part in _unnamed(old))
        yield from _elsewhere(name, old, new, BACKWARD)
        yield from _elsewhere(name, new, old, FORWARD)


def _names(name: str, reader: Flat) -> list[Any]:
    """Under which names a reader looks for a property, in their order; a path is a list."""
    names: list[Any] = reader.get(READ_AS, {}).get(name, [name])
    return names


def _found(name: str, reader: Flat, writer: Flat) -> bool:
    """Whether a reader finds a property in all that a writer writes."""
    return any(other in writer.get("required", ()) for other in _names(name, reader))


def _elsewhere(name: str, writer: Flat, reader: Flat, direction: frozenset[Direction]) -> Iterator[Part]:
    """What a reader takes for a property though the writer means another by it."""
    if name not in reader.get("properties", {}):
        return
    written = writer.get("properties", {})
    for other in _names(name, reader):
        if isinstance(other, list):
            if other and other[0] in written and other not in _names(name, writer):
                place = ".".join(str(step) for step in other)
                yield Found(f".{name}", f"looked for at {place} too, where something else may be", direction)
        elif other in written:
            if other != name:
                wrote, reads = written[other], reader["properties"][name]
                was, now = (wrote, reads) if direction == BACKWARD else (reads, wrote)
                yield Step(f".{name}", was, now, direction)
            if other in writer.get("required", ()):
                return


def _kept(path: str, was: Node, now: Node, missing: frozenset[Direction], needs: bool) -> Iterator[Found]:
    if missing & BACKWARD:
        fix = f"keep its default; or {UPCAST} that fills it in"
        yield Found(path, "required now, was optional", BACKWARD, fix)
    elif missing & FORWARD:
        fix = f"keep it required, since older readers need it; or {_READERS_FIRST}"
        yield Found(path, f"optional now{_default(now)}, was required", FORWARD, fix)
    elif not needs:
        defaults = [part.get("default", ...) if isinstance(part, dict) else ... for part in (was, now)]
        if defaults[0] is not defaults[1] and not same(*defaults):
            shown = ["none shown" if default is ... else shown_value(default) for default in defaults]
            hint = "old data that lacks the field reads differently now"
            yield Found(path, f"default changed from {shown[0]} to {shown[1]}", NEITHER, hint=hint)


def _removed(name: str, what: str, needed: bool, missing: frozenset[Direction], hint: str) -> Found:
    told = f"{'required' if needed else 'optional'} field removed: {what}"
    if not missing & FORWARD:
        return Found(f".{name}", told, NEITHER, hint=hint)
    fix = hint or f"keep writing it, since older readers need it; or {_READERS_FIRST}"
    return Found(f".{name}", told, FORWARD, fix)


def _added(name: str, what: str, needs: bool, missing: frozenset[Direction], hint: str) -> Found:
    told = f"{'required' if needs else 'optional'} field added: {what}"
    if not missing & BACKWARD:
        return Found(f".{name}", told, NEITHER, hint=hint)
    fix = hint or f"give it a default, or make it `| None = None`; or {UPCAST} that fills it in"
    return Found(f".{name}", told, BACKWARD, fix)


def _guessed(way: str, other: str | None, stored: str | None) -> str:
    return f"renamed {way} {other}? {_rename(stored)}" if other is not None and stored is not None else ""


def _rename(before: str) -> str:
    return f'Field(alias="{before}") keeps the name that is stored; or {UPCAST} that moves the value'


def _default(part: Node) -> str:
    return f" (default {shown_value(part['default'])})" if isinstance(part, dict) and "default" in part else ""


def _renamed(old: Flat, new: Flat, olds: Document, news: Document) -> dict[str, str]:
    """The field that seems to have got another name: the one removed and the one added, of the same shape."""
    sides = [
        [name for name in one.get("properties", {}) if name not in other.get("properties", {})]
        for one, other in ((old, new), (new, old))
    ]
    if [len(side) for side in sides] != [1, 1]:
        return {}
    before, after = sides[0][0], sides[1][0]
    alike = (before in old.get("required", ())) == (after in new.get("required", ()))
    shapes = [olds.alternatives(old["properties"][before]), news.alternatives(new["properties"][after])]
    return {before: after} if alike and same(*shapes) else {}


def _unnamed(flat: Flat) -> Iterator[Node]:
    """The schemas that an object's further names may have to conform to; none for those of a model that are ignored."""
    yield from flat.get("patternProperties", {}).values()
    further = flat.get("additionalProperties", True)
    if further is False or (further in (True, {}) and "properties" in flat):
        return
    yield further


def _further(old: Flat, new: Flat) -> Iterator[Part]:
    was, now = (flat.get("additionalProperties", True) for flat in (old, new))
    if (was is False) != (now is False):
        # Closed models refuse further fields in documents of their own version only.
        closed = now is False
        what = "closed: it names all its fields now" if closed else "opened: it may hold fields that it does not name"
        yield Found("", what, NEITHER, hint="what the other version does not name is ignored")
    elif was is not False and not (was in (True, {}) and now in (True, {})):
        yield Step(".*", was, now)
    patterns = [flat.get("patternProperties", {}) for flat in (old, new)]
    for pattern in dict.fromkeys([*patterns[0], *patterns[1]]):
        path = f"./{pattern}/"
        if pattern in patterns[0] and pattern in patterns[1]:
            yield Step(path, patterns[0][pattern], patterns[1][pattern])
        elif pattern in patterns[1]:
            yield Found(path, "pattern of names added", BACKWARD)
            yield from (Step(path, part, patterns[1][pattern], FORWARD) for part in _unnamed(old))
        else:
            yield Found(path, "pattern of names removed", FORWARD)
            yield from (Step(path, patterns[0][pattern], part, BACKWARD) for part in _unnamed(new))


def _named(old: Flat, new: Flat, olds: Document, news: Document) -> Iterator[Part]:
    if "propertyNames" not in old and "propertyNames" not in new:
        return
    yield Step(".(names)", olds.names_of(old), news.names_of(new))
    # A model's own names are not looked up in the other's schema of names.
    backward = not ("properties" in old and "propertyNames" in new)
    forward = not ("properties" in new and "propertyNames" in old)
    if not (backward and forward) and not same(old.get("propertyNames"), new.get("propertyNames")):
        yield Found(".(names)", "the names that it may hold are limited otherwise", broken_by(backward, forward))


def _sizes(old: Flat, new: Flat) -> Iterator[Found]:
    low = [max(flat.get("minProperties", 0), len(flat.get("required", ()))) for flat in (old, new)]
    most = [flat.get("maxProperties") for flat in (old, new)]
    wants = [flat.get("minProperties", 0) for flat in (old, new)]
    if wants[0] != wants[1]:
        what = f"minProperties changed from {wants[0]} to {wants[1]}"
        yield Found("", what, broken_by(low[0] >= wants[1], low[1] >= wants[0]))
    if most[0] != most[1]:
        what = f"maxProperties changed from {most[0] or 'none'} to {most[1] or 'none'}"
        backward = most[1] is None or (most[0] is not None and most[0] <= most[1])
        forward = most[0] is None or (most[1] is not None and most[1] <= most[0])
        yield Found("", what, broken_by(backward, forward))
