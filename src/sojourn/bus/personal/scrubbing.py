"""Finds personal values in texts for people, and puts ``•••`` in their place."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from pydantic_core import from_json

HIDDEN = "•••"

MAX_WORK = 100_000_000
"""How much is searched, in characters times values: about half a second."""

_PIECE = 24
_LONG = 8
"""Characters of a text that is part of no other by chance."""
_ESCAPE = re.compile(
    r"(?P<code>(?:\\+(?:u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}))+)|(?P<byte>(?:\\+x[0-9a-fA-F]{2})+)"
    r"|(?P<url>(?:%(?:25)*[0-9a-fA-F]{2})+)|(?P<blank>\\+[nrtfvab]|[+\a\b]|[^\S ])|\\+"
)
_BLANK = re.compile(r"[+\s\a\b]")
# Looked for first: most texts have nothing to resolve, and this is many times as fast.
_SPECIAL = re.compile(r"[\\%+\a\b]|[^\S ]")
_WORD = re.compile(r"(?<!\w)\w{1,2}(?!\w)")
_NUMBER = re.compile(r"(?<![\d.])\d+(?:\.\d+)?(?:e[+-]?\d+)?")
_DATE = re.compile(r"(\d{4})-(\d\d)-(\d\d)(?:[tT](\d\d:\d\d(?::\d\d)?)|$)")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class _Sought(NamedTuple):
    """What is looked for: anywhere in any case, as a whole word of one or two characters (in lower case), as a whole
    number."""

    parts: set[str]
    words: set[str]
    numbers: set[str]


class _Piece(NamedTuple):
    """A part of a text that was made plain. One that was ``escaped`` counts as a whole."""

    at: int
    start: int
    end: int
    escaped: bool


def scrub(text: str, values: Iterable[bytes], *, alone: bool = False) -> str:
    """The text with ``•••`` in place of each of the values, which are JSON.

    Strings and the leaves of structures are found anywhere in the text, in any case, as they are or escaped for JSON,
    as a Python literal or for a URL (once or several times over); long ones also where only a part of them is quoted.
    Dates are found as Python writes them, too. Numbers, and strings of one or two letters, are found only where they
    stand alone. Keys of dictionaries count as values unless they could be names of fields. A text that would take more
    than half a second to search is withheld as a whole.

    ``alone``: only texts are looked for, and short ones only where they stand alone, since the values of many hold a
    number or a name that is part of any other line.
    """
    sought = _Sought(set(), set(), set())
    for value in values:
        for leaf in _leaves(value):
            _seek(leaf, sought)
    if alone:
        sought.words.clear()
        sought.numbers.clear()
    if not any(sought):
        return text
    if len(text) * (len(sought.parts) + 10) > MAX_WORK:
        return HIDDEN
    lower = _lower(text)
    spans = [
        span
        for span in _find(lower, {_lower(part) for part in sought.parts}, sought)
        if not alone or _alone(lower, span)
    ]
    plain, pieces = _plain(text)
    if pieces:
        parts = {_plain(part)[0] for part in sought.parts} - {""}
        spans += [_place(span, pieces) for span in _find(plain, parts, sought) if not alone or _alone(plain, span)]
    return _hide(text, spans)


def forms(text: str) -> tuple[str, ...]:
    """What `texts` are looked for in: the text in lower case, and with its escapes resolved."""
    plain, pieces = _plain(text)
    return (_lower(text), plain) if pieces else (_lower(text),)


def texts(values: Iterable[bytes]) -> frozenset[str]:
    """What of the values is looked for as text, in the `forms` of another. Where none of it is found, `scrub` with
    ``alone`` finds nothing."""
    sought = _Sought(set(), set(), set())
    for value in values:
        for leaf in _leaves(value):
            _seek(leaf, sought)
    return frozenset(form for part in sought.parts for form in (_lower(part), _plain(part)[0]) if form)


def _leaves(value: bytes) -> Iterator[object]:
    try:
        pending: list[Any] = [from_json(value)]
    except ValueError:
        return  # Nothing that this library sealed.
    while pending:
        match pending.pop():
            case dict() as structure:
                pending += [key for key in structure if not _NAME.fullmatch(key)]
                pending += structure.values()
            case list() as items:
                pending += items
            case leaf:
                yield leaf


def _seek(leaf: object, sought: _Sought) -> None:
    match leaf:
        case bool() | None:
            pass
        case int() | float():
            sought.numbers.update({str(abs(leaf)), f"{abs(leaf):g}"})
        case str():
            text = leaf.strip()
            if text.isascii() and not any(character.isalnum() for character in text):
                pass  # Dashes and dots say nothing of anybody, and are everywhere.
            # In bytes, since two characters of some scripts are a whole name, and no blanks stand around words there.
            elif len(text.encode(errors="replace")) <= 2:
                sought.words.add(_lower(text))
            else:
                sought.parts.update(_cut(text))
                if not text.isascii():
                    # In capitals ß is SS, and a few others become several as well.
                    sought.parts.update(_cut(text.upper()))
                    sought.parts.update(_cut(text.casefold()))
                if date := _DATE.match(text):
                    year, month, day, time = date.groups()
                    sought.parts.update({f"{year}-{month}-{day}", f"{year}, {int(month)}, {int(day)}"})
                    if time:
                        sought.parts.update({f"{year}-{month}-{day} {time}"})


def _cut(text: str) -> Iterator[str]:
    """A short text as it is, a long one in pieces that cover it, so that parts of it are found as well."""
    if len(text) <= 2 * _PIECE:
        yield text
        return
    for start in (*range(0, len(text) - _PIECE, _PIECE), len(text) - _PIECE):
        piece = text[start : start + _PIECE]
        if not piece.isascii() or any(character.isalnum() for character in piece):
            yield piece


def _lower(text: str) -> str:
    """In lower case, each character in its place."""
    lower = text.lower()
    if len(lower) != len(text):
        lower = "".join(small if len(small := character.lower()) == 1 else character for character in text)
    return lower


def _plain(text: str) -> tuple[str, list[_Piece]]:
    """The text in lower case with its escapes resolved and its blanks all alike, and where each part of it came from;
    no parts where nothing was escaped."""
    pieces: list[_Piece] = []
    if not _SPECIAL.search(text):
        return _lower(text), pieces
    parts: list[str] = []
    at = done = 0
    for found in _ESCAPE.finditer(text):
        start, end = found.span()
        if start > done:
            parts.append(_lower(text[done:start]))
            pieces.append(_Piece(at, done, start, escaped=False))
            at += start - done
        resolved = _lower(_BLANK.sub(" ", _resolve(found)).replace("\\", ""))
        parts.append(resolved)
        pieces.append(_Piece(at, start, end, escaped=True))
        at += len(resolved)
        done = end
    if done < len(text):
        parts.append(_lower(text[done:]))
        pieces.append(_Piece(at, done, len(text), escaped=False))
    return "".join(parts), pieces


def _resolve(found: re.Match[str]) -> str:
    digits = found[0]
    match found.lastgroup:
        case "blank":
            return " "
        case "code":
            codes = [int(code, 16) for code in re.findall(r"[uU]([0-9a-fA-F]+)", digits)]
            text = "".join(chr(code) for code in codes if code < 0x110000)
            return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        case "byte":
            raw = bytes(int(code, 16) for code in re.findall(r"x(..)", digits))
        case "url":
            raw = bytes(int(code, 16) for code in re.findall(r"(..)(?=%|$)", digits))
        case _:
            return ""  # Backslashes before what needs none here.
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def _find(text: str, parts: set[str], sought: _Sought) -> Iterator[tuple[int, int]]:
    for part in parts:
        at = text.find(part)
        while at >= 0:
            yield at, at + len(part)
            at = text.find(part, at + len(part))
    for pattern, wanted in ((_WORD, sought.words), (_NUMBER, sought.numbers)):
        if wanted:
            yield from (found.span() for found in pattern.finditer(text) if found[0] in wanted)


def _alone(text: str, span: tuple[int, int]) -> bool:
    start, end = span
    return end - start >= _LONG or not (text[start - 1 : start].isalnum() or text[end : end + 1].isalnum())


def _place(span: tuple[int, int], pieces: list[_Piece]) -> tuple[int, int]:
    """Where a part of the plain text stands in the text that it was made from."""
    first = pieces[bisect_right(pieces, span[0], key=lambda piece: piece.at) - 1]
    last = pieces[bisect_right(pieces, span[1] - 1, key=lambda piece: piece.at) - 1]
    start = first.start if first.escaped else first.start + span[0] - first.at
    return start, last.end if last.escaped else last.start + span[1] - last.at


def _hide(text: str, spans: list[tuple[int, int]]) -> str:
    parts: list[str] = []
    done = 0
    for start, end in sorted(spans):
        if parts and start <= done:
            done = max(done, end)
            continue
        parts += [text[done:start], HIDDEN]
        done = end
    return "".join([*parts, text[done:]])
