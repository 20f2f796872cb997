"""Standard output: whole lines, versioned JSON, tables."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from io import StringIO
from typing import TYPE_CHECKING, Any

from sojourn.console.failures import OutputClosed
from sojourn.console.terminal import Span, columns, is_terminal, paint, plain, wants_colour

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


def write_table(head: Sequence[str], rows: Sequence[Sequence[str]], *, right: frozenset[int] = frozenset()) -> None:
    """Writes rows under a head, in columns. On a terminal, what does not fit is cut; elsewhere nothing is.

    ``right``: columns of numbers.
    """
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for index, name in enumerate(head):
        table.add_column(name, no_wrap=True, overflow="ellipsis", justify="right" if index in right else "left")
    for row in rows:
        table.add_row(*(Text(plain(cell), "bold" if index == 0 else "") for index, cell in enumerate(row)))
    _render(table)


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
    width = columns() if is_terminal(sys.stdout) else 10_000
    colour = wants_colour(sys.stdout)
    console = Console(
        file=text, width=width, force_terminal=colour, color_system="standard" if colour else None, legacy_windows=False
    )
    console.print(table)
    write("".join(line.rstrip() + "\n" for line in text.getvalue().splitlines()))
