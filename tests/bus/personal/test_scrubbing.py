"""Scrubbing: personal values are found however they were written, nothing else is touched, and it takes no longer than
it should."""

from __future__ import annotations

import json
from time import perf_counter
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from sojourn.bus.personal.scrubbing import HIDDEN, scrub


def hide(text: str, *values: Any) -> str:
    return scrub(text, [json.dumps(value).encode() for value in values])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("to ada@example.org!", "ada@example.org"),
        ("to ADA@Example.ORG!", "ada@example.org"),
        ("to ada@example.org!", "ADA@EXAMPLE.ORG"),
        ("to ada%40example.org!", "ada@example.org"),
        ("to ada%2540example.org!", "ada@example.org"),
        ("to ada\\u0040example.org!", "ada@example.org"),
        ("to ada\\\\u0040example.org!", "ada@example.org"),
        ("to J\\u00f6rg!", "Jörg"),
        ("to J\\xf6rg!", "Jörg"),
        ("to J\\xc3\\xb6rg!", "Jörg"),
        ("to J%C3%B6rg!", "Jörg"),
        ("to JÖRG!", "jörg"),
        ("to \\ud83d\\ude00x!", "😀x"),
        ("to \\U0001f600x!", "😀x"),
        ("to 李明!", "李明"),
        ("to Graben\\n1!", "Graben\n1"),
        ("to Graben\\\\n1!", "Graben\n1"),
        ("to Graben+1!", "Graben 1"),
        ("to Graben%201!", "Graben 1"),
        ('to \\"O\\\'Hara\\"!', '"O\'Hara"'),
        ("to C:\\\\users\\\\ada!", "C:\\users\\ada"),
        ("to C:\\users\\ada!", "C:\\users\\ada"),
        ("to DOMAIN\\natalie!", "DOMAIN\\natalie"),
        ("to 100%25!", "100%"),
        ("to a/b!", "a/b"),
        ("to a\\/b!", "a/b"),
        ("to 36!", 36),
        ("to 36.5!", 36.5),
        ("to 12345678901234567890!", 12345678901234567890),
        ("to 5!", -5),
        ("to 7!", 7.0),
        ("to 19.90!", "19.90"),
        ("to al!", "al"),
        ("to 1990-05-01!", "1990-05-01"),
        ("to 1990-05-01 10:20:30!", "1990-05-01T10:20:30Z"),
        ("to 1990, 5, 1!", "1990-05-01"),
    ],
)
def test_found_however_it_was_written(text: str, value: Any) -> None:
    shown = hide(text, value)
    assert shown.startswith("to ")
    assert shown.rstrip("\"'\\!").lstrip("to \\\"'") == HIDDEN, shown


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("also alright", "al"),
        ("xal_1", "al"),
        ("1364 and 36.5", 36),
        ("a, b – c", ""),
        ("a, b – c", "  "),
        ("a --- b", "---"),
        ("True or null", True),
        ("True or null", None),
        ("street: no", {"street": None}),
        ("plain text \\n with %41 escapes", "something else"),
    ],
)
def test_left_alone(text: str, value: Any) -> None:
    assert hide(text, value) == text


def test_a_name_right_behind_a_backslash_is_found() -> None:
    assert hide("DOMAIN\\natalie logged in", "natalie") == f"DOMAIN\\{HIDDEN} logged in"


def test_the_leaves_of_structures_are_hidden_but_not_the_names_of_fields() -> None:
    value = {"street": "Graben 1", "rooms": [{"number": 4711}], "ada@example.org": 815}
    assert (
        hide("street Graben 1, rooms 4711, 815 by ada@example.org", value)
        == f"street {HIDDEN}, rooms {HIDDEN}, {HIDDEN} by {HIDDEN}"
    )


def test_values_within_and_across_each_other_leave_no_rest() -> None:
    assert hide("Ada Lovelace of Ockham", "Ada Lovelace", "Lovelace of Ockham", "Love") == HIDDEN


def test_a_part_of_a_long_text_is_found() -> None:
    text = "Dear doctor, since last week I have had a pain in my left knee, which gets worse at night."
    shown = hide(f"too long: {text[:60]}…", text)
    assert shown.startswith(f"too long: {HIDDEN}")
    assert "pain" not in shown
    assert hide(f"<{text}>", text) == f"<{HIDDEN}>"


def test_a_structure_that_is_no_json_is_nothing_to_look_for() -> None:
    assert scrub("text", [b"{", b"text"]) == "text"


WORDS = st.text(st.characters(exclude_categories=["Cs"]), min_size=3, max_size=30)


@given(WORDS, st.text("abc \\%+\"'", max_size=10), st.sampled_from(range(8)))
def test_no_way_of_writing_hides_a_value(value: str, around: str, way: int) -> None:
    assume(not value.isascii() or sum(map(str.isalnum, value)) > 1)
    value = value.strip()
    assume(len(value.encode()) > 2)
    ways = [
        value,
        json.dumps(value)[1:-1],
        json.dumps(value, ensure_ascii=False)[1:-1],
        repr(value)[1:-1],
        repr(value.encode())[2:-1],
        quote(value, safe=""),
        quote_plus(value),
        json.dumps(repr(value))[1:-1],
    ]
    assert HIDDEN in hide(f"{around}|{ways[way]}|{around}", value)


def test_the_effort_is_bounded() -> None:
    hostile = [b'"' + b"a" * n + b'-"' for n in range(3, 500)]
    started = perf_counter()
    scrub("a" * 100_000, hostile)
    scrub("\\" * 100_000 + "%25" * 30_000, hostile)
    scrub("a " * 1_000_000, hostile)
    scrub("x" * 2_000, [json.dumps([str(n) * 3 for n in range(20_000)]).encode()])
    assert perf_counter() - started < 10


def test_what_would_take_too_long_is_withheld_as_a_whole() -> None:
    assert scrub("a " * 10_000_000, [b'"ada"']) == HIDDEN
