"""Standard output: whole lines, versioned JSON, tables."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from io import StringIO
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from sojourn.console import terminal
from sojourn.console.failures import OutputClosed
from sojourn.console.terminal import Span, is_terminal, paint, plain, wants_colour

if TYPE_CHECKING:
    from rich.table import Table


def write(text: str) -> None:
    """Writes text, in one piece and at once. Raises `OutputClosed` where nobody reads it any more."""
    stream = sys.stdout
    if stream is None:
        raise OutputClosed
    try:
        stream.write(text)
        stream.flush()
    except UnicodeEncodeError:
        # A terminal of another time, or LANG=C: what it cannot show is escaped.
        encoding = stream.encoding or "ascii"
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        stream.flush()
    except BrokenPipeError as error:
        raise OutputClosed from error


def write_spans(spans: list[Span]) -> None:
    """Writes one line, painted where standard output takes colours."""
    write(paint(spans, colour=wants_colour(sys.stdout)) + "\n")


def document(schema: str, facts: Mapping[str, Any], *, indent: int | None = None) -> str:
    """A JSON document that says which version of which schema it follows: ``sojourn.agents/1``.

    ASCII, so that nothing in it can play with a terminal.
    """
    return json.dumps({"schema": f"sojourn.{schema}", **facts}, indent=indent) + "\n"


def write_json(schema: str, facts: Mapping[str, Any]) -> None:
    """Writes one document for people and programs alike: indented on a terminal."""
    write(document(schema, facts, indent=2 if is_terminal(sys.stdout) else None))


def write_json_lines(schema: str, items: Iterable[Mapping[str, Any]]) -> None:
    """Writes one document a line."""
    write("".join(document(schema, item) for item in items))


_GAP = 2
_WITHOUT_END = 100_000


class Column(NamedTuple):
    """A column of a table: what happens to it where the terminal is too narrow. ``right`` is for numbers."""

    name: str
    narrow: Literal["stays", "is cut", "wraps"] = "stays"
    right: bool = False


def write_table(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    """Writes rows under the names of their columns. Only on a terminal is anything cut or wrapped."""
    from rich.table import Table
    from rich.text import Text

    texts = [[plain(cell) for cell in row] for row in rows]
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="dim")
    for column, width in zip(columns, _widths(columns, texts), strict=True):
        table.add_column(
            column.name,
            width=width,
            no_wrap=column.narrow != "wraps",
            overflow="fold" if column.narrow == "wraps" else "ellipsis",
            justify="right" if column.right else "left",
        )
    for row in texts:
        table.add_row(*(Text(cell, "bold" if index == 0 else "") for index, cell in enumerate(row)))
    _render(table)


def _widths(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> list[int]:
    """Widths in cells: what the content takes, and on a terminal what its width allows.

    Columns that wrap give way first, then those that are cut, of each kind the widest.
    """
    from rich.cells import cell_len

    widths = [
        max(cell_len(row[i]) for row in [[column.name for column in columns], *rows]) for i in range(len(columns))
    ]
    excess = sum(widths) + _GAP * (len(widths) - 1) - _width()
    for narrow, least in (("wraps", 24), ("is cut", 12), ("wraps", 16), ("is cut", 8), ("wraps", 8)):
        giving = [i for i, column in enumerate(columns) if column.narrow == narrow]
        while excess > 0 and giving and max(widths[i] for i in giving) > least:
            widths[max(giving, key=widths.__getitem__)] -= 1
            excess -= 1
    return widths


def write_facts(facts: Iterable[tuple[str, str]]) -> None:
    """Writes names and their values below each other."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts:
        table.add_row(name, Text(plain(value)))
    _render(table)


def _render(table: Table) -> None:
    from rich.console import Console

    text = StringIO()
    colour = wants_colour(sys.stdout)
    console = Console(
        file=text,
        width=_width(),
        force_terminal=colour,
        color_system="standard" if colour else None,
        legacy_windows=False,
    )
    console.print(table)
    write("".join(line.rstrip() + "\n" for line in text.getvalue().splitlines()))


def _width() -> int:
    return terminal.columns() if is_terminal(sys.stdout) else _WITHOUT_END
