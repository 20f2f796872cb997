from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest

from sojourn.bus.memory import MemoryTransport
from sojourn.bus.ports import Append, Receipt, Stored, StreamSpec
from sojourn.bus.subjects import Namespace
from sojourn.bus.timers import VirtualTimers
from sojourn.console.moments import BEGINNING
from sojourn.console.stream import Selection, show_stream

NS = Namespace("sojourn", 4, 2)


@asynccontextmanager
async def log() -> AsyncIterator[MemoryTransport]:
    transport = MemoryTransport(VirtualTimers())
    for shard in range(NS.shards):
        await transport.create_stream(StreamSpec(NS.shard_stream(shard), NS.stream_subjects(shard)))
    yield transport
    await transport.close()


async def act(transport: MemoryTransport, key: str, agent: str, type: str, payload: bytes = b"{}") -> int:
    done: asyncio.Future[Receipt | Exception] = asyncio.get_running_loop().create_future()
    at = NS.locate(key)
    transport.send(at.stream, Append(NS.action(at, agent, type), payload), done.set_result)
    receipt = await done
    assert isinstance(receipt, Receipt)
    return receipt.sequence


def chosen(agents: Sequence[str] = (), customers: Sequence[str] = (), types: Sequence[str] = ()) -> Selection:
    return Selection(frozenset(agents), frozenset(customers), frozenset(types))


@pytest.mark.parametrize(
    ("selection", "filter"),
    [
        (chosen(), "sojourn.log.*.*.act.*.*"),
        (chosen(["a"]), "sojourn.log.*.*.act.*.*"),
        (chosen(["a"], types=["T"]), "sojourn.log.*.*.act.*.T"),
        (chosen(["a", "b"], types=["T"]), "sojourn.log.*.*.act.*.T"),
        (chosen(customers=["c.1"]), f"sojourn.log.{NS.locate('c.1').partition}.c=2E1.act.*.*"),
        (chosen(["a"], ["c1"], ["T"]), f"sojourn.log.{NS.locate('c1').partition}.c1.act.*.T"),
    ],
)
def test_a_selection_is_one_filter(selection: Selection, filter: str) -> None:
    assert selection.filter(NS) == filter


def test_a_customer_is_looked_for_in_one_stream() -> None:
    assert chosen(customers=["c1"]).streams(NS) == [NS.locate("c1").stream]
    assert chosen().streams(NS) == NS.streams


class Shown(list[tuple[str, Stored]]):
    def __call__(self, stream: str, stored: Stored) -> None:
        self.append((stream, stored))

    async def until(self, count: int) -> None:
        async with asyncio.timeout(10):
            while len(self) < count:  # noqa: ASYNC110 - a condition, with a deadline
                await asyncio.sleep(0.001)

    def told(self) -> list[tuple[str, str]]:
        return [(tokens[3], tokens[6]) for tokens in (stored.subject.split(".") for _, stored in self)]


async def test_history_of_all_shards_is_merged_in_the_order_of_storing() -> None:
    async with log() as transport:
        for number in range(40):
            await act(transport, f"c{number}", "a", f"T{number}")
        shown = Shown()
        await show_stream(transport, NS, chosen(), shown, since=BEGINNING, follow=False)
        assert shown.told() == [(f"c{number}", f"T{number}") for number in range(40)]
        assert len({stream for stream, _ in shown}) == 2


async def test_what_the_filter_cannot_say_is_chosen_here() -> None:
    async with log() as transport:
        for key, agent, type in [
            ("c1", "a", "T"),
            ("c2", "b", "T"),
            ("c3", "c", "T"),
            ("c1", "a", "U"),
            ("c9", "a", "V"),
        ]:
            await act(transport, key, agent, type)
        shown = Shown()
        selection = chosen(["a", "b"], ["c1", "c2", "c3"], ["T", "U"])
        await show_stream(transport, NS, selection, shown, since=BEGINNING, follow=False)
        assert shown.told() == [("c1", "T"), ("c2", "T"), ("c1", "U")]


async def test_what_an_agent_did_for_others_is_its_own() -> None:
    async with log() as transport:
        for key, writer in [("c1", "a"), ("c2", "a~c1"), ("c3", "ab~c1"), ("c1", "a~c=2E9")]:
            await act(transport, key, writer, "T")
        shown = Shown()
        await show_stream(transport, NS, chosen(["a"]), shown, since=BEGINNING, follow=False)
        assert shown.told() == [("c1", "T"), ("c2", "T"), ("c1", "T")]


async def test_behaviour_and_lanes_are_no_actions() -> None:
    async with log() as transport:
        at = NS.locate("c1")
        for subject in (NS.event(at, "CartAbandoned"), NS.record(at, "a", "out"), NS.due(at, "a", "t")):
            await transport.commit(at.stream, [Append(subject, b"{}")])
        shown = Shown()
        await show_stream(transport, NS, chosen(), shown, since=BEGINNING, follow=False)
        assert shown == []


@pytest.mark.parametrize("since", [None, BEGINNING])
async def test_history_and_the_present_meet_without_gap_or_repetition(since: datetime | None) -> None:
    async with log() as transport:
        for number in range(20):
            await act(transport, f"c{number}", "a", "Before")
        shown = Shown()
        writing = asyncio.Event()

        def show(stream: str, stored: Stored) -> None:
            shown(stream, stored)
            writing.set()  # while history is still being shown

        following = asyncio.create_task(show_stream(transport, NS, chosen(), show, since=since, follow=True))
        if since is None:
            await asyncio.sleep(0.05)  # nothing shows that it has begun: what comes before that is not its business
        else:
            await asyncio.wait_for(writing.wait(), 10)
        for number in range(20, 40):
            await act(transport, f"c{number}", "a", "After")
        await shown.until(20 if since is None else 40)
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        keys = [key for key, _ in shown.told()]
        assert sorted(keys) == sorted(f"c{number}" for number in range(20 if since is None else 0, 40))


async def test_since_now_there_is_nothing() -> None:
    async with log() as transport:
        await act(transport, "c1", "a", "T")
        shown = Shown()
        moment = datetime.now(UTC) + timedelta(seconds=5)
        await asyncio.wait_for(show_stream(transport, NS, chosen(), shown, since=moment, follow=False), 10)
        assert shown == []


async def test_a_show_that_fails_ends_the_stream() -> None:
    def fail(stream: str, stored: Stored) -> None:
        raise ZeroDivisionError

    async with log() as transport:
        await act(transport, "c1", "a", "T")
        with pytest.raises(ZeroDivisionError):
            await show_stream(transport, NS, chosen(), fail, since=BEGINNING, follow=True)
