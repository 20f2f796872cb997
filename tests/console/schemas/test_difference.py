"""Changes as they are written, on a terminal and elsewhere."""

from __future__ import annotations

import pytest

from sojourn.bus.schemas.change import BACKWARD, BOTH, FORWARD, NEITHER, UPCAST, Change
from sojourn.bus.schemas.compatibility import Level
from sojourn.console.schemas import difference
from sojourn.console.schemas.difference import addressed, change_lines, wrapped
from sojourn.console.schemas.judging import Judged, Problem
from sojourn.console.schemas.report import tell_judged
from sojourn.console.terminal import Span

CHANGES = [
    Change("cart.items[].price", "required field added: number", BACKWARD, f"give it a default; or {UPCAST}"),
    Change("", "the schemas differ", BOTH, "leave it"),
    Change("note", "optional field added", NEITHER, ""),
    Change("gone", "required field removed", FORWARD, ""),
]


def text(lines: object) -> list[str]:
    assert hasattr(lines, "__iter__")
    return ["".join(span.text for span in line) for line in lines]


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(difference, "is_terminal", lambda stream: True)
    monkeypatch.setattr("sojourn.console.terminal.columns", lambda: 60)


def test_each_change_says_whom_it_breaks_and_the_way_out() -> None:
    assert text(change_lines(CHANGES)) == [
        "  breaks BACKWARD   cart.items[].price: required field added: number",
        f"                    fix: give it a default; or {UPCAST}",
        "  breaks both ways  (the event itself): the schemas differ",
        "                    fix: leave it",
        "  compatible        note: optional field added",
        "  breaks FORWARD    gone: required field removed",
    ]


def test_breaking_and_compatible_have_colours_of_their_own() -> None:
    styles = [line[1] for line in change_lines(CHANGES) if len(line) == 4]
    assert styles == [
        Span("breaks BACKWARD", "31"), Span("breaks both ways", "31"), Span("compatible", "32"),
        Span("breaks FORWARD", "31"),
    ]  # fmt: skip


@pytest.mark.usefixtures("narrow")
def test_on_a_terminal_lines_are_wrapped_below_themselves() -> None:
    lines = text(change_lines(CHANGES))
    assert all(len(line) <= 60 for line in lines)
    assert lines[:2] == [
        "  breaks BACKWARD   cart.items[].price: required field",
        "                    added: number",
    ]
    assert " ".join(" ".join(lines).split()).count(UPCAST) == 1


def test_what_others_wrote_cannot_play_with_the_terminal() -> None:
    assert wrapped("odd\x1b[2J\nname", 0) == [r"odd\x1b[2J\nname"]
    assert wrapped("", 0) == [""]


def test_ways_out_name_what_is_to_be_written() -> None:
    assert "{" not in addressed(CHANGES, "CartAbandoned", 3)[0].fix
    assert addressed(CHANGES, "CartAbandoned", 3)[0].fix == (
        "give it a default; or raise version= and write @upcast(CartAbandoned, from_version=3)"
    )
    assert addressed(CHANGES, "CartAbandoned", 3)[1:] == CHANGES[1:]


def test_a_report_tells_every_problem_and_no_changes_twice(capsys: pytest.CaptureFixture[str]) -> None:
    problems = [
        Problem("owner", "it belongs to 'a'"),
        Problem("refused", "first line\n  second line"),
        Problem("compatibility", "it cannot read version 1", 1, "backward", (CHANGES[3],)),
    ]
    tell_judged(
        [
            Judged("A", 1, "m:A", Level.FULL, "unchanged", 1, [], []),
            Judged("LongName", 12, "m:LongName", Level.FULL, "broken", 1, CHANGES, problems),
            Judged("B", 2, "m:B", Level.FULL, "changed", 1, CHANGES[2:3], []),
            Judged("C", 2, "m:C", Level.FULL, "changed", 1, [], []),
            Judged("D", 1, "m:D", Level.FULL, "new", None, [], []),
        ]
    )
    assert capsys.readouterr().out.splitlines() == [
        "A 1          unchanged",
        "LongName 12  broken (m:LongName)",
        "  - it belongs to 'a'",
        "  - first line",
        "    second line",
        "  - it cannot read version 1",
        "    breaks FORWARD  gone: required field removed",
        "B 2          changed since version 1, FULL holds",
        "  compatible  note: optional field added",
        "C 2          changed since version 1, FULL holds: the contract is the same",
        "D 1          new (m:D)",
    ]
