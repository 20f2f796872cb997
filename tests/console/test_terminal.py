from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sojourn.console.terminal import Span, is_terminal, paint, plain, wants_colour


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@given(st.text())
def test_nothing_that_a_terminal_obeys_is_left(text: str) -> None:
    assert plain(text).isprintable()


@given(st.text().filter(str.isprintable))
def test_what_prints_stays_as_it_is(text: str) -> None:
    assert plain(text) == text


@pytest.mark.parametrize(
    ("hostile", "shown"),
    [
        ("\x1b[2J", r"\x1b[2J"),
        ("a\r\nb", r"a\r\nb"),
        ("\u202egnp", r"\u202egnp"),
        ("\x9b31m", r"\x9b31m"),
        ("\u2028", r"\u2028"),
        ("Zoë 日本 🛒", "Zoë 日本 🛒"),
    ],
)
def test_control_characters_are_escaped(hostile: str, shown: str) -> None:
    assert plain(hostile) == shown


def test_paint_leaves_no_trace_of_styles_without_colour() -> None:
    spans = [Span("a", "1"), Span(" "), Span("", "31")]
    assert paint(spans, colour=False) == "a "
    assert paint(spans, colour=True) == "\x1b[1ma\x1b[0m "


def test_colours_are_for_terminals_unless_the_user_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert wants_colour(Terminal())
    assert not wants_colour(io.StringIO())
    monkeypatch.setenv("TERM", "dumb")
    assert not wants_colour(Terminal())
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert wants_colour(io.StringIO())
    monkeypatch.setenv("NO_COLOR", "1")
    assert not wants_colour(Terminal())


def test_no_stream_and_a_closed_one_are_no_terminals() -> None:
    closed = io.StringIO()
    closed.close()
    assert not is_terminal(None)
    assert not is_terminal(closed)
