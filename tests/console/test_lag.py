"""`sojourn lag`: tables, documents, exit statuses, and the redrawing one on a real server."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from sojourn.bus.client import Bus, open_bus
from sojourn.bus.clock import WallClock
from sojourn.bus.errors import UnavailableError
from sojourn.bus.lag import Figures, GroupLag, Lag, PartitionLag
from sojourn.bus.ports import Append, StreamState
from sojourn.bus.subjects import Namespace
from sojourn.console.commands import lag as command
from sojourn.console.commands.lag import _judge, _tell
from sojourn.console.failures import Problems
from sojourn.console.lagging import facts, group_facts, over, span, table, unmeasured
from tests.bus.delivery.processors import Scripted
from tests.bus.test_lag import begin, publish
from tests.console.conftest import Console, Process
from tests.console.test_output import a_terminal

Start = Callable[..., Process]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "WINDOW", 0.01)


def filled(console: Console, *, carts: int = 12) -> None:
    """Two groups on the console's bus: one begins with the carts there are, the other after them."""

    async def fill() -> None:
        async with open_bus(console.transport, Namespace("sojourn", 4, 2), clock=WallClock()) as bus:
            await publish(bus, 5, range(carts))
            await begin(bus, Scripted(writer="early", start="beginning"))
            await begin(bus, Scripted(writer="late"))

    asyncio.run(fill())


def test_a_table_for_people(console: Console) -> None:
    filled(console)
    ended = console("lag")
    assert (ended.status, ended.err) == (0, "")
    lines = [line.split() for line in ended.out.splitlines()]
    assert lines[0] == "group pending flight parked oldest in/s out/s drain".split()
    assert [line[:4] for line in lines[1:]] == [
        ["early", "12", "0", "0"],
        ["late", "0", "0", "0"],
        ["total", "12", "0", "0"],
    ]
    assert [line[-1] for line in lines[1:]] == ["standing", "idle", "standing"]


def test_a_row_for_each_partition_and_one_group_only(console: Console) -> None:
    filled(console)
    ended = console("lag", "--partitions", "--group", "early")
    lines = [line.split() for line in ended.out.splitlines()]
    assert [line[:2] for line in lines[1:]] == [["early", str(p)] for p in range(4)] + [["total", "12"]]
    assert sum(int(line[2]) for line in lines[1:5]) == 12


def test_documents_are_versioned_and_agree_with_the_table(console: Console) -> None:
    filled(console)
    document = json.loads(console("lag", "-o", "json", "--partitions").out)
    assert document["schema"] == "sojourn.lag/1"
    assert set(document) == {"schema", "namespace", "time", "groups", "total", "unmeasured", "parked_truncated"}
    early, late = document["groups"]
    shared = {
        "pending", "in_flight", "parked", "oldest_seconds", "in_per_second", "out_per_second", "drain_seconds", "trend",
    }  # fmt: skip
    assert set(early) == shared | {"group", "writers", "ran", "paused", "workers", "unmeasured", "partitions"}
    assert set(early["partitions"][0]) == shared | {"partition", "worker"}
    assert set(document["total"]) == shared
    assert (early["pending"], late["pending"], document["total"]["pending"]) == (12, 0, 12)
    assert sum(one["pending"] for one in early["partitions"]) == 12
    assert early["oldest_seconds"] >= 0 and late["oldest_seconds"] is None
    assert abs(datetime.fromisoformat(document["time"]) - datetime.now(UTC)).total_seconds() < 30
    lines = [json.loads(line) for line in console("lag", "-o", "jsonl").out.splitlines()]
    assert [line["schema"] for line in lines] == ["sojourn.group-lag/1"] * 2
    assert [(line["group"], line["pending"]) for line in lines] == [("early", 12), ("late", 0)]
    assert "partitions" not in lines[0]


def test_a_probe_fails_over_its_limit_and_names_the_group(console: Console) -> None:
    filled(console)
    ended = console("lag", "--fail-over", "0")
    assert ended.status == 1
    assert ended.err.startswith("sojourn: early: the oldest unhandled event is ") and "more than 0" in ended.err
    assert "late" not in ended.err and "early" in ended.out
    assert console("lag", "--fail-over", "3600").status == 0
    assert console("lag", "--fail-over", "0", "--group", "late").status == 0
    assert console("lag", "--fail-over", "0", "--group", "late", "--group", "early").status == 1


def test_a_poisonous_backlog_fails_the_probe_although_nothing_is_pending(console: Console) -> None:
    """A parked customer's event is acked, so raw consumer info shows nothing: its age counts all the same."""

    async def park() -> None:
        async with open_bus(console.transport, Namespace("sojourn", 4, 2), clock=WallClock()) as bus:
            await publish(bus, 1, range(1))
            await begin(bus, Scripted(writer="late"))
            at = bus.namespace.locate("c0")
            parked = Append(bus.namespace.record(at, "late", "parked"), b'{"kind": "parked", "from": 1}')
            await bus.transport.commit(at.stream, [parked])

    asyncio.run(park())
    ended = console("lag", "--fail-over", "0", "-o", "json")
    assert ended.status == 1
    (group,) = json.loads(ended.out)["groups"]
    assert (group["pending"], group["in_flight"], group["parked"]) == (0, 0, 1)
    assert group["oldest_seconds"] > 0


