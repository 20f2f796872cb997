from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest

from sojourn.bus.memory import MemoryTransport
from sojourn.bus.ports import Append, Receipt, Stored, StreamSpec
from sojourn.bus.registry import Registration, Registry
from sojourn.bus.subjects import Namespace
from sojourn.bus.timers import VirtualTimers
from sojourn.console.moments import BEGINNING
from sojourn.console.stream import Selection, show_stream

NS = Namespace("sojourn", 4, 2)


class Asked(MemoryTransport):
    """Knows by which filters it was read."""

    def __init__(self) -> None:
        super().__init__(VirtualTimers())
        self.asked: list[str] = []

    def follow(
        self, stream: str, filter: str, *, start: int | datetime = 1, end: int | None = None
    ) -> AsyncGenerator[list[Stored], None]:
        self.asked.append(filter)
        return super().follow(stream, filter, start=start, end=end)


@asynccontextmanager
async def log() -> AsyncIterator[Asked]:
    transport = Asked()
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


def test_an_agents_own_actions_are_a_filter_of_their_own() -> None:
    assert chosen(["a"]).filter(NS, own=True) == "sojourn.log.*.*.act.a.*"
    assert chosen(["a"], ["c1"], ["T"]).filter(NS, own=True).endswith(".c1.act.a.T")


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


async def register(transport: MemoryTransport, name: str, relays: Sequence[str] = ()) -> Registry:
    bucket = await transport.bucket(NS.bucket("registry"))
    writer = Registration(
        kind="agent", name=name, version=1, group=name, reference="", handles=[], folds=[], publishes=["T"],
        relays=list(relays), registered=datetime.now(UTC),
    )  # fmt: skip
    await bucket.put(f"writer.{name}", writer.model_dump_json().encode())
    return Registry(bucket)


@pytest.mark.parametrize(
    ("relays", "filter"), [([], "sojourn.log.*.*.act.a.*"), (["T"], "sojourn.log.*.*.act.*.*")], ids=["own", "relayed"]
)
async def test_the_server_sends_an_agents_own_actions_alone_where_it_can(relays: Sequence[str], filter: str) -> None:
    written = [("c1", "a"), ("c2", "b"), ("c3", "ab"), *([("c2", "a~c1"), ("c4", "b~c1")] if relays else [])]
    async with log() as transport:
        registry = await register(transport, "a", relays)
        await register(transport, "b", ["T"])
        for key, writer in written:
            await act(transport, key, writer, "T")
        shown = Shown()
        await show_stream(transport, NS, chosen(["a"]), shown, since=BEGINNING, follow=False, registry=registry)
        assert [key for key, _ in shown.told()] == (["c1", "c2"] if relays else ["c1"])
        assert set(transport.asked) == {filter}


async def test_an_agent_that_begins_to_act_for_others_is_followed_there() -> None:
    async with log() as transport:
        registry = await register(transport, "a")
        shown = Shown()
        following = asyncio.create_task(
            show_stream(transport, NS, chosen(["a"]), shown, since=BEGINNING, follow=True, registry=registry)
        )
        await act(transport, "c1", "a", "T")
        await shown.until(1)
        # Declared first, as always; what is stored before the watching one hears of it counts all the same.
        await register(transport, "a", ["T"])
        for key, writer in [("c2", "a~c1"), ("c3", "b~c1"), ("c4", "a")]:
            await act(transport, key, writer, "T")
        await shown.until(3)
        await act(transport, "c5", "a~c1", "T")
        await act(transport, "c6", "a", "T")
        await shown.until(5)
        await asyncio.sleep(0)
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        assert sorted(key for key, _ in shown.told()) == ["c1", "c2", "c4", "c5", "c6"]


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
