from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from sojourn.bus.envelope import decode, encode
from sojourn.bus.errors import ConfigurationError
from sojourn.bus.subjects import LogSubject
from sojourn.console import simulating
from sojourn.console.modules import EXAMPLE
from sojourn.console.simulating import Show
from sojourn.simulation.audit import Tally
from sojourn.simulation.driver import Action
from sojourn.simulation.run import Timing
from tests.console.conftest import Console
from tests.console.shop import CartAbandoned, DiscountOffered

SMALL = ("--customers", "30", "--days", "3", "--engine", "memory")


def offered(number: int) -> Action:
    event = DiscountOffered(customer_id=f"c{number}", percent=number)
    moment = datetime(2026, 1, 5, tzinfo=UTC)
    document = encode(event, id="i", source="/s", key=event.customer_id, time=moment)
    return Action(
        LogSubject(0, f"c{number}", "act", "win-back", "DiscountOffered"), 1, decode(document, DiscountOffered)
    )


def test_a_simulation_ends_with_a_table(console: Console) -> None:
    ended = console("simulate", EXAMPLE, *SMALL)
    assert ended.status == 0
    assert ended.out.startswith("simulated     30 customers, 3 days from 2026-01-05, seed 7\n")
    assert "\nduplicates    0\nlost          0\n" in ended.out
    assert "agent          action              count\n" in ended.out
    assert "DiscountOffered percent=" in ended.err


def test_the_same_seed_gives_the_same_document(console: Console) -> None:
    documents = [json.loads(console("simulate", EXAMPLE, *SMALL, "-o", "json").out) for _ in range(2)]
    assert [document.pop("run")["engine"] for document in documents] == ["memory", "memory"]
    assert documents[0] == documents[1]
    assert documents[0]["schema"] == "sojourn.simulation/1"
    assert documents[0]["events"]["total"] > 0
    other = json.loads(console("simulate", EXAMPLE, *SMALL, "--seed", "8", "-o", "jsonl").out)
    assert other["digest"] != documents[0]["digest"]


def test_no_lines_are_shown_where_none_are_wanted(console: Console) -> None:
    assert console("simulate", EXAMPLE, *SMALL, "--lines", "0").err == ""


