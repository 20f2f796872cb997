"""``sojourn dead redrive`` and ``drop``: what is chosen, asked, told, and stored."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from sojourn.bus.client import open_bus
from sojourn.bus.clock import WallClock
from sojourn.bus.ports import Append
from sojourn.bus.subjects import NO_KEY, Namespace
from tests.console.conftest import Console

NS = Namespace("sojourn", 4, 2)


@pytest.fixture
async def mourning(console: Console) -> Console:
    """Five letters: of ``win-back`` four customers' carts, the last one's original gone; of ``thanks`` an order."""
    async with open_bus(console.transport, NS, clock=WallClock()):
        for n, agent, type in ((1, "win-back", "CartAbandoned"), (2, "win-back", "CartAbandoned"),
                               (3, "win-back", "CartAbandoned"), (4, "win-back", "CartAbandoned"),
                               (5, "thanks", "OrderPlaced")):  # fmt: skip
            at = NS.locate(f"c{n}")
            event = Append(NS.event(at, type), json.dumps({"specversion": "1.0", "n": n}).encode())
            [cause] = await console.transport.commit(at.stream, [event])
            facts: dict[str, Any] = {
                "kind": "dead", "cause": cause, "generation": 0, "timers": {}, "reason": f"number {n}",
                "error": "KeyError" if n % 2 else "ValueError", "traceback": "", "attempts": 1, "version": 3,
                "subject": event.subject, "type": type, "id": f"e-{n}", "correlationid": "k",
                "time": f"2026-11-0{n}T12:00:00Z",
            }  # fmt: skip
            await console.transport.commit(
                at.stream, [Append(NS.record(at, agent, "dead"), json.dumps(facts).encode())]
            )
            if n == 4:
                await console.transport.delete_messages(at.stream, [cause])
    return console


def stored(console: Console) -> list[str]:
    async def read() -> list[str]:
        found: list[str] = []
        for stream in NS.streams:
            found += [one.subject for one in await console.transport.read(stream, "sojourn.log.*.*.evt.redrive.>")]
        return found

    return asyncio.run(read())


def listed(console: Console, *arguments: str) -> dict[str, dict[str, Any]]:
    document = json.loads(console("dead", "ls", "-o", "json", *arguments).out)
    return {letter["customer"]: letter for letter in document["dead_letters"]}


@pytest.mark.parametrize(
    ("filters", "customers"),
    [
        (("--agent", "win-back"), "1234"),
        (("--customer", "c2"), "2"),
        (("--type", "OrderPlaced"), "5"),
        (("--error", "KeyError"), "135"),
        (("--reason", "NUMBER 3"), "3"),
        (("--since", "2026-11-03T00:00Z"), "345"),
        (("--until", "2026-11-03T00:00Z"), "12"),
        (("--limit", "2"), "45"),
        (("--status", "redriven"), ""),
        (("--status", "all"), "12345"),
        (("--agent", "win-back", "--error", "KeyError"), "13"),
    ],
)
def test_letters_are_chosen(mourning: Console, filters: tuple[str, ...], customers: str) -> None:
    assert list(listed(mourning, *filters)) == [f"c{n}" for n in customers]


def test_the_status_is_told_where_it_may_be_any(mourning: Console) -> None:
    number = listed(mourning)["c2"]["number"]
    assert mourning("dead", "drop", number, "--yes").status == 0
    head, *rows = mourning("dead", "ls", "--status", "all").out.splitlines()
    assert head.split()[2] == "status"
    assert sorted(row.split()[3] for row in rows) == ["dropped", *["open"] * 4]


def test_the_rest_of_a_long_list_is_told_of(mourning: Console) -> None:
    ended = mourning("dead", "ls", "--limit", "2")
    assert len(ended.out.splitlines()) == 3
    assert ended.err == "sojourn: the newest 2 of 5: --limit says how many\n"


def test_a_dry_run_tells_and_stores_nothing(mourning: Console) -> None:
    ended = mourning("dead", "redrive", "--agent", "win-back", "--dry-run")
    assert (ended.status, ended.out) == (0, "it would be: 3 redriven, 1 gone from the log\n")
    assert "of c4 stays as it is: the original has left the log" in ended.err
    assert ended.err.endswith("nothing was stored: --yes does it\n")
    assert mourning("dead", "drop", "--all", "--dry-run").out == "it would be: 5 dropped\n"
    assert stored(mourning) == []


def test_they_are_put_back_once(mourning: Console) -> None:
    assert mourning("dead", "redrive", "--all", "--yes").out == "4 redriven, 1 gone from the log\n"
    assert len(stored(mourning)) == 4
    assert mourning("dead", "redrive", "--all", "--yes").out == "1 gone from the log\n"
    assert len(stored(mourning)) == 4
    assert {one["status"] for one in listed(mourning, "--status", "redriven").values()} == {"redriven"}
    assert list(listed(mourning)) == ["c4"]
    number = listed(mourning, "--status", "all")["c1"]["number"]
    again = mourning("dead", "redrive", number, "--yes")
    assert (again.status, again.out) == (0, "1 done before\n")
    refused = mourning("dead", "drop", number, "--yes")
    assert (refused.status, refused.out) == (1, "1 decided otherwise before\n")
    assert refused.err == f"sojourn: {number} of c1 was redriven already\n"


def test_what_was_dropped_is_not_put_back(mourning: Console) -> None:
    number = listed(mourning)["c2"]["number"]
    assert mourning("dead", "drop", number, "--yes").out == "1 dropped\n"
    refused = mourning("dead", "redrive", number, "--yes")
    assert (refused.status, refused.err) == (1, f"sojourn: {number} of c2 was dropped already\n")
    assert mourning("dead", "show", number).out.splitlines()[1].split() == ["status", "dropped"]
    assert len(stored(mourning)) == 1


def test_no_more_than_the_limit(mourning: Console) -> None:
    assert mourning("dead", "drop", "--all", "--limit", "2", "--yes").out == "2 dropped\n"
    assert len(stored(mourning)) == 2
    assert len(listed(mourning)) == 3


def test_for_programs(mourning: Console) -> None:
    document = json.loads(mourning("dead", "redrive", "--agent", "win-back", "--yes", "-o", "json").out)
    assert (document["schema"], document["dry_run"], document["deed"]) == ("sojourn.dead-outcomes/1", False, "redrive")
    assert (document["counts"]["redriven"], document["counts"]["gone"], document["counts"]["failed"]) == (3, 1, 0)
    assert [one["customer"] for one in document["matters"]] == ["c4"]
    lines = [json.loads(line) for line in mourning("dead", "redrive", "--all", "--yes", "-o", "jsonl").out.splitlines()]
    assert sorted((one["schema"], one["customer"], one["result"]) for one in lines) == [
        ("sojourn.dead-outcome/1", "c4", "gone"),
        ("sojourn.dead-outcome/1", "c5", "redriven"),
    ]


@pytest.mark.parametrize(
    "arguments",
    [(), ("--yes",), ("SOJOURN_0-2", "--all", "--yes"), ("SOJOURN_0-2", "--agent", "a", "--yes"), ("--all",)],
)
def test_who_does_not_say_which_is_asked_to(mourning: Console, arguments: tuple[str, ...]) -> None:
    for deed in ("redrive", "drop"):
        assert mourning("dead", deed, *arguments).status == 2
    assert stored(mourning) == []


def test_a_number_that_is_none_stops_all(mourning: Console) -> None:
    number = listed(mourning)["c2"]["number"]
    assert mourning("dead", "redrive", number, "SOJOURN_0-999", "--yes").status == 3
    assert stored(mourning) == []


@pytest.mark.parametrize(("answer", "status", "count"), [(True, 0, 4), (False, 1, 0)])
def test_on_a_terminal_it_asks(
    mourning: Console, monkeypatch: pytest.MonkeyPatch, answer: bool, status: int, count: int
) -> None:
    asked: list[str] = []

    def confirm(question: str, **rest: Any) -> bool:
        asked.append(question)
        return answer

    monkeypatch.setattr("sojourn.console.confirming.is_terminal", lambda stream: True)
    monkeypatch.setattr("click.confirm", confirm)
    ended = mourning("dead", "redrive", "--all")
    assert (ended.status, len(stored(mourning))) == (status, count)
    assert asked == ["Redrive 4 dead letters, in namespace sojourn?"]
    assert "to redrive: 4 redriven, 1 gone from the log" in ended.err


def test_how_far_it_is_stands_on_standard_error(mourning: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sojourn.console.deciding._NEWS", 0.0)
    ended = mourning("dead", "drop", "--all", "--yes")
    assert ended.out == "5 dropped\n"
    assert [line for line in ended.err.splitlines() if "so far" in line] == [
        f"sojourn: {n} dropped so far" for n in range(1, 6)
    ]


def test_the_foreign_document_that_still_does_not_fit_is_a_failure(mourning: Console) -> None:
    record = {
        "kind": "dead", "cause": 1, "stream": "SOJOURN_IN", "generation": 0, "timers": {}, "reason": "what it was",
        "error": "DecodeError", "traceback": "", "attempts": 0, "version": 0, "subject": "sojourn.in.CartAbandoned",
        "type": "CartAbandoned", "id": None, "correlationid": None, "time": "2026-11-01T12:00:00Z", "parts": 1,
        "sealed": False, "original": "anVuaw==",
    }  # fmt: skip
    at = NS.locate_token("", NO_KEY)

    async def bury() -> None:
        await mourning.transport.commit(
            at.stream, [Append(NS.record(at, "ingress", "dead"), json.dumps(record).encode())]
        )

    asyncio.run(bury())
    ended = mourning("dead", "redrive", "--agent", "ingress", "--yes")
    assert (ended.status, ended.out) == (1, "1 failed\n")
    assert "of nobody stays as it is: not JSON" in ended.err
    assert len(mourning("dead", "ls", "--agent", "ingress").out.splitlines()) == 2
