"""``sojourn schemas`` in this process, on a bus in memory."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sojourn.bus.errors import UnavailableError
from sojourn.bus.schemas.compatibility import Level
from sojourn.bus.schemas.lint import Finding
from sojourn.console.commands.schemas import CODES, LEVELS
from sojourn.console.schemas.known import LOCK_FILE
from tests.console.conftest import Console

Module = Callable[[str], str]

FIRST = """
    class CartAbandoned(Event, owner="shop"):
        '''A customer left with items in the cart.

        At the latest after an hour.'''

        customer_id: Key
        value: Decimal
        email: Personal[str] | None = None
"""
GROWN = FIRST.replace('owner="shop"', 'owner="shop", version=2') + "        note: str | None = None\n"
BROKEN = FIRST.replace('owner="shop"', 'owner="shop", version=2') + "        note: str\n"
EDITED = FIRST.replace("value: Decimal", "value: int")


def documents(out: str) -> list[Any]:
    return [json.loads(line) for line in out.splitlines()]


def test_the_words_of_the_command_line_are_those_of_the_registry() -> None:
    assert tuple(Level) == LEVELS
    assert Finding.__doc__ is not None
    named = re.findall("``([a-z-]+)``", Finding.__doc__.partition(";")[0])
    assert named == ["code", *CODES]


# push, ls, show


def test_events_are_pushed_listed_and_shown(console: Console, module: Module) -> None:
    events = module(FIRST)
    assert console("schemas", "push", events) == (0, "CartAbandoned 1  registered, BACKWARD, owner shop\n", "")
    assert console("schemas", "push", events) == (0, "CartAbandoned 1  was registered already\n", "")
    header, line = console("schemas", "ls").out.splitlines()
    assert header.split() == ["event", "versions", "level", "owner", "first", "seen", "description"]
    assert line.split()[:4] == ["CartAbandoned", "1", "BACKWARD", "shop"]
    assert line.endswith("  A customer left with items in the cart.")
    shown = console("schemas", "show", "CartAbandoned").out
    for fact in ("key       customer_id", "personal  email", "owner     shop", "At the latest after an hour."):
        assert fact in shown
    assert f"{events}:CartAbandoned" in shown
    assert json.loads(shown.partition("version 1:")[2])["required"] == ["customer_id", "value"]


def test_what_is_registered_as_json(console: Console, module: Module) -> None:
    console("schemas", "push", module(FIRST))
    console("schemas", "push", module(GROWN))
    document = json.loads(console("schemas", "ls", "-o", "json").out)
    assert (document["schema"], document["namespace"]) == ("sojourn.schemas/1", "sojourn")
    (line,) = documents(console("schemas", "ls", "-o", "jsonl").out)
    assert line == {"schema": "sojourn.schema/1", **document["schemas"][0]}
    assert set(line) == {"schema", "type", "key_field", "owner", "compatibility", "description", "versions"}
    assert [version["version"] for version in line["versions"]] == [1, 2]
    assert set(line["versions"][0]) == {"version", "schema", "hash", "registered", "reference", "upcasts"}
    assert json.loads(console("schemas", "show", "CartAbandoned", "-o", "json").out) == line
    one = json.loads(console("schemas", "show", "CartAbandoned", "--version", "1", "-o", "json").out)
    assert one["versions"] == line["versions"][:1]


def test_nothing_registered_is_no_failure(console: Console) -> None:
    console.make()
    ended = console("schemas", "ls")
    assert (ended.status, ended.out) == (0, "")
    assert "`sojourn schemas push MODULE` does it" in ended.err
    assert json.loads(console("schemas", "ls", "-o", "json").out)["schemas"] == []


def test_a_push_that_is_refused_registers_nothing(console: Console, module: Module) -> None:
    console("schemas", "push", module(FIRST))
    both = module(EDITED + "    class OrderPlaced(Event):\n        customer_id: Key\n")
    ended = console("schemas", "push", both)
    assert (ended.status, ended.out) == (1, "")
    lines = ended.err.splitlines()
    assert "CartAbandoned version 1 is registered with another schema" in lines[0]
    assert any("value" in line and "breaks BACKWARD" in line for line in lines)
    assert lines[-1] == "sojourn: nothing was registered"
    assert [record["type"] for record in documents(console("schemas", "ls", "-o", "jsonl").out)] == ["CartAbandoned"]


def test_a_push_takes_over_level_description_and_with_a_word_the_owner(console: Console, module: Module) -> None:
    console("schemas", "push", module(FIRST))
    moved = module(FIRST.replace('owner="shop"', 'owner="fraud", compatibility="FULL"').replace("hour", "day"))
    assert console("schemas", "push", moved).status == 1
    (pushed,) = documents(console("schemas", "push", moved, "--take-over", "-o", "jsonl").out)
    assert (pushed["schema"], pushed["type"], pushed["version"]) == ("sojourn.pushed-schema/1", "CartAbandoned", 1)
    assert pushed["done"] == [
        f"now defined by {moved}:CartAbandoned", "level BACKWARD → FULL", "description", "owner shop → fraud",
    ]  # fmt: skip
    again = json.loads(console("schemas", "push", moved, "-o", "json").out)
    assert (again["schema"], again["events"][0]["done"]) == ("sojourn.schema-push/1", [])


def test_a_push_warns_of_what_the_class_cannot_read(console: Console, module: Module) -> None:
    console("schemas", "push", module(FIRST.replace("owner=", 'compatibility="NONE", owner=')))
    ended = console("schemas", "push", module(BROKEN))
    assert (ended.status, ended.out) == (0, "CartAbandoned 2  new version registered\n")
    assert "@upcast(CartAbandoned, from_version=1)" in ended.err


# diff


@pytest.fixture
def grown(console: Console, module: Module) -> Console:
    console("schemas", "push", module(FIRST))
    console("schemas", "push", module(GROWN))
    return console


@pytest.mark.parametrize("words", [("1", "2"), ("1",), ()])
def test_two_registered_versions_are_compared(grown: Console, words: tuple[str, ...]) -> None:
    ended = grown("schemas", "diff", "CartAbandoned", *words)
    head, line = ended.out.splitlines()
    assert (ended.status, head) == (0, "CartAbandoned, from version 1 to version 2")
    assert line.startswith("  compatible  note: optional field added")


def test_the_other_way_round_is_another_difference(grown: Console) -> None:
    document = json.loads(grown("schemas", "diff", "CartAbandoned", "2", "1", "-o", "json").out)
    assert (document["schema"], document["old"]["version"], document["new"]["version"]) == (
        "sojourn.schema-diff/1", 2, 1,
    )  # fmt: skip
    assert "removed" in document["changes"][0]["what"]


def test_code_is_compared_with_what_is_registered(grown: Console, module: Module) -> None:
    broken = module(BROKEN)
    ways = [("diff", broken, "CartAbandoned", "1"), ("diff", "CartAbandoned", "1", "--module", broken)]
    outs = [grown("schemas", *way).out for way in ways]
    assert outs[0] == outs[1]
    assert outs[0].splitlines()[0] == f"CartAbandoned, from version 1 to {broken}:CartAbandoned, version 2"
    assert "breaks BACKWARD  note: required field added" in outs[0]
    assert "@upcast(CartAbandoned, from_version=1)" in outs[0]
    (change,) = documents(grown("schemas", *ways[0], "-o", "jsonl").out)
    assert (change["schema"], change["path"], change["breaks"]) == ("sojourn.schema-change/1", "note", ["backward"])
    assert change["new"] == {
        "version": 2, "reference": f"{broken}:CartAbandoned", "hash": change["new"]["hash"], "registered": False,
    }  # fmt: skip


def test_no_difference_is_said(grown: Console) -> None:
    ended = grown("schemas", "diff", "CartAbandoned", "2", "2")
    assert ended == (0, "", "sojourn: CartAbandoned: nothing changed from version 2 to version 2\n")


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (("CartAbandoned", "1", "9"), 3), (("CartAbandond",), 3), (("CartAbandoned", "1", "2", "3"), 2),
        (("nowhere", "CartAbandoned"), 3), (("1", "CartAbandoned"), 2), (("1",), 2), (("a", "b", "c"), 2),
    ],
)  # fmt: skip
def test_what_cannot_be_compared(grown: Console, words: tuple[str, ...], status: int) -> None:
    ended = grown("schemas", "diff", *words)
    assert (ended.status, ended.out) == (status, "")
    assert "Traceback" not in ended.err
    if words == ("CartAbandond",):
        assert "did you mean CartAbandoned?" in ended.err


# check


def test_a_module_that_breaks_nothing(console: Console, module: Module) -> None:
    first = module(FIRST)
    console("schemas", "push", first)
    new = module(GROWN + "\n    class OrderPlaced(Event):\n        customer_id: Key\n")
    ended = console("schemas", "check", new)
    lines = ended.out.splitlines()
    assert ended.status == 0
    assert lines[0] == "CartAbandoned 2  changed since version 1, BACKWARD holds"
    assert lines[1].startswith("  compatible  note: optional field added")
    assert lines[2] == f"OrderPlaced 1    new ({new}:OrderPlaced)"
    assert "checked 2 event types against the server of .sojourn, namespace sojourn: nothing breaks" in ended.err
    assert console("schemas", "check", first).out == "CartAbandoned 1  unchanged\n"


def test_a_module_that_breaks_something(console: Console, module: Module) -> None:
    console("schemas", "push", module(FIRST))
    ended = console("schemas", "check", module(BROKEN))
    assert ended.status == 1
    assert "  - it cannot read version 1, against its level BACKWARD\n    breaks BACKWARD  note: required" in ended.out
    assert ended.err == (
        "sojourn: 1 of 1 event type would break what the server of .sojourn, namespace sojourn holds: CartAbandoned\n"
    )
    document = json.loads(console("schemas", "check", module(BROKEN), "-o", "json").out)
    assert (document["schema"], document["ok"]) == ("sojourn.schema-check/1", False)
    assert document["events"][0]["problems"][0]["kind"] == "compatibility"
    (line,) = documents(console("schemas", "check", module(EDITED), "-o", "jsonl").out)
    assert (line["schema"], line["problems"][0]["kind"]) == ("sojourn.checked-schema/1", "schema")


def test_a_level_may_be_tried(console: Console, module: Module) -> None:
    console("schemas", "push", module(FIRST))
    assert console("schemas", "check", module(GROWN), "--level", "FULL_TRANSITIVE").status == 0
    shrunk = module(GROWN.replace("        value: Decimal\n", ""))
    assert console("schemas", "check", shrunk).status == 0
    assert console("schemas", "check", shrunk, "--level", "FORWARD").status == 1
    assert console("schemas", "check", shrunk, "--level", "SIDEWAYS").status == 2


def test_code_that_is_meant_to_stay_behind(grown: Console, module: Module) -> None:
    first = module(FIRST)
    refused = grown("schemas", "check", first)
    assert refused.status == 1
    assert "version 2 is registered, so this class is out of date" in refused.out
    assert "--older" in refused.out
    assert grown("schemas", "check", first, "--older").out == "CartAbandoned 1  unchanged\n"


def test_a_lock_file_needs_no_server(console: Console, module: Module, folder: Path) -> None:
    console("schemas", "push", module(FIRST))
    console("schemas", "pull")
    console("schemas", "pull", "other.json")
    console.failure, asked = UnavailableError("there is none"), len(console.connected)
    assert console("schemas", "check", module(GROWN)).status == 0
    assert console("schemas", "check", module(BROKEN), "--against", LOCK_FILE).status == 1
    assert console("schemas", "check", module(BROKEN), "--against", "other.json").status == 1
    assert console("schemas", "lint", module(FIRST)).status == 0
    assert len(console.connected) == asked
    assert console("schemas", "check", module(GROWN), "--against", "server").status == 5


def test_events_that_agents_handle_are_checked_too(console: Console, module: Module) -> None:
    console("schemas", "push", module(EDITED.replace("'''A", "'''B")))
    events = module(FIRST)
    agents = module(f"""
    import {events}
    from sojourn import Agent, Context, agent, on

    @agent("a-{events[-8:]}")
    class Looking(Agent):
        @on({events}.CartAbandoned)
        async def look(self, event: {events}.CartAbandoned, ctx: Context) -> None: ...
    """)
    ended = console("schemas", "check", agents)
    assert ended.status == 1
    assert ended.out.startswith("CartAbandoned 1  broken")


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("check", "nowhere"), 3, "there is no module 'nowhere'"),
        (("check", "shop.py"), 3, "is a file, not an import path: write shop"),
        (("check", "EMPTY"), 3, "has no event types"),
        (("push", "EMPTY"), 3, "has no event types"),
        (("lint", "EMPTY"), 3, "has no event types"),
        (("check", "shop", "--against", "gone.json"), 3, "there is no lock file gone.json"),
        (("check", "shop", "--against", "torn.json"), 1, "the lock file torn.json is no JSON"),
        (("check", "shop", "--against", "newer.json"), 1, "has the format 'sojourn.schemas/9'"),
        (("check", "shop", "--against", "."), 1, "the lock file . cannot be read"),
        (("show", "Nothing"), 3, "`sojourn schemas ls` shows those there are"),
        (("show", "no-type"), 2, "is not the name of an event class"),
        (("pull", "gone/lock.json"), 1, "gone/lock.json cannot be written"),
    ],
)
def test_what_is_wrong_is_one_line(
    console: Console, module: Module, folder: Path, arguments: tuple[str, ...], status: int, said: str
) -> None:
    (folder / "torn.json").write_text('{"format": "soj')
    (folder / "newer.json").write_text('{"format": "sojourn.schemas/9"}')
    empty = module("")
    (folder / f"{empty}.py").write_text("nothing = None\n")
    console.make()
    ended = console("schemas", *(empty if word == "EMPTY" else word for word in arguments))
    assert (ended.status, ended.out) == (status, "")
    assert said in ended.err
    if status != 2:
        assert len([line for line in ended.err.splitlines() if "no event type is registered" not in line]) == 1


# pull, lint, export


def test_the_lock_file_follows_the_server(console: Console, module: Module, folder: Path) -> None:
    console("schemas", "push", module(FIRST))
    assert console("schemas", "pull", "--check").status == 1
    assert not (folder / LOCK_FILE).exists()
    assert console("schemas", "pull") == (0, "sojourn.schemas.json: written, 1 event type\n", "")
    assert console("schemas", "pull") == (0, "sojourn.schemas.json: is up to date, 1 event type\n", "")
    assert console("schemas", "pull", "--check").status == 0
    console("schemas", "push", module(GROWN))
    ended = console("schemas", "pull", "--check")
    assert (ended.status, ended.out) == (1, "")
    assert "is not what is registered (CartAbandoned): `sojourn schemas pull` brings it up to date" in ended.err
    before = (folder / LOCK_FILE).read_text()
    document = json.loads(console("schemas", "pull", "-o", "json").out)
    assert document == {
        "schema": "sojourn.schema-lock/1", "file": LOCK_FILE, "types": 1, "changed": True,
        "differing": ["CartAbandoned"],
    }  # fmt: skip
    assert (folder / LOCK_FILE).read_text() != before


def test_a_lock_file_that_somebody_edited_is_written_anew(console: Console, module: Module, folder: Path) -> None:
    console("schemas", "push", module(FIRST))
    console("schemas", "pull")
    good = (folder / LOCK_FILE).read_text()
    (folder / LOCK_FILE).write_text(good + "\n")
    assert console("schemas", "pull", "--check").status == 1
    (folder / LOCK_FILE).write_text("<<<<<<< HEAD\n" + good)
    ended = console("schemas", "pull", "--check")
    assert ended.status == 1
    assert "is no JSON" in ended.err
    assert console("schemas", "pull").status == 0
    assert (folder / LOCK_FILE).read_text() == good


def test_lint_finds_and_may_be_told_to_ignore(console: Console, module: Module) -> None:
    unwise = module("class CustomerRegistered(Event):\n    customer_id: Key\n    email: str\n")
    ended = console("schemas", "lint", unwise)
    assert ended.status == 1
    assert "CustomerRegistered: undescribed\n  class " in ended.out
    assert "CustomerRegistered.email: personal\n  " in ended.out
    assert ended.err == "sojourn: 2 findings in 1 event type; --ignore CODE leaves out one kind\n"
    (finding,) = documents(console("schemas", "lint", unwise, "--ignore", "undescribed", "-o", "jsonl").out)
    assert (finding["schema"], finding["code"], finding["path"]) == ("sojourn.schema-finding/1", "personal", "email")
    all_ignored = ("--ignore", "undescribed", "--ignore", "personal")
    assert console("schemas", "lint", unwise, *all_ignored).status == 0
    document = json.loads(console("schemas", "lint", unwise, "-o", "json").out)
    assert (document["schema"], document["modules"]) == ("sojourn.schema-lint/1", [unwise])


def test_lint_sees_several_modules_and_what_is_registered(console: Console, module: Module) -> None:
    mine, theirs = module(FIRST), module(FIRST.replace('"shop"', '"fraud"'))
    ended = console("schemas", "lint", mine, theirs)
    assert (ended.status, "CartAbandoned: owners" in ended.out) == (1, True)
    console("schemas", "push", module("class OrderPlaced(Event):\n    customer_id: Key\n"))
    assert console("schemas", "lint", mine).status == 0
    assert "OrderPlaced: undescribed" in console("schemas", "lint", mine, "--against", "server").out


def test_export(console: Console, module: Module, folder: Path) -> None:
    console("schemas", "push", module(FIRST))
    console("agents", "register", "shop")
    document = json.loads(console("schemas", "export", "--format", "asyncapi", "--title", "Shop", "--edition", "7").out)
    assert (document["asyncapi"], document["info"]["title"], document["info"]["version"]) == ("3.0.0", "Shop", "7")
    assert "win-back.receive.event.CartAbandoned" in document["operations"]
    bundle = json.loads(console("schemas", "export", "--format", "jsonschema").out)
    assert set(bundle["$defs"]) == {"CartAbandoned", "CartAbandoned.v1"}
    ended = console("schemas", "export", "--format", "jsonschema", "out/")
    assert ended == (0, "", "sojourn: out: 1 file\n")
    assert json.loads((folder / "out" / "CartAbandoned.v1.json").read_text())["$id"] == "urn:sojourn:CartAbandoned:1"
    assert console("schemas", "export", "--format", "asyncapi", "all.json").status == 0
    assert json.loads((folder / "all.json").read_text())["asyncapi"] == "3.0.0"
    for target in ("out", "gone/all.json"):
        ended = console("schemas", "export", "--format", "asyncapi", target)
        assert (ended.status, ended.err.count("\n")) == (1, 1)


# what others do with schemas


def test_a_frozen_publish_registers_nothing(console: Console, module: Module) -> None:
    events = module(FIRST)
    data = json.dumps({"customer_id": "c1", "value": 1})
    refused = console("publish", "CartAbandoned", data, "--module", events, "--frozen")
    assert (refused.status, refused.out) == (1, "")
    assert f"run `sojourn schemas push {events}`" in refused.err
    assert console("schemas", "ls").out == ""
    console("schemas", "push", events)
    assert console("publish", "CartAbandoned", data, "--module", events, "--frozen").status == 0


def test_a_publish_that_differs_shows_the_difference_in_lines(console: Console, module: Module) -> None:
    console("schemas", "push", module(FIRST))
    ended = console("publish", "CartAbandoned", '{"customer_id": "c1", "value": 1}', "--module", module(EDITED))
    assert ended.status == 1
    lines = ended.err.splitlines()
    assert len(lines) >= 3
    assert all(line.startswith("sojourn: ") for line in lines)
    assert lines[-1] == "sojourn: A version is never changed: undo it, or say version=2 in the class"


def test_a_level_may_be_written_small(console: Console, module: Module) -> None:
    console("schemas", "push", module(FIRST))
    ended = console("schemas", "check", module(GROWN), "--level", "full", "-o", "json")
    assert (ended.status, json.loads(ended.out)["events"][0]["level"]) == (0, "FULL")
    assert console("schemas", "check", module(GROWN), "--level", "half").status == 2


def test_a_file_of_brackets_is_no_lock_file(console: Console, module: Module, folder: Path) -> None:
    (folder / "deep.json").write_text("[" * 200_000)
    ended = console("schemas", "check", module(FIRST), "--against", "deep.json")
    assert (ended.status, ended.out, ended.err.count("\n")) == (1, "", 1)
    assert ended.err.startswith("sojourn: the lock file deep.json is no JSON")
    assert "--debug" not in ended.err
