"""Changes between schemas as people read them: whom each breaks, where, what, and below it the way out."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterable, Iterator

from sojourn.bus.schemas.change import Change
from sojourn.console import terminal
from sojourn.console.terminal import Span, is_terminal, plain

_COMPATIBLE = "32"
_BROKEN = "31"
_DIM = "2"
_UNNAMED = "@upcast(…, from_version=N)"


def addressed(changes: Iterable[Change], type: str, version: int) -> list[Change]:
    """The changes since ``version``, their ways out with the names that are to be written."""
    named = f"@upcast({type}, from_version={version})"
    return [change._replace(fix=change.fix.replace(_UNNAMED, named)) for change in changes]


def change_lines(changes: Iterable[Change], *, indent: int = 2) -> Iterator[list[Span]]:
    """The changes, each a line or more; only on a terminal is anything wrapped."""
    rows = [(_verdict(change), change) for change in changes]
    column = max((len(verdict) for verdict, _ in rows), default=0)
    margin = indent + column + 2
    for verdict, change in rows:
        first, *rest = wrapped(f"{change.path or '(the event itself)'}: {change.what}", margin)
        style = _BROKEN if change.breaks else _COMPATIBLE
        yield [Span(" " * indent), Span(verdict, style), Span(" " * (column - len(verdict) + 2)), Span(first)]
        for line in rest:
            yield [Span(" " * margin + line)]
        if change.fix:
            for line in wrapped(f"{'fix' if change.breaks else 'note'}: {change.fix}", margin):
                yield [Span(" " * margin + line, _DIM)]


def wrapped(text: str, margin: int) -> list[str]:
    """The text in lines that leave room for a ``margin``, escaped; at least one."""
    text = plain(text)
    if not is_terminal(sys.stdout):
        return [text]
    width = max(24, terminal.columns() - margin)
    return textwrap.wrap(text, width, break_long_words=True, break_on_hyphens=False) or [""]


def _verdict(change: Change) -> str:
    match sorted(change.breaks):
        case []:
            return "compatible"
        case [direction]:
            return f"breaks {direction.upper()}"
        case _:
            return "breaks both ways"
