"""What a comparison of two schemas finds: changes, whom they break, and the way out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple

Direction = Literal["backward", "forward"]
"""``backward``: the new schema reads old data. ``forward``: the old schema reads new data."""

BACKWARD: frozenset[Direction] = frozenset({"backward"})
FORWARD: frozenset[Direction] = frozenset({"forward"})
BOTH: frozenset[Direction] = BACKWARD | FORWARD
NEITHER: frozenset[Direction] = frozenset()

UPCAST = "raise version= and write @upcast(…, from_version=N)"
"""The way out of whatever rules cannot cover; `check` puts in the class and the version."""


class Change(NamedTuple):
    """One difference between two schemas.

    ``path`` leads to it from the event: ``cart.items[].price``, ``prices.*`` for a mapping's values, ``pair[0]`` in a
    tuple, ``pet(Cat).lives`` in one member of a union, ``""`` for the event itself. ``what`` says it in words.
    ``breaks`` is empty for a compatible change. ``fix`` is the way out, or a hint where nothing breaks.
    """

    path: str
    what: str
    breaks: frozenset[Direction]
    fix: str


def render(changes: Iterable[Change], *, indent: str = "") -> str:
    """The changes as aligned lines, one each, in their order: the path, what changed, what it breaks and the fix.

    The event itself is written as ``(event)``. The empty text where nothing changed.
    """
    rows = [(change.path or "(event)", change.what, broken(change), _advice(change)) for change in changes]
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(3)]
    lines = []
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        lines.append((indent + "  ".join([*cells, row[3]])).rstrip())
    return "\n".join(lines)


def _advice(change: Change) -> str:
    if not change.fix:
        return ""
    return f"{'fix' if change.breaks else 'note'}: {change.fix}"


def broken(change: Change) -> str:
    """Whom a change breaks, in words: ``breaks BACKWARD and FORWARD``, or ``compatible``."""
    names = [direction.upper() for direction in ("backward", "forward") if direction in change.breaks]
    return f"breaks {' and '.join(names)}" if names else "compatible"
