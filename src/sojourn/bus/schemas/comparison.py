"""Compares two schemas, pair of nodes by pair of nodes.

Recursive models make the pairs a graph with cycles. A pair holds in a direction unless something in it breaks that
direction: the greatest fixed point. All pairs start as holding, and are looked at again until none falls any more; a
work list instead of recursion, so that no depth of nesting exhausts the stack.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from sojourn.bus.schemas.change import BACKWARD, BOTH, FORWARD, NEITHER, UPCAST, Change, Direction
from sojourn.bus.schemas.facets import alternative_facets
from sojourn.bus.schemas.keywords import KEY, PERSONAL
from sojourn.bus.schemas.older import comparable
from sojourn.bus.schemas.pairing import paired
from sojourn.bus.schemas.parts import Found, Key, Part, Step, broken_by, describe, described
from sojourn.bus.schemas.shapes import Document, Flat, Node, admits, is_any, values_of

_FIXES = {
    NEITHER: "",
    BACKWARD: f"allow what was allowed, or {UPCAST}",
    FORWARD: "widen in two steps: all readers take this version, and only then what is new is published",
    BOTH: f"leave it and add an optional field beside it; or {UPCAST}, and let all readers take it first",
}


def compare(old: Flat, new: Flat) -> list[Change]:
    """Every change between two schemas, in document order, each once."""
    moved = keys_moved(old, new)
    return [*moved, *Comparison(*comparable(old, new)).changes()]


def keys_moved(old: Flat, new: Flat) -> list[Change]:
    """The change of the key field, where it is another one."""
    was, now = _keys(Document(old)), _keys(Document(new))
    if was == now:
        return []
    names = [", ".join(keys) or "none" for keys in (was, now)]
    fix = "events are filed by their key: keep it, or give the event with the other key a name of its own"
    return [Change(", ".join(now), f"the key moved from {names[0]} to {names[1]}", BOTH, fix)]


def _keys(document: Document) -> list[str]:
    return [
        name
        for flat in document.alternatives(document.schema)
        for name, part in flat.get("properties", {}).items()
        if any(found.get(KEY) for found in document.alternatives(part))
    ]


class Comparison:
    """One comparison of two documents."""

    def __init__(self, old: Flat, new: Flat) -> None:
        self._olds = Document(old)
        self._news = Document(new)
        self._root = Step("", old, new)
        self._steps: dict[Key, Step] = {}
        self._ahead: deque[Step] = deque()
        self._facets: dict[Key, list[Part]] = {}
        self._fallen: set[tuple[Key, Direction]] = set()

    def changes(self) -> list[Change]:
        """The changes, after all pairs have been settled."""
        self._settle()
        found: list[Change] = []
        listed: set[tuple[Key, frozenset[Direction]]] = set()
        ahead: list[tuple[str, frozenset[Direction], Part]] = [("", BOTH, self._root)]
        while ahead:
            prefix, directions, part = ahead.pop()
            path = f"{prefix}{part.path}"
            if isinstance(part, Found):
                found.append(_change(path, part, part.breaks & directions))
                continue
            directions &= part.directions
            if (part.key, directions) not in listed:
                listed.add((part.key, directions))
                ahead += [(path, directions, inner) for inner in reversed(self._parts(part))]
        return list(dict.fromkeys(found))

    def _settle(self) -> None:
        self._meet(self._root)
        fallen = -1
        while fallen != len(self._fallen) or self._ahead:
            while self._ahead:
                self._look_at(self._ahead.popleft())
            fallen = len(self._fallen)
            # The innermost first, so that what falls there is known where it counts.
            for step in reversed(list(self._steps.values())):
                self._look_at(step)

    def _meet(self, step: Step) -> Step:
        if step.key not in self._steps:
            self._steps[step.key] = step
            self._ahead.append(step)
        return step

    def _look_at(self, step: Step) -> None:
        for part in self._parts(step):
            broken = part.breaks if isinstance(part, Found) else self._broken(part)
            self._fallen |= {(step.key, direction) for direction in broken}

    def _broken(self, step: Step) -> frozenset[Direction]:
        self._meet(step)
        return frozenset(direction for direction in step.directions if (step.key, direction) in self._fallen)

    def _parts(self, step: Step) -> list[Part]:
        if not step.flat:  # those of a union depend on what has fallen
            return list(self._node(step.old, step.new))
        if step.key not in self._facets:
            self._facets[step.key] = list(alternative_facets(step.old, step.new, self._olds, self._news))
        return self._facets[step.key]

    def _node(self, old: Node, new: Node) -> Iterator[Part]:
        olds, news = self._olds.alternatives(old), self._news.alternatives(new)
        if len(olds) == len(news) == 1:
            yield Step("", olds[0], news[0], flat=True)
            return
        unread = [not self._read(flat, news, "backward") for flat in olds]
        unreadable = [not self._read(flat, olds, "forward") for flat in news]
        if is_any(olds) != is_any(news):
            what = f"was {describe(old, self._olds)}, now {describe(new, self._news)}"
            yield Found("", what, broken_by(not any(unread), not any(unreadable)))
            return
        for first, second in paired(olds, news, self._olds, self._news):
            breaks = broken_by(first is None or not unread[first], second is None or not unreadable[second])
            if first is None and second is not None:
                yield _joined(described(news[second], self._news), breaks)
            elif second is None and first is not None:
                yield _left(described(olds[first], self._olds), breaks)
            elif first is not None and second is not None:
                label = self._news.label(news[second]) if _several(news) else ""
                yield Step(f"({label})" if label else "", olds[first], news[second], breaks, flat=True)

    def _read(self, writer: Flat, readers: list[Flat], direction: Direction) -> bool:
        if any(self._holds(writer, reader, direction) for reader in readers):
            return True
        values = None if writer.get(PERSONAL) else values_of(writer)
        return values is not None and all(any(admits(reader, value) for reader in readers) for value in values)

    def _holds(self, writer: Flat, reader: Flat, direction: Direction) -> bool:
        pair = (writer, reader) if direction == "backward" else (reader, writer)
        step = self._meet(Step("", *pair, flat=True))
        return (step.key, direction) not in self._fallen


def _several(flats: list[Flat]) -> bool:
    return len([flat for flat in flats if flat.get("type") == "object"]) > 1


def _joined(what: str, breaks: frozenset[Direction]) -> Found:
    return Found("", f"{what} is allowed now", breaks)


def _left(what: str, breaks: frozenset[Direction]) -> Found:
    return Found("", f"{what} is no longer allowed", breaks)


def _change(path: str, found: Found, breaks: frozenset[Direction]) -> Change:
    fix = (found.fix or _FIXES[breaks]) if breaks else ""
    return Change(path.removeprefix("."), found.what, breaks, "; ".join(text for text in (found.hint, fix) if text))
