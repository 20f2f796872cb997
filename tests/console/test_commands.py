"""Commands in this process, on a bus in memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sojourn.bus.errors import PermissionDenied
from sojourn.bus.ports import Append
from sojourn.bus.subjects import Namespace
from tests.console.conftest import Console

NS = Namespace("sojourn", 4, 2)


def publish(console: Console, data: object, type: str = "CartAbandoned", *more: str) -> Any:
    return console("publish", type, data if isinstance(data, str) else json.dumps(data), "--module", "shop", *more)


async def store(console: Console, key: str, subject: str, document: bytes) -> None:
    at = NS.locate(key)
    await console.transport.commit(at.stream, [Append(subject, document)])


# agents


def test_agents_are_registered_listed_and_shown(console: Console) -> None:
    registered = console("agents", "register", "shop")
    assert (registered.status, registered.err) == (0, "")
    listed = console("agents", "ls")
    assert [line.split()[:3] for line in listed.out.splitlines()] == [
        ["agent", "version", "mode"],
        ["thanks", "1", "live"],
        ["win-back", "3", "live"],
    ]
    shown = console("agents", "show", "win-back").out
    for fact in ("version     3", "handles     CartAbandoned", "publishes   DiscountOffered", "journey     shop:Cart"):
        assert fact in shown
    assert shown.endswith("\nWins back customers who abandon a cart.\n")


def test_one_class_is_registered_alone(console: Console) -> None:
    assert console("agents", "register", "shop:Thanks").status == 0
    assert [one["name"] for one in json.loads(console("agents", "ls", "-o", "json").out)["agents"]] == ["thanks"]


def test_agents_as_json(console: Console) -> None:
    console("agents", "register", "shop")
    document = json.loads(console("agents", "ls", "-o", "json").out)
    assert (document["schema"], document["namespace"]) == ("sojourn.agents/1", "sojourn")
    (one,) = [agent for agent in document["agents"] if agent["name"] == "win-back"]
    assert set(one) == {
        "kind", "name", "version", "group", "mode", "reference", "doc", "handles", "folds", "publishes", "journey",
        "relays", "registered", "description",
    }  # fmt: skip
    lines = [json.loads(line) for line in console("agents", "ls", "-o", "jsonl").out.splitlines()]
    assert [line["schema"] for line in lines] == ["sojourn.agent/1"] * 2
    assert json.loads(console("agents", "show", "win-back", "-o", "json").out) == {"schema": "sojourn.agent/1", **one}


def test_no_agents_are_no_failure(console: Console) -> None:
    console.make()
    ended = console("agents", "ls")
    assert (ended.status, ended.out) == (0, "")
    assert "`sojourn run MODULE` registers what it runs" in ended.err
    assert json.loads(console("agents", "ls", "-o", "json").out)["agents"] == []


def test_an_agent_that_is_not_there(console: Console) -> None:
    console.make()
    assert console("agents", "show", "nobody") == (
        3, "", "sojourn: no agent named 'nobody' is registered (registered: none yet)\n",
    )  # fmt: skip


def test_a_name_that_is_taken_needs_replace(console: Console, folder: Path) -> None:
    console("agents", "register", "shop")
    (folder / "moved.py").write_text((folder / "shop.py").read_text())
    refused = console("agents", "register", "moved")
    assert refused.status == 1
    assert refused.err.count("\n") == 1
    assert "--replace" in refused.err
    assert console("agents", "register", "moved", "--replace").status == 0


@pytest.mark.parametrize("target", ["nowhere", "shop:Nobody", "shop.py", "shop.inner"])
def test_what_is_not_there_is_not_found(console: Console, target: str) -> None:
    ended = console("agents", "register", target)
    assert (ended.status, ended.err.count("\n")) == (3, 1)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import nothing_of_that_name", "No module named 'nothing_of_that_name'"),
        ("def broken(:", "SyntaxError"),
        ("raise SystemExit(9)", "SystemExit: 9"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
    ],
)
def test_a_module_that_fails_is_one_line_with_its_place(
    console: Console, folder: Path, code: str, message: str
) -> None:
    (folder / "faulty.py").write_text(f"\n{code}\n")
    ended = console("run", "faulty")
    assert (ended.status, ended.err.count("\n")) == (1, 1)
    assert message in ended.err
    assert "faulty.py:2" in ended.err


# publish


def test_publish_tells_id_and_place(console: Console) -> None:
    ended = publish(console, {"customer_id": "c1", "cart_value": 80}, "CartAbandoned", "--id", "order-7")
    at = NS.locate("c1")
    assert ended == (0, f"CartAbandoned order-7 → {at.stream} sequence 1\n", "")
    again = publish(console, {"customer_id": "c1", "cart_value": 80}, "CartAbandoned", "--id", "order-7", "-o", "json")
    assert json.loads(again.out) == {
        "schema": "sojourn.published/1", "type": "CartAbandoned", "key": "c1", "id": "order-7",
        "stream": at.stream, "sequence": 1, "duplicate": True,
    }  # fmt: skip


def test_the_time_may_be_given(console: Console) -> None:
    ended = publish(
        console, {"customer_id": "c1", "cart_value": 1}, "CartAbandoned", "--time", "2026-11-01T09:30Z", "--id", "x"
    )
    assert ended.status == 0


@pytest.mark.parametrize(
    ("data", "type", "status", "lines"),
    [
        ("{}", "CartAbandond", 3, ["sojourn: shop has no event type 'CartAbandond': did you mean CartAbandoned?"]),
        ("{}", "cartabandoned", 3, ["sojourn: shop has no event type 'cartabandoned': did you mean CartAbandoned?"]),
        (
            "{}", "Xyz", 3,
            ["sojourn: shop has no event type 'Xyz': it has CartAbandoned, DiscountOffered, OrderPlaced, ThanksSent"],
        ),
        (
            {"cart_value": "much"}, "CartAbandoned", 1,
            [
                "sojourn: CartAbandoned.customer_id: Field required",
                "sojourn: CartAbandoned.cart_value: Input should be a valid decimal",
            ],
        ),
        (
            {"customer_id": "c", "cart_valeu": 1, "cart_value": 1}, "CartAbandoned", 1,
            ["sojourn: CartAbandoned.cart_valeu: no such field; did you mean cart_value?"],
        ),
        (
            {"customer_id": "", "cart_value": 1}, "CartAbandoned", 1,
            ["sojourn: CartAbandoned.customer_id: Value error, a key must not be empty"],
        ),
        ({"customer_id": "c" * 600, "cart_value": 1}, "CartAbandoned", 1, None),
        ({"customer_id": "c", "note": "x" * 2_000_000}, "ThanksSent", 1, None),
    ],
)  # fmt: skip
def test_what_cannot_be_published_is_explained(
    console: Console, data: object, type: str, status: int, lines: list[str] | None
) -> None:
    ended = publish(console, data, type)
    assert (ended.status, ended.out) == (status, "")
    told = ended.err.splitlines()
    assert told == lines if lines is not None else len(told) == 1
    assert all(len(line) < 300 for line in told)


@pytest.mark.parametrize("text", ['{"customer_id"', "", "[]", "7", "[" * 100_000, "{'a': 1}"])
def test_what_is_no_object_is_a_usage_error(console: Console, text: str) -> None:
    ended = publish(console, text)
    assert ended.status == 2
    assert "JSON" in ended.err


@pytest.mark.parametrize("more", [("--id", "x", "--count", "2"), ("--count", "0"), ("--time", "tomorrow")])
def test_options_that_do_not_go_together(console: Console, more: tuple[str, ...]) -> None:
    assert publish(console, {"customer_id": "c", "cart_value": 1}, "CartAbandoned", *more).status == 2


def test_copies(console: Console) -> None:
    ended = publish(console, {"customer_id": "c", "cart_value": 1}, "CartAbandoned", "--count", "1200")
    assert ended == (0, "1,200 CartAbandoned published\n", "")


def test_an_id_that_cannot_be_one(console: Console) -> None:
    ended = publish(console, {"customer_id": "c", "cart_value": 1}, "CartAbandoned", "--id", "a\nb")
    assert (ended.status, ended.err.count("\n")) == (1, 1)


# watch


async def acted(console: Console, key: str, agent: str, type: str, **data: object) -> None:
    document = {
        "specversion": "1.0", "id": f"{key}-{type}", "source": f"/sojourn/{agent}", "type": type, "subject": key,
        "time": "2026-11-23T12:00:00Z", "causetype": "CartAbandoned", "data": {"customer_id": key, **data},
    }  # fmt: skip
    await store(console, key, NS.action(NS.locate(key), agent, type), json.dumps(document).encode())


@pytest.fixture
async def busy(console: Console) -> Console:
    from sojourn.bus.client import open_bus
    from sojourn.bus.clock import WallClock

    async with open_bus(console.transport, NS, clock=WallClock()):
        await acted(console, "c1", "win-back", "DiscountOffered", percent=10)
        await acted(console, "c2", "thanks", "ThanksSent", note="thank you")
        await acted(console, "c1", "thanks", "ThanksSent", note="again")
        await acted(console, "evil\x1b[2J", "win-back", "DiscountOffered", percent=99)
        await store(console, "c3", NS.action(NS.locate("c3"), "thanks", "ThanksSent"), b"\xff")
    return console


@pytest.mark.parametrize(
    ("filters", "customers"),
    [
        ((), ["c1", "c2", "c1", r"evil\x1b[2J", "c3"]),
        (("--agent", "win-back"), ["c1", r"evil\x1b[2J"]),
        (("--customer", "c1"), ["c1", "c1"]),
        (("--customer", "evil\x1b[2J"), [r"evil\x1b[2J"]),
        (("--type", "ThanksSent", "--customer", "c1"), ["c1"]),
        (("--customer", "c1", "--customer", "c2", "--agent", "thanks"), ["c2", "c1"]),
        (("--customer", "nobody"), []),
        (("--since", "1h"), ["c1", "c2", "c1", r"evil\x1b[2J", "c3"]),
    ],
)
def test_watch_shows_history_and_filters(busy: Console, filters: tuple[str, ...], customers: list[str]) -> None:
    ended = busy("watch", "--no-follow", *filters)
    assert ended.status == 0
    assert [line.split("  ")[1] for line in ended.out.splitlines()] == customers
    assert ended.out.replace("\n", "").isprintable()


def test_watch_as_json_lines_skips_nothing(busy: Console) -> None:
    lines = busy("watch", "--no-follow", "-o", "jsonl").out.splitlines()
    documents = [json.loads(line) for line in lines]
    assert {document["schema"] for document in documents} == {"sojourn.action/1"}
    first = documents[0]
    assert first["data"] == {"customer_id": "c1", "percent": 10}
    assert (first["specversion"], first["stream"], first["sequence"]) == ("1.0", NS.locate("c1").stream, 1)
    unreadable = documents[-1]
    assert (unreadable["unreadable"], unreadable["natssubject"].split(".")[3]) == ("/w==", "c3")
    assert all(line.isascii() and line.isprintable() for line in lines)


def test_watch_as_one_document(busy: Console) -> None:
    document = json.loads(busy("watch", "--no-follow", "-o", "json", "--agent", "win-back").out)
    assert (document["schema"], document["namespace"], len(document["actions"])) == ("sojourn.actions/1", "sojourn", 2)


def test_a_stream_is_no_single_document(console: Console) -> None:
    ended = console("watch", "-o", "json")
    assert ended.status == 2
    assert "-o jsonl" in ended.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("--agent", "Not A Name"), ("--agent", "*"), ("--type", "a.b"), ("--type", ">"), ("--customer", ""),
        ("--customer", "x" * 600), ("--since", "someday"), ("--since", "2999-01-01"),
    ],
)  # fmt: skip
def test_filters_that_cannot_be(console: Console, arguments: tuple[str, str]) -> None:
    assert console("watch", *arguments).status == 2


def test_watching_an_agent_that_is_not_registered_suggests_one(console: Console) -> None:
    console("agents", "register", "shop")
    ended = console("watch", "--no-follow", "--agent", "win-bck")
    assert ended.err == (
        "sojourn: no agent named 'win-bck' is registered; did you mean win-back? (watching all the same)\n"
    )


def test_who_may_not_is_told_so(console: Console) -> None:
    console.failure = PermissionDenied("the server refuses these credentials")
    assert console("watch") == (4, "", "sojourn: the server refuses these credentials\n")


# dead


@pytest.fixture
async def mourning(console: Console) -> Console:
    from sojourn.bus.client import open_bus
    from sojourn.bus.clock import WallClock

    async with open_bus(console.transport, NS, clock=WallClock()):
        for key, agent in (("c1", "win-back"), ("c2", "thanks"), ("c1", "thanks")):
            record = {
                "kind": "dead", "cause": 7, "generation": 0, "timers": {}, "reason": "no\x1b[2J good",
                "error": "ValueError", "traceback": "Traceback …\n  File x\nValueError: no good\n", "attempts": 1,
                "version": 3, "subject": "sojourn.log.1.c1.evt.CartAbandoned", "type": "CartAbandoned",
                "id": f"e-{key}",
                "correlationid": "k", "time": "2026-11-23T12:00:00Z",
            }  # fmt: skip
            await store(console, key, NS.record(NS.locate(key), agent, "dead"), json.dumps(record).encode())
    return console


def test_dead_letters_are_listed_and_shown(mourning: Console) -> None:
    listed = mourning("dead", "ls")
    assert listed.out.splitlines()[0].split() == [
        "number", "time", "agent", "customer", "event", "reason",
    ]  # fmt: skip
    assert len(listed.out.splitlines()) == 4
    assert listed.out.replace("\n", "").isprintable()
    number = listed.out.splitlines()[1].split()[0]
    shown = mourning("dead", "show", number)
    assert shown.out.startswith(f"number       {number}\n")
    assert shown.out.endswith("\nTraceback …\n  File x\nValueError: no good\n")
    assert json.loads(mourning("dead", "show", number, "-o", "json").out)["dead_letters"][0]["number"] == number


@pytest.mark.parametrize(
    ("filters", "count"),
    [
        (("--agent", "thanks"), 2),
        (("--customer", "c1"), 2),
        (("--customer", "c1", "--agent", "thanks"), 1),
        (("--customer", "c9"), 0),
        (("--agent", "ingress"), 0),
    ],
)
def test_dead_letters_are_filtered(mourning: Console, filters: tuple[str, ...], count: int) -> None:
    document = json.loads(mourning("dead", "ls", "-o", "json", *filters).out)
    assert (document["schema"], len(document["dead_letters"])) == ("sojourn.dead-letters/1", count)
    lines = mourning("dead", "ls", "-o", "jsonl", *filters).out.splitlines()
    assert [json.loads(line)["schema"] for line in lines] == ["sojourn.dead-letter/1"] * count


def test_the_id_of_an_event_finds_all_who_failed_on_it(mourning: Console) -> None:
    found = json.loads(mourning("dead", "show", "e-c1", "-o", "json").out)["dead_letters"]
    assert {one["writer"] for one in found} == {"win-back", "thanks"}
    assert len(mourning("dead", "show", "e-c1").out.split("number ")) == 3


@pytest.mark.parametrize("which", ["SOJOURN_0-999", "e-nobody", "nonsense"])
def test_a_dead_letter_that_is_not_there(mourning: Console, which: str) -> None:
    ended = mourning("dead", "show", which)
    assert (ended.status, ended.err.count("\n")) == (3, 1)


def test_no_dead_letters(console: Console) -> None:
    console.make()
    assert console("dead", "ls", "--status", "dropped") == (0, "", "sojourn: no dropped dead letters\n")
    assert console("dead", "ls") == (0, "", "sojourn: no dead letters\n")


@pytest.mark.parametrize("arguments", [("--agent", "No Name"), ("--customer", "")])
def test_dead_letters_of_nobody(console: Console, arguments: tuple[str, str]) -> None:
    assert console("dead", "ls", *arguments).status == 2