@pytest.mark.parametrize(
    ("tally", "line"),
    [
        ({"duplicates": 2}, "sojourn: the run is not clean: 2 duplicates; lost: none\n"),
        (
            {"lost": {"events": 3, "timers": 1}},
            "sojourn: the run is not clean: 0 duplicates; lost: 3 events, 1 timers\n",
        ),
    ],
)
def test_what_is_doubled_or_lost_is_a_failure(
    tally: dict[str, Any], line: str, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Result:
        def __init__(self) -> None:
            nothing = Tally({}, {}, 0, 0, {}, 0, {}, "digest")
            self.tally = Tally(**{**{name: getattr(nothing, name) for name in nothing.__slots__}, **tally})
            self.timing = Timing("memory", 1.0, 1.0, 0)
            self.start = datetime(2026, 1, 5, tzinfo=UTC)

        def to_json(self) -> dict[str, Any]:
            return self.tally.to_json()

    async def run(*arguments: Any, **options: Any) -> Result:
        return Result()

    monkeypatch.setattr("sojourn.simulation.simulate.run_simulation", run)
    ended = console("simulate", EXAMPLE, *SMALL)
    assert (ended.status, ended.err) == (1, line)
    assert "duplicates" in ended.out


def test_agents_that_fail_are_told_of(console: Console, folder: Path) -> None:
    (folder / "faulty.py").write_text(
        "from examples.retail import *\n"
        "from sojourn import Agent, agent, on\n"
        '@agent("faulty")\n'
        "class Faulty(Agent):\n"
        "    @on(CartAbandoned)\n"
        "    def fail(self, event: CartAbandoned) -> None:\n"
        "        raise ValueError('oops')\n"
    )
    ended = console("simulate", "faulty", *SMALL, "--lines", "0")
    assert ended.status == 0
    assert "dead letters" in ended.out
    assert ended.err.startswith("sojourn: agents failed on ")
    assert ended.err.count("\n") == 1


def test_without_the_examples_a_module_has_to_be_named(console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sojourn.console.modules.EXAMPLE", "nowhere.retail")
    ended = console("simulate", *SMALL)
    assert (ended.status, ended.err.count("\n")) == (3, 1)
    assert "name a MODULE" in ended.err


@pytest.mark.parametrize(
    "arguments", [("--customers", "0"), ("--days", "0"), ("--days", "-1"), ("--seed", "x"), ("--engine", "paper")]
)
def test_numbers_that_make_no_run(console: Console, arguments: tuple[str, str]) -> None:
    assert console("simulate", EXAMPLE, *arguments).status == 2


def test_what_the_engine_refuses_is_one_line(console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run(*arguments: Any, **options: Any) -> None:
        raise ConfigurationError("namespace sim is used for a bus, not for a simulation: choose another --namespace")

    monkeypatch.setattr("sojourn.simulation.simulate.run_simulation", run)
    ended = console("simulate", EXAMPLE)
    assert (ended.status, ended.err.count("\n")) == (1, 1)


def test_the_namespace_of_everything_else_is_not_played_with(console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    async def run(*arguments: Any, engine: Any, **options: Any) -> None:
        seen.append(engine.namespace)
        raise ConfigurationError("enough")

    monkeypatch.setattr("sojourn.simulation.simulate.run_simulation", run)
    monkeypatch.setenv("SOJOURN_NAMESPACE", "production")
    console("simulate", EXAMPLE)
    console("simulate", EXAMPLE, "--namespace", "other")
    assert seen == ["sim", "other"]


# replay


def test_a_file_of_documents_is_replayed(console: Console, folder: Path) -> None:
    moment = datetime(2026, 1, 5, 12, tzinfo=UTC)
    lines = [
        encode(
            CartAbandoned.model_validate({"customer_id": f"c{number}", "cart_value": 10}),
            id=f"e{number}", source="/till", key=f"c{number}", time=moment,
        ).decode()
        for number in range(5)
    ]  # fmt: skip
    (folder / "carts.jsonl").write_text("\n".join(lines))
    ended = console("replay", "carts.jsonl", "shop", "--engine", "memory", "-o", "json")
    assert ended.status == 0
    document = json.loads(ended.out)
    assert (document["schema"], document["source"], document["journeys"]) == ("sojourn.replay/1", "carts.jsonl", 5)
    assert document["actions"]["by_agent"] == {"win-back": {"DiscountOffered": 5}}


def test_the_cdnow_log_from_a_file(console: Console, folder: Path) -> None:
    (folder / "cdnow.txt").write_text("00001 19970101 1 11.77\n00002 19970112 1 12.00\n00002 19970112 5 77.00\n")
    ended = console("replay", "cdnow", EXAMPLE, "--file", "cdnow.txt", "--engine", "memory")
    assert ended.status == 0
    assert ended.out.startswith("replayed      cdnow, 1997-01-01 to 1997-01-13\njourneys      2\n")


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (("nowhere.jsonl",), 3),
        (("cdnow", "--file", "nowhere.txt"), 3),
        (("carts.jsonl", "--file", "x"), 2),
        (("shop.py",), 1),
    ],
)
def test_a_history_that_is_none(console: Console, arguments: tuple[str, ...], status: int) -> None:
    ended = console("replay", *arguments, "--engine", "memory")
    assert ended.status == status
    assert "Traceback" not in ended.err


# the show


def test_too_many_actions_are_counted(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(simulating, "monotonic", lambda: clock[0])
    with Show("run", lines=2, agents=frozenset(), causes=frozenset()) as show:
        for number in range(5):
            show.action(offered(number))
        clock[0] += 1.0
        for number in range(5, 9):
            show.action(offered(number))
    told = [line.split()[-1] if "percent" in line else line.strip() for line in capsys.readouterr().err.splitlines()]
    assert told == [
        "percent=0", "percent=1", "… and 3 more actions", "percent=5", "percent=6", "… and 2 more actions", "",
    ]  # fmt: skip


def test_an_action_that_nobody_knows_is_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with Show("run", lines=2, agents=frozenset(), causes=frozenset()) as show:
        show.action(Action(LogSubject(0, "c", "act", "a", "T"), 1, None))
    assert capsys.readouterr().err == ""


def test_on_a_terminal_there_is_a_bar_that_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "90")
    with Show("30 customers", lines=2, agents=frozenset(), causes=frozenset()) as show:
        show.action(offered(1))
    err = capsys.readouterr().err
    assert "30 customers" in err
    assert "DiscountOffered" in err
    assert err.count("\x1b[?25l") == err.count("\x1b[?25h")
