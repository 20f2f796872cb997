"""What reading, following and scheduling on every transport adapter have to do."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from datetime import UTC, datetime, timedelta

import pytest

from sojourn.bus.errors import (
    ConcurrencyError,
    NotFoundError,
    PermanentError,
    UnavailableError,
)
from sojourn.bus.ports import (
    Append,
    Schedule,
    Stored,
)
from tests.bus.arena import DEADLINE, Arena, ascending, gather


class ReadingContract:
    """`Log.last`, `get`, `read`, `follow`, and schedules."""

    async def test_last_and_get(self, arena: Arena) -> None:
        before = datetime.now(UTC)
        await arena.send(arena.event("a", payload=b"\x00\xff"), arena.event("b"), arena.action("a", 0))
        transport, stream, ns = arena.transport, arena.stream, arena.ns
        assert await transport.last(stream, f"{ns}.log.*.a.evt.>") == await transport.get(stream, 1)
        newest = await transport.last(stream, f"{ns}.>")
        assert newest is not None and newest.sequence == 3 and newest.subject == f"{ns}.log.1.a.act.w.Done"
        assert await transport.last(stream, f"{ns}.log.1.nobody.>") is None
        for sequence in (0, 4):
            assert await transport.get(stream, sequence) is None
        first = await transport.get(stream, 1)
        assert first is not None and first.payload == b"\x00\xff"
        stored_at = datetime.fromtimestamp(first.timestamp / 1e9, UTC)
        assert abs(stored_at - before) < timedelta(seconds=DEADLINE)

    async def test_last_sees_what_was_just_stored(self, arena: Arena) -> None:
        for n in range(1, 30):
            await arena.transport.commit(arena.stream, [arena.action("k", n - 1)])
            tail = await arena.transport.last(arena.stream, f"{arena.ns}.*.1.k.act.w.>")
            assert tail is not None and tail.sequence == n

    async def test_read_brings_everything_page_by_page(self, arena: Arena) -> None:
        for part in range(5):
            batch = [arena.event(f"k{n % 2}", payload=b"%d" % (part * 500 + n)) for n in range(500)]
            await arena.transport.commit(arena.stream, batch)
        every = await arena.read("log.>")
        assert ascending(every) == list(range(1, 2_501))
        assert [stored.payload for stored in every] == [b"%d" % n for n in range(2_500)]
        assert ascending(await arena.read("log.1.k1.>")) == list(range(2, 2_501, 2))
        assert ascending(await arena.read("log.*.k0.evt.>", start=100, limit=3)) == [101, 103, 105]
        assert len(await arena.read("log.>", limit=1_500)) == 1_500
        assert ascending(await arena.read("log.>", start=2_500)) == [2_500]
        assert await arena.read("log.>", start=2_501) == []
        assert await arena.read("log.1.nobody.>") == []

    async def test_read_is_not_cut_by_bytes(self, arena: Arena) -> None:
        large = bytes(512 * 1024)
        await arena.send(*(arena.event("k", payload=large) for _ in range(40)))
        assert [len(stored.payload) for stored in await arena.read("log.1.k.>")] == [len(large)] * 40

    async def test_read_ends_with_the_message_that_reaches_its_size(self, arena: Arena) -> None:
        await arena.send(*(arena.event(f"k{n % 2}", payload=bytes(100_000)) for n in range(20)))
        for size, count in ((1, 1), (100_000, 1), (100_001, 2), (250_000, 3), (10_000_000, 10)):
            assert ascending(await arena.read("log.1.k1.>", size=size)) == list(range(2, 2 * count + 1, 2))
        assert ascending(await arena.read("log.1.k1.>", start=15, limit=2, size=10_000_000)) == [16, 18]
        assert ascending(await arena.read("log.1.k1.>", start=15, limit=5, size=150_000)) == [16, 18]

    async def test_a_missing_stream_is_named(self, arena: Arena) -> None:
        transport = arena.transport
        for asked in (
            transport.last("NOT-THERE", "a.>"),
            transport.get("NOT-THERE", 1),
            transport.read("NOT-THERE", "a.>"),
            gather(transport.follow("NOT-THERE", "a.>")),
            transport.delete_messages("NOT-THERE", [1]),
            transport.purge("NOT-THERE", 1),
            transport.ensure_consumer("NOT-THERE", "c", "a.>", start=1, max_ack_pending=1),
        ):
            with pytest.raises(NotFoundError):
                await asked
        with pytest.raises(UnavailableError):
            await transport.commit("NOT-THERE", [Append("nobody.a", b""), Append("nobody.b", b"")])
        assert await transport.stream_state("NOT-THERE") is None
        assert await transport.consumer_lag("NOT-THERE", "c") is None
        await transport.delete_stream("NOT-THERE")

    async def test_follow_ends_after_its_end(self, arena: Arena) -> None:
        await arena.transport.commit(arena.stream, [arena.event(f"k{n % 2}") for n in range(1_000)])
        follow, ns = arena.transport.follow, arena.ns
        assert ascending(await gather(follow(arena.stream, f"{ns}.>", end=1_000))) == list(range(1, 1_001))
        assert ascending(await gather(follow(arena.stream, f"{ns}.log.1.k1.>", start=990, end=997))) == [
            990, 992, 994, 996,
        ]  # fmt: skip
        # The end itself need not match, nor anything at all, nor anything below it.
        assert ascending(await gather(follow(arena.stream, f"{ns}.log.1.k1.>", start=996, end=999))) == [996, 998]
        assert await gather(follow(arena.stream, f"{ns}.log.1.nobody.>", end=1_000)) == []
        assert await gather(follow(arena.stream, f"{ns}.log.1.k1.>", start=999, end=999)) == []
        assert await gather(follow(arena.stream, f"{ns}.>", start=11, end=10)) == []
        assert await gather(follow(arena.stream, f"{ns}.>", end=0)) == []

    async def test_follow_waits_for_an_end_in_the_future(self, arena: Arena) -> None:
        await arena.send(arena.event("a"))
        following = asyncio.create_task(gather(arena.transport.follow(arena.stream, f"{arena.ns}.log.1.a.>", end=4)))
        for key in ("b", "a", "b"):
            assert not following.done()
            await arena.send(arena.event(key))
        assert ascending(await following) == [1, 3]

    async def test_follow_goes_on_with_what_comes(self, arena: Arena) -> None:
        await arena.send(*(arena.event("a") for _ in range(10)))
        async with aclosing(arena.transport.follow(arena.stream, f"{arena.ns}.log.*.*.act.>", start=3)) as batches:
            following = asyncio.create_task(gather(batches, 300))
            for n in range(300):
                await arena.send(arena.action(f"k{n}", 0), arena.event("a"))
            assert ascending(await following) == list(range(11, 611, 2))

    async def test_follow_from_a_moment(self, arena: Arena) -> None:
        await arena.send(arena.event("a"), arena.event("b"))
        await asyncio.sleep(0.002)  # so that the next timestamp differs whatever the clock's resolution
        await arena.send(arena.event("a"), arena.event("b"))
        third = await arena.transport.get(arena.stream, 3)
        assert third is not None
        moment = datetime.fromtimestamp(0, UTC) + timedelta(microseconds=third.timestamp // 1_000)
        follow = arena.transport.follow
        assert ascending(await gather(follow(arena.stream, f"{arena.ns}.>", start=moment, end=4))) == [3, 4]
        early = datetime(2000, 1, 1, tzinfo=UTC)
        assert ascending(await gather(follow(arena.stream, f"{arena.ns}.>", start=early, end=4))) == [1, 2, 3, 4]
        late = datetime.now(UTC) + timedelta(days=1)
        assert await gather(follow(arena.stream, f"{arena.ns}.>", start=late, end=4)) == []

    async def test_follow_says_that_its_stream_was_deleted(self, arena: Arena) -> None:
        await arena.send(arena.event("a"))
        follow = arena.transport.follow(arena.stream, f"{arena.ns}.>")
        async with asyncio.timeout(DEADLINE), aclosing(follow) as batches:
            assert ascending(await anext(batches)) == [1]
            await arena.transport.delete_stream(arena.stream)
            with pytest.raises(NotFoundError):
                await anext(batches)

    async def test_a_schedule_fires_into_its_target_once_due(self, arena: Arena) -> None:
        at = datetime.now(UTC) + timedelta(seconds=1)
        target = f"{arena.ns}.log.1.k.evt.due.w.t"
        schedule = Append(f"{arena.ns}.timer.1.k.w.t", b"wake", schedule=Schedule(at, target))
        await arena.transport.commit(arena.stream, [schedule, arena.event("k")])
        assert await arena.transport.last(arena.stream, target) is None
        fired = await self.fired(arena, target, at)
        assert (fired.subject, fired.payload) == (target, b"wake")

    async def test_a_past_schedule_fires_at_once(self, arena: Arena) -> None:
        at = datetime.now(UTC) - timedelta(days=1)
        target = f"{arena.ns}.log.1.k.evt.due.w.t"
        await arena.send(Append(f"{arena.ns}.timer.1.k.w.t", b"wake", schedule=Schedule(at, target)))
        assert (await self.fired(arena, target, at)).payload == b"wake"

    async def test_a_later_schedule_replaces_and_unschedule_drops(self, arena: Arena) -> None:
        at = datetime.now(UTC) + timedelta(seconds=1)
        due = f"{arena.ns}.log.1.k.evt.due.w"

        def timer(name: str, payload: bytes, moment: datetime) -> Append:
            return Append(f"{arena.ns}.timer.1.k.w.{name}", payload, schedule=Schedule(moment, f"{due}.{name}"))

        await arena.send(timer("replaced", b"old", at), timer("dropped", b"no", at), timer("kept", b"", at))
        await arena.transport.commit(
            arena.stream,
            [
                timer("replaced", b"new", at),
                Append(f"{arena.ns}.lane.1.k.act.w.out", b"", unschedule=f"{arena.ns}.timer.1.k.w.dropped"),
            ],
        )
        await arena.send(timer("last", b"", at + timedelta(seconds=1)))
        await self.fired(arena, f"{due}.last", at + timedelta(seconds=1))
        fired = sorted((stored.subject, stored.payload) for stored in await arena.read("log.1.k.evt.due.>"))
        assert fired == [(f"{due}.kept", b""), (f"{due}.last", b""), (f"{due}.replaced", b"new")]

    async def test_a_refused_batch_sets_no_timer(self, arena: Arena) -> None:
        at = datetime.now(UTC) + timedelta(seconds=0.5)
        due = f"{arena.ns}.log.1.k.evt.due.w"
        refused = Append(f"{arena.ns}.timer.1.k.w.no", b"", schedule=Schedule(at, f"{due}.no"))
        with pytest.raises(ConcurrencyError):
            await arena.transport.commit(arena.stream, [refused, arena.action("k", 9)])
        with pytest.raises(PermanentError, match="twice"):
            await arena.transport.commit(arena.stream, [refused, refused])
        later = at + timedelta(seconds=1)
        await arena.send(Append(f"{arena.ns}.timer.1.k.w.yes", b"", schedule=Schedule(later, f"{due}.yes")))
        await self.fired(arena, f"{due}.yes", later)
        assert len(await arena.read("log.1.k.evt.due.>")) == 1

    async def fired(self, arena: Arena, target: str, at: datetime) -> Stored:
        await arena.advance(at)
        async with asyncio.timeout(DEADLINE):
            while (found := await arena.transport.last(arena.stream, target)) is None:  # noqa: ASYNC110 - the server fires
                await asyncio.sleep(0.02)
        return found
