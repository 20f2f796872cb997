"""Text in a fixed number of terminal cells. Expects text that prints (`sojourn.console.terminal.plain`)."""

from __future__ import annotations

from rich.cells import cell_len


def fit(text: str, width: int, *, middle: bool = False) -> str:
    """The text in exactly ``width`` cells: padded, or cut with an ellipsis at its end (or in its ``middle``)."""
    return pad(cut(text, width, middle=middle), width)


def pad(text: str, width: int) -> str:
    """The text with spaces up to ``width`` cells; one that is wider stays as it is."""
    return text + " " * (width - cell_len(text))


def cut(text: str, width: int, *, middle: bool = False) -> str:
    """The text in at most ``width`` cells."""
    # Characters that take no cell are bounded too: a thousand accents on one letter are no name.
    if len(text) <= 2 * width and cell_len(text) <= width:
        return text
    if width <= 1:
        return "…"[:width]
    if not middle:
        return _head(text, width - 1) + "…"
    tail = _head(text[::-1], (width - 1) // 2)[::-1]
    return _head(text, width - 1 - cell_len(tail)) + "…" + tail


def _head(text: str, width: int) -> str:
    # Cut from the end, since joined characters can take less room than their parts.
    text = text[: 2 * width]
    while cell_len(text) > width:
        text = text[:-1]
    return text
