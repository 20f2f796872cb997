"""``sojourn journeys erase`` in this process, on a bus in memory."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from sojourn.bus.intake import NOBODY
from sojourn.bus.personal.master import MasterKeys
from tests.console.conftest import Console

Module = Callable[[str], str]

EVENTS = """
    class OrderPlaced(Event):
        customer_id: Key
        email: Personal[str] | None = None
"""


@pytest.fixture
def shop(console: Console, module: Module) -> Console:
    """A namespace in which c1 and c2 have told their e-mail addresses, and c3 none."""
    console.master_keys = MasterKeys.new()
    events = module(EVENTS)
    for customer, email in (("c1", "a@x.org"), ("c1", None), ("c2", "b@x.org"), ("c3", None)):
        data = json.dumps({"customer_id": customer, "email": email})
        assert console("publish", "OrderPlaced", data, "--module", events).status == 0
    return console


def has_key(console: Console, customer: str) -> bool:
    async def look() -> bool:
        async with console.connect() as bus:
            return await bus.keys.load(customer) is not None

    return asyncio.run(look())


def make_key(console: Console, customer: str) -> None:
    async def make() -> None:
        async with console.connect() as bus:
            await bus.keys.ensure(customer)

    asyncio.run(make())


def erased(console: Console, *arguments: str) -> dict[str, Any]:
    ended = console("journeys", "erase", *arguments, "-o", "json")
    assert (ended.status, ended.err) == (0, "")
    document: dict[str, Any] = json.loads(ended.out)
    assert document.pop("schema") == "sojourn.erasure/1"
    return document


def test_a_customer_is_erased_and_told(shop: Console) -> None:
    ended = shop("journeys", "erase", "c1", "--yes")
    assert (ended.status, ended.err) == (0, "")
    facts = dict(line.split(maxsplit=1) for line in ended.out.splitlines())
    assert facts["customer"] == "c1"
    assert facts["erased"] == "the key that sealed personal values, in 1 of 2 stored messages"
    assert facts["stays"] == "what happened, when and how often, without personal values"
    assert facts["event"].startswith("CustomerErased → SOJOURN_")
    assert facts["processes"] == "drop the key, and what they made of it, within a second"
    assert not has_key(shop, "c1")
    assert has_key(shop, "c2")


def test_erasing_again_says_that_there_is_nothing_left(shop: Console) -> None:
    first, again = erased(shop, "c1", "--yes"), erased(shop, "c1", "--yes")
    assert (first["had_key"], first["erased_before"], first["messages"], first["sealed"]) == (True, False, 2, 1)
    assert (again["had_key"], again["erased_before"], again["messages"]) == (False, True, 3)
    assert set(first) == {"customer", "erased_before", "messages", "sealed", "dry_run", "had_key", "event"}
    assert set(first["event"]) == {"id", "stream", "sequence", "duplicate"}
    assert "it was erased before" in shop("journeys", "erase", "c1", "--yes").out


def test_one_who_came_back_loses_what_is_new(shop: Console, module: Module) -> None:
    erased(shop, "c1", "--yes")
    for number in range(2):
        data = json.dumps({"customer_id": "c1", "email": f"{number}@x.org"})
        assert shop("publish", "OrderPlaced", data, "--module", module(EVENTS)).status == 0
    found, again = erased(shop, "c1", "--dry-run"), erased(shop, "c1", "--yes")
    assert [(one["had_key"], one["sealed"], one["messages"]) for one in (found, again)] == [(True, 2, 5)] * 2
    assert erased(shop, "c1", "--yes")["sealed"] == 0


def test_one_of_whom_nothing_is_personal_may_be_erased_too(shop: Console) -> None:
    ended = shop("journeys", "erase", "c3", "--yes")
    assert (ended.status, "nothing: no personal value was ever stored" in ended.out) == (0, True)


def test_a_dry_run_only_says_what_would_be(shop: Console) -> None:
    ended = shop("journeys", "erase", "c1", "--dry-run")
    assert ended.status == 0
    assert "the key that seals personal values, in 1 of 2 stored messages" in ended.out
    assert ended.err == "sojourn: nothing was erased: --yes does it\n"
    assert erased(shop, "c1", "--dry-run") == {
        "customer": "c1", "erased_before": False, "messages": 2, "sealed": 1, "dry_run": True, "had_key": True,
        "event": None,
    }  # fmt: skip
    assert has_key(shop, "c1")


def test_a_customer_of_whom_nothing_is_known_is_a_typing_error(shop: Console) -> None:
    for mode in ("--yes", "--dry-run"):
        ended = shop("journeys", "erase", "C1", mode)
        assert (ended.status, ended.out) == (3, "")
        assert "nothing is known of a customer 'C1' in namespace sojourn" in ended.err
    assert shop("journeys", "erase", "c1", "--yes", "--namespace", "other").status == 3


def test_a_key_without_a_word_in_the_log_is_erased(shop: Console) -> None:
    make_key(shop, "quiet")
    document = erased(shop, "quiet", "--yes")
    assert (document["had_key"], document["messages"]) == (True, 0)


def test_no_master_key_is_needed(shop: Console) -> None:
    shop.master_keys = None
    assert erased(shop, "c1", "--yes")["had_key"] is True
    shop.master_keys = MasterKeys.new("another")
    assert erased(shop, "c2", "--yes")["had_key"] is True


def test_what_is_kept_of_documents_that_named_nobody(shop: Console) -> None:
    make_key(shop, NOBODY)
    assert erased(shop, "--nobody", "--dry-run")["customer"] is None
    document = erased(shop, "--nobody", "--yes")
    assert (document["had_key"], document["event"]) == (True, None)
    assert erased(shop, "--nobody", "--yes")["had_key"] is False
    ended = shop("journeys", "erase", "--nobody", "--yes")
    assert "nobody: foreign documents that named no customer" in ended.out
    assert "CustomerErased" not in ended.out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("c1",), "say --yes, or look first: sojourn journeys erase c1 --dry-run"),
        (("--nobody",), "say --yes, or look first: sojourn journeys erase --nobody --dry-run"),
        (("--yes",), "give the KEY of a customer, or --nobody"),
        (("c1", "--nobody", "--yes"), "give the KEY of a customer, or --nobody"),
        (("", "--yes"), "a key must not be empty"),
    ],
)
def test_what_is_refused_before_anything_is_asked(shop: Console, arguments: tuple[str, ...], said: str) -> None:
    asked = len(shop.connected)
    ended = shop("journeys", "erase", *arguments)
    assert (ended.status, ended.out) == (2, "")
    assert said in " ".join(ended.err.split())
    assert len(shop.connected) == asked


@pytest.mark.parametrize(("answer", "status"), [(True, 0), (False, 1)])
def test_on_a_terminal_it_asks(shop: Console, monkeypatch: pytest.MonkeyPatch, answer: bool, status: int) -> None:
    asked: list[str] = []

    def confirm(question: str, *, err: bool) -> bool:
        asked.append(question)
        return answer

    monkeypatch.setattr("sojourn.console.confirming.is_terminal", lambda stream: True)
    monkeypatch.setattr("click.confirm", confirm)
    ended = shop("journeys", "erase", "c1", "-o", "json")
    assert asked == ["Erase it for good, in namespace sojourn?"]
    assert ended.err.startswith("sojourn: to erase: the key that seals personal values, in 1 of 2 stored messages\n")
    assert ended.status == status
    assert has_key(shop, "c1") is not answer
    if answer:
        assert json.loads(ended.out)["had_key"] is True
    else:
        assert (ended.out, ended.err.splitlines()[-1]) == ("", "sojourn: nothing was erased")
