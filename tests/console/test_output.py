from __future__ import annotations

import io
import json
import sys

import pytest

from sojourn.console.failures import OutputClosed
from sojourn.console.output import Column, document, write, write_facts, write_json, write_table
from sojourn.console.terminal import is_terminal


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def a_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Standard output from now on. No fixture: pytest changes it once more before the test is called."""
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "60")
    made = Terminal()
    monkeypatch.setattr(sys, "stdout", made)
    return made


COLUMNS = [Column("number"), Column("customer", "is cut"), Column("reason", "wraps"), Column("count", right=True)]
ROW = ("SOJOURN_0-1234567", "a-customer-with-a-long-name", "the handler did not like what it was given", "7")


def test_a_table_on_a_narrow_terminal_keeps_what_identifies(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = a_terminal(monkeypatch)
    write_table(COLUMNS, [ROW])
    lines = terminal.getvalue().splitlines()
    assert lines[0].split() == ["number", "customer", "reason", "count"]
    assert lines[1].split()[0] == "SOJOURN_0-1234567"
    assert "…" in lines[1]
    start, end = lines[0].index("reason"), lines[0].index("count")
    assert " ".join(line[start:end].strip() for line in lines[1:]).split() == ROW[2].split()
    assert all(len(line) <= 60 for line in lines)


def test_elsewhere_nothing_is_cut(capsys: pytest.CaptureFixture[str]) -> None:
    write_table(COLUMNS, [ROW, ("S-1", "x" * 300, "y" * 300, "123")])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert ROW[1] in lines[1]
    assert "x" * 300 in lines[2]


def test_hostile_cells_stay_in_their_place(capsys: pytest.CaptureFixture[str]) -> None:
    write_table(COLUMNS, [("S-1", "evil\x1b[2J\nname", "[bold]no markup[/bold]", "1")])
    out = capsys.readouterr().out
    assert r"evil\x1b[2J\nname" in out
    assert "[bold]no markup[/bold]" in out
    assert out.count("\n") == 2


def test_facts_fold_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = a_terminal(monkeypatch)
    write_facts([("name", "x"), ("reason", "y" * 100)])
    lines = terminal.getvalue().splitlines()
    assert lines[0] == "name    x"
    assert "".join(line[8:] for line in lines[1:]) == "y" * 100


def test_documents_say_what_they_are_in_ascii(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = a_terminal(monkeypatch)
    assert document("agents/1", {"name": "Zoë\x9b"}) == '{"schema": "sojourn.agents/1", "name": "Zo\\u00eb\\u009b"}\n'
    assert is_terminal(sys.stdout)
    write_json("agents/1", {"a": 1})
    assert terminal.getvalue() == '{\n  "schema": "sojourn.agents/1",\n  "a": 1\n}\n'
    assert json.loads(terminal.getvalue())["a"] == 1


def test_what_an_old_terminal_cannot_show_is_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    write("← Zoë\n")
    assert raw.getvalue() == b"\\u2190 Zo\\xeb\n"


def test_a_reader_that_has_left_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    for stream in (Gone(), None):
        monkeypatch.setattr(sys, "stdout", stream)
        with pytest.raises(OutputClosed):
            write("x")