def test_what_does_not_exist_and_what_is_not_meant(console: Console) -> None:
    filled(console)
    ended = console("lag", "--group", "nobody")
    assert ended.status == 3 and "no group named 'nobody' (groups: early, late)" in ended.err
    assert console("lag", "--watch", "-o", "json").status == 2
    assert console("lag", "--watch", "--fail-over", "3").status == 2
    assert console("lag", "--fail-over", "-1").status == 2
    assert console("lag", "--group", "No Name").status == 2


def test_nothing_registered_is_said(console: Console) -> None:
    console.make()
    ended = console("lag")
    assert (ended.status, ended.out) == (0, "") and "nothing is registered in namespace sojourn" in ended.err
    assert json.loads(console("lag", "-o", "json").out)["groups"] == []


def test_a_server_that_does_not_answer_is_status_5(console: Console) -> None:
    console.failure = UnavailableError("no NATS server answers at nats://nowhere (connection refused)")
    ended = console("lag", "--fail-over", "1")
    assert (ended.status, ended.out) == (5, "") and "no NATS server answers" in ended.err


def test_a_shard_that_does_not_answer_leaves_the_rest_and_is_status_5(
    console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(console)
    whole = console.transport.stream_state

    async def stream_state(name: str) -> StreamState | None:
        if name == "SOJOURN_1" and console.connected[-1]["url"] == "nats://here":
            raise UnavailableError("no leader today")
        return await whole(name)

    monkeypatch.setattr(console.transport, "stream_state", stream_state)
    ended = console("lag", "--server", "nats://here", "-o", "json")
    assert ended.status == 5 and "SOJOURN_1 could not be measured: no leader today" in ended.err
    document = json.loads(ended.out)
    assert document["unmeasured"] == {"SOJOURN_1": "no leader today"}
    assert document["groups"][0]["unmeasured"] == [1, 3]
    assert console("lag", "--server", "nats://here", "--fail-over", "0").status == 1, "what is known to be late counts"


# What it looks like

NOW = datetime(2026, 11, 23, 12, 30, tzinfo=UTC)
BUSY = Lag(
    "sojourn",
    NOW,
    (
        GroupLag(
            "cart-recovery-europe",
            Figures(1_234_567, 1_000, 12, 93_784.2, 1_234.5, 2_345.6),
            (PartitionLag(0, Figures(1_234_567, 1_000, 12, 93_784.2, 1_234.5, 2_345.6), "host-a-4711"),),
            writers=("cart-recovery-europe",),
        ),
        GroupLag("loyalty", Figures(3, 1, 0, 0.04, 10.0, 9.0), (PartitionLag(0, Figures(3, 1, 0, 0.04, 10.0, 9.0)),)),
        GroupLag("mail", Figures(0, 0, 0, None, 0.0, 0.0), (), paused=True),
        GroupLag("new", Figures(), ran=False),
        GroupLag("half", Figures(5, 0, 0, 61.0, 0.0, 0.0), (PartitionLag(0, Figures(5)),), unmeasured=(1, 3)),
    ),
    owned=True,
    failures={"SOJOURN_1": "no answer within 5 s"},
)


def test_the_table_fits_a_terminal_of_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = a_terminal(monkeypatch)
    monkeypatch.setenv("COLUMNS", "80")
    _tell(BUSY, "text", partitions=False)
    assert terminal.getvalue().splitlines() == [
        "group            pending  flight  parked  oldest  in/s  out/s  drain     workers",
        "cart-recovery-…     1.2M   1,000      12   1d 2h  1.2k   2.3k  18m 32s         1",
        "loyalty                3       1       0    0.0s  10.0    9.0  growing         0",
        "mail                   0       0       0       –   0.0    0.0  paused          –",
        "new                    –       –       –       –     –      –  new             –",
        "half                  5+       0       0  1m 01s   0.0    0.0  standing        0",
        "total               1.2M   1,001      12   1d 2h  1.2k   2.4k  18m 33s",
    ]


def test_the_table_of_partitions_fits_too(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = a_terminal(monkeypatch)
    monkeypatch.setenv("COLUMNS", "80")
    _tell(BUSY, "text", partitions=True)
    lines = terminal.getvalue().splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert "1.2M" in lines[1] and "1,000" in lines[1]


def test_every_row_has_a_cell_for_every_column() -> None:
    for lag in (BUSY, Lag("n", NOW, BUSY.groups)):
        for partitions in (False, True):
            columns, rows = table(lag, partitions=partitions)
            assert {len(row) for row in rows} == {len(columns)}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0s"), (9.94, "9.9s"), (9.96, "10s"), (59.4, "59s"), (59.6, "1m 00s"), (3599.4, "59m 59s"),
        (3600, "1h 00m"), (7_500, "2h 05m"), (86_400, "1d 0h"), (8_000_000, "92d 14h"), (1e9, "11,574d"),
    ],
)  # fmt: skip
def test_durations_read_well(seconds: float, text: str) -> None:
    assert span(seconds) == text


