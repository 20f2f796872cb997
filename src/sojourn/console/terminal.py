"""What may be shown on a terminal: text without control characters, colours where they are wanted."""

from __future__ import annotations

import os
import shutil
from typing import NamedTuple, TextIO


class Span(NamedTuple):
    """A piece of a line and its style: SGR codes such as ``1;36``, or nothing."""

    text: str
    style: str = ""


def plain(text: str) -> str:
    r"""The text with every character that does not print escaped, as Python would (``\x1b``, ``\u202e``).

    Keys and fields come from outside: without this, a customer's name could move the cursor, turn the direction of
    writing, or fake a line.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def paint(spans: list[Span], *, colour: bool) -> str:
    """The spans as one piece of text, with their styles where ``colour`` is true."""
    if not colour:
        return "".join(span.text for span in spans)
    return "".join(f"\x1b[{style}m{text}\x1b[0m" if style and text else text for text, style in spans)


def wants_colour(stream: TextIO | None) -> bool:
    """Whether a stream takes colours: a terminal does, unless NO_COLOR is set; FORCE_COLOR overrules what it is."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return is_terminal(stream) and os.environ.get("TERM") != "dumb"


def is_terminal(stream: TextIO | None) -> bool:
    """Whether somebody sits at the other end."""
    try:
        return stream is not None and stream.isatty()
    except ValueError:  # closed
        return False


def columns() -> int:
    """The terminal's width in cells, at least 40."""
    return max(40, shutil.get_terminal_size((80, 24)).columns)
