"""`sojourn agents pause|resume|mode`: who is waited for, who is named, and what is refused."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable

import pytest

from sojourn.bus.client import open_bus
from sojourn.bus.clock import WallClock
from sojourn.bus.delivery.session import Session
from sojourn.bus.registry import Registry
from sojourn.bus.subjects import Namespace
from tests.bus.delivery.processors import Scripted
from tests.console.conftest import Console

NAMESPACE = Namespace("sojourn", 4, 2)


def registered(console: Console, *processors: Scripted) -> None:
    async def register() -> None:
        async with open_bus(console.transport, NAMESPACE, clock=WallClock()) as bus:
            for processor in processors:
                await bus.registry.register(processor)

    asyncio.run(register())


def session(console: Console, worker: str, groups: Iterable[str], writers: Iterable[str]) -> Session:
    """A living worker that obeys the writers' modes as they are now."""

    async def begin() -> Session:
        bucket = await console.transport.bucket(NAMESPACE.bucket("leases"))
        modes = await Registry(await console.transport.bucket(NAMESPACE.bucket("registry"))).modes()
        made = Session(bucket, worker, groups, ttl=60)
        made.modes = {writer: modes[writer].revision for writer in writers}
        await made.renew()
        return made

    return asyncio.run(begin())


def mode_of(console: Console, name: str) -> str:
    return str(json.loads(console("agents", "show", name, "-o", "json").out)["mode"])


def test_without_workers_the_mode_is_set_at_once(console: Console) -> None:
    registered(console, Scripted(writer="early"), Scripted(writer="late"))
    assert console("agents", "pause", "early") == (
        0, "early is paused; no worker has the code now, whoever starts obeys\n", "",
    )  # fmt: skip
    assert (mode_of(console, "early"), mode_of(console, "late")) == ("paused", "live")
    assert [line.split()[2] for line in console("agents", "ls").out.splitlines()] == ["mode", "paused", "live"]
    assert console("agents", "pause", "early").status == 0
    assert console("agents", "resume", "early").out.startswith("early is live;")
    assert mode_of(console, "early") == "live"


def test_no_bucket_is_made_where_no_worker_ever_was(console: Console) -> None:
    registered(console, Scripted(writer="early"))
    console("agents", "pause", "early")
    assert asyncio.run(console.transport.streams("KV_SOJOURN_leases")) == []


def test_workers_that_do_not_acknowledge_are_named(console: Console) -> None:
    registered(console, Scripted(writer="early"), Scripted(writer="late"))
    obedient = session(console, "obedient", ["early"], ["early"])
    slow = session(console, "slow", ["early", "late"], ["early", "late"])
    session(console, "elsewhere", ["late"], ["late"])
    ended = console("agents", "pause", "early", "--timeout", "0")
    assert (ended.status, ended.out) == (5, "")
    summary, *named = ended.err.splitlines()
    assert "early is set to paused, but 2 of 2 workers did not acknowledge it within 0 s" in summary
    assert [line.split()[1] for line in named] == ["obedient", "slow"]
    assert all("(host " in line and ", pid " in line for line in named)
    assert mode_of(console, "early") == "paused"

    async def obey(one: Session) -> None:
        modes = await Registry(await console.transport.bucket(NAMESPACE.bucket("registry"))).modes()
        one.modes["early"] = modes["early"].revision
        await one.renew()

    asyncio.run(obey(obedient))
    ended = console("agents", "pause", "early", "--timeout", "0", "-o", "json")
    assert ended.status == 5
    document = json.loads(ended.out)
    assert document["schema"] == "sojourn.agent-modes/1"
    assert document["agents"] == [{"name": "early", "group": "early", "changed": False}]
    assert [(one["worker"], one["acknowledged"]) for one in document["workers"]] == [
        ("obedient", True), ("slow", False),
    ]  # fmt: skip
    assert document["acknowledged"] is False
    asyncio.run(obey(slow))
    assert console("agents", "pause", "early") == (0, "early is paused; 2 workers acknowledged it\n", "")
    document = json.loads(console("agents", "pause", "early", "-o", "jsonl").out)
    assert (document["mode"], document["acknowledged"], document["gone"]) == ("paused", True, [])


