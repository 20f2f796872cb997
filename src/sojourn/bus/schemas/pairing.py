"""Pairs the members of two unions, so that what changed within one is told as that."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from sojourn.bus.schemas.keywords import TEXT_OF
from sojourn.bus.schemas.shapes import Document, Flat, same

Pair = tuple[int | None, int | None]


def paired(olds: list[Flat], news: list[Flat], old: Document, new: Document) -> list[Pair]:
    """Places of members that belong together; None for one that is there on one side only.

    What is written alike, then by name, by tag (the constants of a model), by type, then the only two that are left.
    """
    partner: dict[int, int] = {}

    def match(alike: Callable[[Flat, Flat], bool]) -> None:
        for first, one in enumerate(olds):
            for second, other in enumerate(news):
                if first not in partner and second not in partner.values() and alike(one, other):
                    partner[first] = second

    match(same)
    match(lambda one, other: bool(old.label(one)) and old.label(one) == new.label(other) and _kind(one) == _kind(other))
    match(lambda one, other: _kind(one) == _kind(other) == "object" and bool(_tags(one)) and _tags(one) == _tags(other))
    match(lambda one, other: _exact(one) == _exact(other) and _kind(one) != "object")
    match(lambda one, other: _kind(one) == _kind(other) != "object")
    match(lambda one, other: _kind(one) == _kind(other) and not old.label(one) and not new.label(other))
    single = [list(_open(flats, taken)) for flats, taken in ((olds, set(partner)), (news, set(partner.values())))]
    if [len(side) for side in single] == [1, 1]:
        one, other = olds[single[0][0]], news[single[1][0]]
        if not (_tags(one) and _tags(other)):
            partner[single[0][0]] = single[1][0]
    taken = set(partner.values())
    pairs: list[Pair] = [(first, partner.get(first)) for first in range(len(olds))]
    return pairs + [(None, second) for second in range(len(news)) if second not in taken]


def _open(flats: list[Flat], taken: set[int]) -> Iterator[int]:
    return (place for place, flat in enumerate(flats) if place not in taken and flat.get("type") != "null")


def _exact(flat: Flat) -> tuple[object, ...]:
    return (flat.get("type"), flat.get("format"), "enum" in flat, "prefixItems" in flat, TEXT_OF in flat)


def _kind(flat: Flat) -> str:
    if "enum" in flat:
        return "string" if all(isinstance(value, str) for value in flat["enum"]) else "number"
    return {"integer": "number"}.get(flat["type"], str(flat["type"]))


def _tags(flat: Flat) -> list[str]:
    """The fields of a model that can only have one value, with it."""
    return sorted(
        f"{name}={part['const']!r}"
        for name, part in flat.get("properties", {}).items()
        if isinstance(part, dict) and "const" in part
    )
