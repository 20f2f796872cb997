"""Compares what two alternatives say in Sojourn's own keywords, and tells it in words."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import date, datetime, time
from decimal import Decimal, InvalidOperation
from typing import Any

from sojourn.bus.schemas import keywords as own
from sojourn.bus.schemas.change import BACKWARD, BOTH, FORWARD, NEITHER, Direction
from sojourn.bus.schemas.parts import Found, broken_by, quoted
from sojourn.bus.schemas.shapes import Flat, same

_NOUNS = {own.DIGITS: "digits", own.PLACES: "decimal places"}
# What is said where a mark comes, and where it goes; it narrows what is read.
_MARKS = {
    own.STRIP: (
        "spaces around it do not count for its length and pattern now",
        "spaces around it count for its length and pattern now",
    ),
    own.ASCII: ("only ASCII characters are allowed now", "any characters are allowed now, were ASCII only"),
    own.HOST: ("a host is required now", "no host is required any more"),
    own.CHOSEN: (
        "a function chooses among the members now, and may refuse what it does not know",
        "no function chooses among the members any more",
    ),
}
_ZONES = {"required": "only with a time zone", "none": "only without a time zone"}


def own_facets(old: Flat, new: Flat) -> Iterator[Found]:
    """The differences of two alternatives of one type; `KEY` and `PERSONAL` are looked at elsewhere."""
    yield from _digits(old, new)
    yield from _bounds(old, new)
    yield from _zones(old, new)
    yield from _now(old, new)
    for word, (come, gone) in _MARKS.items():
        was, now = bool(old.get(word)), bool(new.get(word))
        if was != now:
            yield Found("", come if now else gone, BACKWARD if now else FORWARD)
    if bool(old.get(own.NAN)) != bool(new.get(own.NAN)):
        comes = bool(new.get(own.NAN))
        what = f"NaN and infinity are {'allowed now' if comes else 'no longer allowed'}"
        yield Found("", what, FORWARD if comes else BACKWARD)
    if bool(old.get(own.STRICT)) != bool(new.get(own.STRICT)) and {old["type"], new["type"]} == {"integer"}:
        comes = bool(new.get(own.STRICT))
        what = "strict now: 1.0 is no integer" if comes else "not strict any more: 1.0 is an integer"
        yield Found("", what, BACKWARD if comes else FORWARD)
    if not same(old.get(own.FLAGS), new.get(own.FLAGS)) and same(old.get("pattern"), new.get("pattern")):
        yield Found("", "the pattern has other flags now", BOTH)
    yield from _sets(old, new)


def _digits(old: Flat, new: Flat) -> Iterator[Found]:
    told: frozenset[Direction] = NEITHER
    for word, noun in _NOUNS.items():
        was, now = old.get(word), new.get(word)
        if was != now:
            breaks = broken_by(now is None or _most(old, word) <= now, was is None or _most(new, word) <= was)
            told |= breaks
            yield Found("", _moved(_at_most(was, noun), _at_most(now, noun)), breaks)
    was, now = _whole(old), _whole(new)
    if was != now and {own.DIGITS, own.PLACES} <= new.keys() | old.keys():
        known = [_most_whole(flat) for flat in (old, new)]
        breaks = broken_by(now is None or known[0] <= now, was is None or known[1] <= was)
        noun = "digits before the point"
        if breaks - told:  # else it only follows from the others
            yield Found("", _moved(_at_most(was, noun), _at_most(now, noun)), breaks)


def _most(flat: Flat, word: str) -> float:
    """How many a number may have: the places are never more than the digits, and an integer has none."""
    if word == own.PLACES and flat.get("type") == "integer":
        return 0
    return min((flat[said] for said in {word, own.DIGITS} if said in flat), default=math.inf)


def _whole(flat: Flat) -> int | None:
    """How many digits before the point a number may have, where digits and places together limit them."""
    if own.DIGITS in flat and own.PLACES in flat:
        return max(int(flat[own.DIGITS]) - int(flat[own.PLACES]), 0)
    return None


def _most_whole(flat: Flat) -> float:
    whole = _whole(flat)
    return flat.get(own.DIGITS, math.inf) if whole is None else whole


def _at_most(number: object, noun: str) -> str | None:
    return None if number is None else f"at most {number} {noun[:-1] if number == 1 and noun[-1] == 's' else noun}"


def _moved(was: str | None, now: str | None) -> str:
    if now is None:
        return f"no longer {was}"
    if was is None:
        return f"{now} now"
    shown = was.split(" ")[2] if was.startswith("at most ") and now.startswith("at most ") else was
    return f"{now}, was {shown}"


def _bounds(old: Flat, new: Flat) -> Iterator[Found]:
    for inclusive, exclusive, upper in ((own.LOWEST, own.ABOVE, False), (own.HIGHEST, own.BELOW, True)):
        was, now = _Bound.of(old, inclusive, exclusive, upper=upper), _Bound.of(new, inclusive, exclusive, upper=upper)
        if was.texts != now.texts:
            yield Found("", _moved(was.told(), now.told()), broken_by(was.within(now), now.within(was)))


class _Bound:
    """The lower or the upper bounds of a time or duration: ``texts`` are the inclusive and the exclusive one."""

    def __init__(self, texts: tuple[Any, Any], *, upper: bool) -> None:
        self.texts = texts
        self._upper = upper

    @classmethod
    def of(cls, flat: Flat, inclusive: str, exclusive: str, *, upper: bool) -> _Bound:
        return cls((flat.get(inclusive), flat.get(exclusive)), upper=upper)

    def within(self, other: _Bound) -> bool:
        """Whether what keeps to this one is known to keep to the other."""
        return all(
            text is None or any(self._implies(mine, bool(place), text, bool(strict)) for place, mine in self._said())
            for strict, text in enumerate(other.texts)
        )

    def _said(self) -> list[tuple[int, Any]]:
        return [(place, text) for place, text in enumerate(self.texts) if text is not None]

    def _implies(self, mine: object, mine_strict: bool, other: object, other_strict: bool) -> bool:
        if mine == other:
            return mine_strict or not other_strict
        kinds, (value, limit) = zip(_moment(mine), _moment(other), strict=True)
        if kinds[0] != kinds[1] or kinds[0] == "":
            return False
        return bool(value < limit if self._upper else value > limit) or (
            bool(value == limit) and (mine_strict or not other_strict)
        )

    def told(self) -> str | None:
        """In words; None where there is none."""
        return " and ".join(self._told(text, strict=bool(place)) for place, text in self._said()) or None

    def _told(self, text: object, *, strict: bool) -> str:
        shown = str(text)
        if _moment(text)[0] == "duration":
            words = ("less than", "at most") if self._upper else ("more than", "at least")
            return f"{words[0 if strict else 1]} {shown[2:-1]} seconds"
        words = ("before", "not after") if self._upper else ("after", "not before")
        return f"{words[0 if strict else 1]} {shown}"


def _moment(text: object) -> tuple[str, Any]:
    """What can be compared of a bound: its kind, and a value among others of this kind. The empty kind for anything
    that is no bound."""
    if not isinstance(text, str):
        return "", None
    if text.startswith("PT") and text.endswith("S"):
        try:
            return "duration", Decimal(text[2:-1])
        except InvalidOperation:
            return "", None
    for kind in (date, datetime, time):
        try:
            value = kind.fromisoformat(text)
        except ValueError:
            continue
        # With a zone and without are not comparable.
        return f"{kind.__name__} {getattr(value, 'tzinfo', None) is not None}", value
    return "", None


def _zones(old: Flat, new: Flat) -> Iterator[Found]:
    was, now = old.get(own.ZONE), new.get(own.ZONE)
    if not same(was, now):
        yield Found("", _moved(_zone(was), _zone(now)), broken_by(_zoned(was, now), _zoned(now, was)))


def _zoned(writer: object, reader: object) -> bool:
    return reader is None or (reader == "required" and isinstance(writer, int))


def _zone(zone: object) -> str | None:
    return None if zone is None else _ZONES.get(str(zone), f"only {zone} seconds from UTC")


def _now(old: Flat, new: Flat) -> Iterator[Found]:
    was, now = old.get(own.NOW), new.get(own.NOW)
    if was != now:
        told = [None if side is None else f"only in the {side}" for side in (was, now)]
        yield Found("", _moved(*told), broken_by(now is None, was is None))


def _sets(old: Flat, new: Flat) -> Iterator[Found]:
    was, now = old.get(own.SCHEMES), new.get(own.SCHEMES)
    if was != now:
        shown = ["any scheme" if side is None else f"the schemes {quoted(side)}" for side in (was, now)]
        backward = now is None or (was is not None and set(was) <= set(now))
        forward = was is None or (now is not None and set(now) <= set(was))
        yield Found("", f"{shown[1]}, was {shown[0]}", broken_by(backward, forward))
    bits, flags = old.get(own.BITS), new.get(own.BITS)
    if bits != flags:
        backward = flags is None or (bits is not None and bits & ~flags == 0)
        forward = bits is None or (flags is not None and flags & ~bits == 0)
        shown = ["any integer" if side is None else f"flags {_flags(side)}" for side in (bits, flags)]
        yield Found("", f"{shown[1]}, was {shown[0]}", broken_by(backward, forward))


def _flags(bits: int) -> str:
    return quoted([1 << place for place in range(bits.bit_length()) if bits >> place & 1])