@pytest.mark.parametrize(
    ("groups", "writers"),
    [([], ["early"]), (["early"], [])],
    ids=["it is leaving, and its last handlers run", "it has just begun"],
)
def test_who_may_still_store_something_is_waited_for(console: Console, groups: list[str], writers: list[str]) -> None:
    registered(console, Scripted(writer="early"))
    session(console, "uncertain", groups, writers)
    ended = console("agents", "pause", "early", "--timeout", "0")
    assert (ended.status, "uncertain" in ended.err) == (5, True)


def test_a_worker_whose_session_ends_meanwhile_counts_no_more_and_is_told_of(console: Console) -> None:
    from sojourn.console.pausing import change, choose

    registered(console, Scripted(writer="early"))
    leaving = session(console, "leaving", ["early"], ["early"])

    async def pause() -> None:
        async with open_bus(console.transport, NAMESPACE, clock=WallClock()) as bus:
            agents = await choose(bus.registry, "early", everyone=False)
            pausing = asyncio.create_task(change(bus, agents, "paused", seconds=30))
            while (await bus.registry.require_agent("early")).mode == "live":  # noqa: ASYNC110
                await asyncio.sleep(0)
            await leaving.end()
            outcome = await pausing
            assert (outcome.workers, [one.worker for one in outcome.gone]) == ((), ["leaving"])

    asyncio.run(pause())


def test_an_agent_that_shares_its_group_is_not_paused_alone(console: Console) -> None:
    registered(
        console, Scripted(writer="mail", group="outreach"), Scripted(writer="call", group="outreach"),
        Scripted(writer="own"),
    )  # fmt: skip
    for command in (["pause", "mail"], ["resume", "mail"], ["mode", "mail", "paused"]):
        refused = console("agents", *command)
        assert (refused.status, refused.out, refused.err.count("\n")) == (1, "", 1)
        for hint in ("'outreach'", "call", "--all", "group of its own"):
            assert hint in refused.err
    assert mode_of(console, "mail") == "live"
    assert console("agents", "pause", "mail", "--all").out.startswith("call, mail are paused;")
    assert [mode_of(console, name) for name in ("mail", "call", "own")] == ["paused", "paused", "live"]
    assert console("agents", "mode", "--all", "paused").status == 0
    assert mode_of(console, "own") == "paused"
    assert console("agents", "resume", "--all").status == 0
    assert {mode_of(console, name) for name in ("mail", "call", "own")} == {"live"}


def test_a_new_version_keeps_the_mode(console: Console) -> None:
    registered(console, Scripted(writer="early"))
    assert console("agents", "mode", "early", "paused").status == 0
    registered(console, Scripted(writer="early", version=2))
    assert mode_of(console, "early") == "paused"


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["pause"], 2, "--all"),
        (["pause", "nobody"], 3, "no agent named 'nobody'"),
        (["pause", "no.name"], 2, "no.name"),
        (["mode", "early"], 2, "no mode"),
        (["mode"], 2, "live or paused"),
        (["mode", "early", "shadow"], 2, "not known yet"),
        (["mode", "early", "canary"], 2, "not known yet"),
        (["mode", "early", "later", "live"], 2, "live or paused"),
        (["mode", "live"], 2, "--all"),
        (["pause", "early", "--timeout", "-1"], 2, "--timeout"),
    ],
)
def test_what_is_refused(console: Console, arguments: list[str], status: int, said: str) -> None:
    registered(console, Scripted(writer="early"))
    ended = console("agents", *arguments)
    assert (ended.status, said in ended.err) == (status, True), ended.err
    assert mode_of(console, "early") == "live"


def test_all_of_none(console: Console) -> None:
    console.make()
    ended = console("agents", "pause", "--all")
    assert (ended.status, ended.out) == (0, "")
    assert "no agent is registered" in ended.err
