"""``sojourn keys`` in this process, on a bus in memory."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sojourn.bus.personal.master import MasterKeys
from tests.console.conftest import Console

Module = Callable[[str], str]

EVENTS = """
    class OrderPlaced(Event):
        customer_id: Key
        email: Personal[str] | None = None
"""


@pytest.fixture
def events(console: Console, module: Module) -> str:
    assert console("keys", "new", "old.key").status == 0
    return module(EVENTS)


def order(console: Console, events: str, customer: str, *more: str) -> None:
    data = json.dumps({"customer_id": customer, "email": f"{customer}@x.org"})
    ended = console("publish", "OrderPlaced", data, "--module", events, *more)
    assert ended.status == 0, ended.err


def wraps(console: Console, file: str) -> dict[str, Any]:
    document = json.loads(console("keys", "status", "--master-key", file, "-o", "json").out)
    return {one["id"]: (one["at_hand"], one["wraps"]) for one in document["master_keys"]}


def test_a_new_key_is_for_its_owner_alone(console: Console, folder: Path) -> None:
    ended = console("keys", "new", "a.key")
    assert (ended.status, ended.out) == (0, "a.key: master-1\n")
    assert "keep a copy in a safe place" in ended.err
    assert stat.S_IMODE((folder / "a.key").stat().st_mode) == 0o600
    assert MasterKeys.from_file(folder / "a.key").ids == ("master-1",)
    assert console.connected == []
    before = (folder / "a.key").read_text()
    again = console("keys", "new", "a.key")
    assert (again.status, again.err.count("\n")) == (1, 1)
    assert (folder / "a.key").read_text() == before


def test_a_key_for_a_rotation_stands_above_those_that_are_kept(console: Console, folder: Path) -> None:
    console("keys", "new", "a.key", "--id", "spring")
    document = json.loads(console("keys", "new", "b.key", "--keep", "a.key", "-o", "json").out)
    assert document == {"schema": "sojourn.new-master-key/1", "file": "b.key", "ids": ["master-1", "spring"]}
    assert console("keys", "new", "c.key", "--keep", "b.key").out == "c.key: master-2, master-1, spring\n"
    kept, first = MasterKeys.from_file(folder / "b.key"), MasterKeys.from_file(folder / "a.key")
    assert kept.check_value("spring", "x") == first.check_value("spring", "x")
    taken = console("keys", "new", "d.key", "--keep", "a.key", "--id", "spring")
    assert (taken.status, (folder / "d.key").exists()) == (1, False)
    assert console("keys", "new", "e.key", "--id", "Not One").status == 1
    assert console("keys", "new", "f.key", "--keep", "gone.key").status == 2


def test_the_status_counts_what_each_key_wraps(console: Console, events: str) -> None:
    console.make()
    assert wraps(console, "old.key") == {"master-1": (True, 0)}
    for customer in ("c1", "c2", "c2"):
        order(console, events, customer, "--master-key", "old.key")
    assert wraps(console, "old.key") == {"master-1": (True, 2)}
    ended = console("keys", "status", "--master-key", "old.key")
    assert [line.split() for line in ended.out.splitlines()] == [
        ["master", "key", "at", "hand", "wraps"], ["master-1", "yes", "2", "wraps", "new", "keys"],
    ]  # fmt: skip


def test_a_missing_master_key_is_told_with_what_it_wraps(console: Console, events: str) -> None:
    order(console, events, "c1", "--master-key", "old.key")
    console("keys", "new", "other.key", "--id", "other")
    ended = console("keys", "status", "--master-key", "other.key", "-o", "jsonl")
    assert ended.status == 1
    assert "wrapped by master-1, which is not among the master keys given (other)" in ended.err
    assert ended.err.splitlines()[-1].startswith(
        "sojourn: where no copy of it is left, `sojourn keys forget MASTER_ID`"
    )
    lines = [json.loads(line) for line in ended.out.splitlines()]
    assert [(one["id"], one["at_hand"], one["first"], one["wraps"]) for one in lines] == [
        ("other", True, True, 0), ("master-1", False, False, 1),
    ]  # fmt: skip
    console("keys", "new", "twin.key")  # another key of the same name
    assert console("keys", "status", "--master-key", "twin.key").status == 1


def test_a_rotation_wraps_anew_and_tells_what_is_idle(console: Console, events: str) -> None:
    for number in range(3):
        order(console, events, f"c{number}", "--master-key", "old.key")
    console("keys", "new", "new.key", "--keep", "old.key")
    refused = console("keys", "rotate", "--master-key", "new.key")
    assert (refused.status, refused.out) == (2, "")
    assert "sojourn keys status" in refused.err
    ended = console("keys", "rotate", "--master-key", "new.key", "--yes")
    assert (ended.status, ended.out) == (0, "3 keys wrapped anew, with master-2\n")
    assert ended.err == "sojourn: master-1 wraps nothing any more and may leave the file\n"
    assert wraps(console, "new.key") == {"master-2": (True, 3), "master-1": (True, 0)}
    document = json.loads(console("keys", "rotate", "--master-key", "new.key", "--yes", "-o", "json").out)
    assert (document["schema"], document["rotated"]) == ("sojourn.key-rotation/1", 0)
    assert console("keys", "status", "--master-key", "old.key").status == 1


def test_on_a_terminal_a_rotation_asks(console: Console, events: str, monkeypatch: pytest.MonkeyPatch) -> None:
    order(console, events, "c1", "--master-key", "old.key")
    console("keys", "new", "new.key", "--keep", "old.key")
    asked: list[str] = []

    def confirm(question: str, *, err: bool) -> bool:
        asked.append(question)
        return False

    monkeypatch.setattr("sojourn.console.confirming.is_terminal", lambda stream: True)
    monkeypatch.setattr("click.confirm", confirm)
    ended = console("keys", "rotate", "--master-key", "new.key")
    assert asked == ["Wrap 1 key anew, with master-2?"]
    assert (ended.status, ended.err) == (1, "sojourn: no key was wrapped anew\n")
    assert wraps(console, "new.key") == {"master-2": (True, 0), "master-1": (True, 1)}


def test_without_any_master_key_and_any_customer(console: Console) -> None:
    console.make()
    ended = console("keys", "status", "--server", "nats://there:4222")
    assert (ended.status, ended.out) == (0, "")
    assert "there is no master key, and no customer has a key" in ended.err


def test_the_content_of_a_master_key_may_be_given_and_is_never_shown(
    console: Console, events: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (folder / "old.key").read_text().splitlines()[-1]
    monkeypatch.setenv("SOJOURN_MASTER_KEY", text)
    order(console, events, "c1")
    asked = console.connected[-1]["master_keys"]
    assert asked.ids == ("master-1",)
    console.failure = RuntimeError(f"refused {text} and {text.split()[1]}")
    for more in ((), ("--debug",)):
        ended = console("keys", "status", *more)
        assert ended.status == 1
        assert text.split()[1] not in ended.err
        assert "***" in ended.err


def test_two_master_keys_are_one_too_many(console: Console, events: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOJOURN_MASTER_KEY", "master-1 x")
    ended = console("agents", "ls", "--master-key", "old.key")
    assert ended.status == 2
    assert "SOJOURN_MASTER_KEY is set too" in ended.err
    monkeypatch.setenv("SOJOURN_MASTER_KEY_FILE", "old.key")
    assert console("agents", "ls").status == 2


@pytest.mark.parametrize(("mode", "status", "said"), [(0o600, 0, ""), (0o644, 1, "is open to others (mode 0644)")])
def test_a_file_from_the_environment(
    console: Console, events: str, folder: Path, monkeypatch: pytest.MonkeyPatch, mode: int, status: int, said: str
) -> None:
    (folder / "old.key").chmod(mode)
    monkeypatch.setenv("SOJOURN_MASTER_KEY_FILE", "old.key")
    console.make()
    ended = console("agents", "ls", "-o", "json")
    assert ended.status == status
    assert said in ended.err
    if not status:
        assert console.connected[-1]["master_keys"].ids == ("master-1",)


@pytest.mark.parametrize(("text", "said"), [("nonsense", "line 1"), ("a b c", "line 1"), ("master-1 AAAA", "3 bytes")])
def test_a_text_that_is_no_master_key(console: Console, monkeypatch: pytest.MonkeyPatch, text: str, said: str) -> None:
    monkeypatch.setenv("SOJOURN_MASTER_KEY", text)
    ended = console("agents", "ls")
    assert (ended.status, ended.err.count("\n")) == (1, 1)
    assert "SOJOURN_MASTER_KEY" in ended.err
    assert said in ended.err


def lost(console: Console, events: str) -> None:
    """c1 and c2 have keys that nobody can open any more."""
    for customer in ("c1", "c2"):
        order(console, events, customer, "--master-key", "old.key")
    assert console("keys", "new", "other.key", "--id", "other").status == 0


def test_a_lost_master_key_is_given_up(console: Console, events: str) -> None:
    lost(console, events)
    dry = console("keys", "forget", "master-1", "--dry-run", "--master-key", "other.key")
    assert (dry.status, dry.err) == (0, "sojourn: nothing was erased: --yes does it\n")
    assert "2 data keys that only it opens; what they sealed reads None" in dry.out
    assert wraps(console, "other.key") == {"other": (True, 0), "master-1": (False, 2)}
    ended = console("keys", "forget", "master-1", "--yes", "--master-key", "other.key")
    assert (ended.status, ended.err) == (0, "")
    facts = dict(line.split("  ", 1) for line in ended.out.splitlines())
    assert facts["erased"].strip() == "2 data keys that only it opens; what they sealed reads None"
    status = console("keys", "status", "--master-key", "other.key")
    assert (status.status, status.err) == (0, "")
    assert wraps(console, "other.key") == {"other": (True, 0)}
    erased = json.loads(console("journeys", "erase", "c1", "--dry-run", "-o", "json").out)
    assert (erased["had_key"], erased["erased_before"]) == (False, True)
    order(console, events, "c1", "--master-key", "other.key")
    again = console("keys", "forget", "master-1", "--yes", "--master-key", "other.key")
    assert (again.status, again.out) == (3, "")
    assert "known: other" in again.err


@pytest.mark.parametrize(("form", "more"), [("json", "--dry-run"), ("json", "--yes"), ("jsonl", "--yes")])
def test_what_was_given_up_for_programs(console: Console, events: str, form: str, more: str) -> None:
    lost(console, events)
    ended = console("keys", "forget", "master-1", more, "--master-key", "other.key", "-o", form)
    assert (ended.status, ended.err) == (0, "")
    assert json.loads(ended.out) == {
        "schema": "sojourn.forgotten-key/1", "namespace": "sojourn", "master_key": "master-1",
        "dry_run": more == "--dry-run", "data_keys": 2,
    }  # fmt: skip


def test_a_master_key_at_hand_is_not_given_up(console: Console, events: str) -> None:
    lost(console, events)
    ended = console("keys", "forget", "master-1", "--yes", "--master-key", "old.key")
    assert (ended.status, ended.out, ended.err.count("\n")) == (1, "", 1)
    assert "master-1 is at hand, so nothing that it wraps is lost" in ended.err
    assert wraps(console, "old.key") == {"master-1": (True, 2)}
    refused = console("keys", "forget", "master-1", "--master-key", "other.key")
    assert refused.status == 2
    assert "sojourn keys forget master-1 --dry-run" in " ".join(refused.err.split())


@pytest.mark.parametrize(("answer", "status", "left"), [(True, 0, 0), (False, 1, 2)])
def test_on_a_terminal_giving_up_asks(
    console: Console, events: str, monkeypatch: pytest.MonkeyPatch, answer: bool, status: int, left: int
) -> None:
    lost(console, events)
    asked: list[str] = []

    def confirm(question: str, *, err: bool) -> bool:
        asked.append(question)
        return answer

    monkeypatch.setattr("sojourn.console.confirming.is_terminal", lambda stream: True)
    monkeypatch.setattr("click.confirm", confirm)
    ended = console("keys", "forget", "master-1", "--master-key", "other.key")
    assert asked == ["Give up master-1 for good, in namespace sojourn, with no copy of it anywhere?"]
    assert ended.status == status
    assert "to erase: 2 data keys" in ended.err
    assert wraps(console, "other.key").get("master-1", (False, 0)) == (False, left)
