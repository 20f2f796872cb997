"""One event that its handler fails at, or dies of: it becomes a dead letter, and all others are handled once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sojourn.bus.delivery.probation import ATTEMPTS, CRASHES
from tests.nats_server import NatsServer
from tests.prove.keeping import SERVER, keep
from tests.prove.points import Stage, stage
from tests.prove.poison import BROKEN, DEADLY
from tests.prove.rawlog import Record, Verdict, read_log

DEATHS = CRASHES + ATTEMPTS
"""Processes that an event may end: so many until it is under suspicion, and one for each attempt under witness."""


@pytest.fixture(scope="module")
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    server = NatsServer(tmp_path_factory.mktemp("poison")).start()
    yield server
    server.stop()


async def test_an_event_that_ends_its_process_is_given_up_after_six_deaths(
    own_server: NatsServer, tmp_path: Path
) -> None:
    async with stage(own_server, tmp_path, "deadly", "tests.prove.poison") as there:
        await there.publish(150)
        poisonous = await there.publish_one("poisonous", note=DEADLY)
        await there.publish(150)
        deaths = -1
        async with asyncio.timeout(90):
            while await there.actions() < there.deserving - 1 or not await _letters(own_server, there):
                if not there.workers or there.workers[-1].status is not None:
                    deaths += 1
                    assert all(worker.status == -9 for worker in there.workers)
                    assert deaths <= DEATHS, there.workers[-1].tail()
                    there.start()
                await asyncio.sleep(0.05)
        # The last of them lives: the event was not run once more.
        await there.publish(50)
        await there.handled(but=1)
        assert deaths == DEATHS == 6
        [letter] = await _letters(own_server, there)
        assert (letter["id"], letter["attempts"]) == (poisonous, DEATHS)
        _judge(await there.verdict(), there, poisonous)


async def _one_that_fails(server: NatsServer, folder: Path, events: int) -> Verdict:
    async with stage(server, folder, f"broken{events}", "tests.prove.poison") as there:
        there.start()
        await there.publish(events // 2, customers=events // 10)
        poisonous = await there.publish_one("poisonous", note=BROKEN)
        await there.publish(events - events // 2 - 1, customers=events // 10)
        await there.handled(600, but=1)
        async with asyncio.timeout(60):
            while not (letters := await _letters(server, there)):  # noqa: ASYNC110 - another process sets no event
                await asyncio.sleep(0.1)
        [letter] = letters
        assert letter["id"] == poisonous and letter["error"] == "KeyError"
        verdict = await there.verdict()
        assert verdict.events == events
        _judge(verdict, there, poisonous)
        return verdict


async def test_one_that_fails_among_a_thousand_is_one_dead_letter(own_server: NatsServer, tmp_path: Path) -> None:
    await _one_that_fails(own_server, tmp_path, 1_000)


@pytest.mark.prove
async def test_one_that_fails_among_ten_thousand_is_one_dead_letter(own_server: NatsServer, tmp_path: Path) -> None:
    started = time.monotonic()
    verdict = await _one_that_fails(own_server, tmp_path, 10_000)
    seconds = round(time.monotonic() - started, 1)
    keep("poison", {"server": SERVER, "log": verdict.figures(), "lost_is_the_dead_letter": True, "seconds": seconds})


def _judge(verdict: Verdict, there: Stage, poisonous: str) -> None:
    """All is as if the one event were not there, but for its dead letter."""
    assert verdict.dead == 1
    assert [one.split()[1] for one in verdict.lost] == [poisonous]
    verdict.dead, verdict.lost = 0, []
    assert verdict.clean, verdict
    assert verdict.actions == verdict.deserving - 1 == there.deserving - 1 > 0


async def _letters(server: NatsServer, there: Stage) -> list[dict[str, Any]]:
    logs = await read_log(server.url, there.namespace)
    dead: list[Record] = [record for log in logs.values() for record in log if record.subject.endswith(".dead")]
    return [record.document for record in dead]