def test_what_a_probe_says() -> None:
    assert over(BUSY, 60) == [
        "cart-recovery-europe: the oldest unhandled event is 93784 s old, more than 60",
        "half: the oldest unhandled event is 61 s old, more than 60",
    ]
    assert over(BUSY, 1e9) == []
    with pytest.raises(Problems) as late:
        _judge(BUSY, 1_000)
    assert late.value.lines == [*over(BUSY, 1_000), *unmeasured(BUSY)]
    with pytest.raises(UnavailableError, match="SOJOURN_1 could not be measured: no answer within 5 s"):
        _judge(BUSY, None)


def test_documents_say_what_is_not_known() -> None:
    document = facts(BUSY, partitions=False)
    assert document["unmeasured"] == {"SOJOURN_1": "no answer within 5 s"}
    new = next(one for one in group_facts(BUSY, partitions=False) if one["group"] == "new")
    assert (new["ran"], new["in_per_second"], new["trend"]) == (False, None, "unknown")
    assert next(one for one in document["groups"] if one["group"] == "half")["unmeasured"] == [1, 3]


def test_a_redrawn_table_begins_at_the_top(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = a_terminal(monkeypatch)
    command._clear(BUSY, 2.0)
    assert terminal.getvalue().startswith("\x1b[H\x1b[Jlag of sojourn, every 2 s: ")
    monkeypatch.setattr(sys, "stdout", plain := Plain())
    command._clear(BUSY, 2.0)
    assert plain.text.startswith("lag of sojourn, every 2 s: ")


class Plain:
    encoding = "utf-8"

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> None:
        self.text += text

    def flush(self) -> None: ...

    def isatty(self) -> bool:
        return False


# On a real server


def test_it_is_watched_while_workers_come_and_go(start: Start) -> None:
    assert start("agents", "register", "shop").wait().status == 0
    watching = start("lag", "--watch", "--every", "0.5", "-o", "jsonl")

    def newest(process: Process, group: str) -> dict[str, Any]:
        whole = process.out[: process.out.rfind("\n") + 1].splitlines()
        found = [one for one in map(json.loads, whole) if one["group"] == group]
        return found[-1] if found else {}

    watching.until(lambda one: newest(one, "thanks").get("ran") is False)
    worker = start("run", "shop").until(lambda one: '"event": "running"' in one.err)
    watching.until(lambda one: newest(one, "thanks").get("ran") is True)
    worker.signal(signal.SIGTERM)
    assert worker.wait().status == 0
    order = '{"customer_id": "ann", "amount": 1}'
    assert start("publish", "OrderPlaced", order, "--module", "shop").wait().status == 0
    waiting = watching.until(lambda one: newest(one, "thanks").get("pending") == 1)
    assert newest(waiting, "win-back")["pending"] == 1, "events that nobody handles wait to be passed"
    assert start("lag", "--fail-over", "0", "--group", "thanks").wait().status == 1
    start("run", "shop").until(lambda one: '"event": "running"' in one.err)
    watching.until(lambda one: newest(one, "thanks").get("pending") == 0 and newest(one, "thanks")["in_flight"] == 0)
    watching.until(lambda one: newest(one, "win-back").get("pending") == 0)
    assert newest(watching, "thanks")["oldest_seconds"] is None
    watching.signal(signal.SIGINT)
    assert watching.wait().status == 130


def test_redrawing_for_people_ends_with_130(start: Start) -> None:
    assert start("agents", "register", "shop").wait().status == 0
    watching = start("lag", "--watch", "--every", "0.5").until(lambda one: one.out.count("lag of sojourn") >= 2)
    watching.signal(signal.SIGINT)
    ended = watching.wait()
    assert ended.status == 130 and "\x1b" not in ended.out
    assert "thanks" in ended.out and " new\n" in ended.out and ended.err == ""


def test_measuring_costs_little(console: Console) -> None:
    """The twin answers at once, so this bounds the questions: a few for each group and partition."""
    asked = 0

    async def count() -> None:
        nonlocal asked
        async with open_bus(console.transport, Namespace("sojourn", 4, 2), clock=WallClock()) as bus:
            asked = await questions(bus)

    filled(console)
    asyncio.run(count())
    assert asked <= 2 * 4 * 2 + 2 * 4 + 4 * 2


async def questions(bus: Bus) -> int:
    from sojourn.bus.lag import Meter

    meter = Meter(bus)
    await meter.measure()
    asked = 0
    for name in ("ahead", "read", "last", "get", "consumer_lag"):
        whole = getattr(bus.transport, name)

        async def counted(*arguments: Any, whole: Any = whole, **rest: Any) -> Any:
            nonlocal asked
            asked += 1
            return await whole(*arguments, **rest)

        setattr(bus.transport, name, counted)
    await meter.measure()
    return asked
