"""What streams and buckets on every transport adapter have to do."""

from __future__ import annotations

import asyncio

import pytest

from sojourn.bus.errors import (
    ConcurrencyError,
    ConfigurationError,
    PermanentError,
)
from sojourn.bus.ports import (
    Append,
    Entry,
    Receipt,
    StreamSpec,
)
from tests.bus.arena import Arena, ascending, eventually


class StreamContract:
    """`Streams` and `Bucket`."""

    async def test_create_stream_is_idempotent_and_refuses_other_subjects(self, arena: Arena) -> None:
        transport = arena.transport
        name = f"{arena.stream}-X"
        spec = StreamSpec(name, (f"{arena.ns}x.a.>", f"{arena.ns}x.b.>"), metadata={"partitions": "32"})
        await transport.create_stream(spec)
        await transport.commit(name, [Append(f"{arena.ns}x.a.b", b"")])
        await transport.create_stream(StreamSpec(name, spec.subjects[::-1]))
        state = await transport.stream_state(name)
        assert state == (1, 1, 1, {"partitions": "32"})
        with pytest.raises(ConfigurationError, match=f"{arena.ns}x.b.>.* instead of .*{arena.ns}x.c.>"):
            await transport.create_stream(StreamSpec(name, (f"{arena.ns}x.c.>",)))
        with pytest.raises(ConfigurationError, match="overlap"):
            await transport.create_stream(StreamSpec(f"{name}-Y", (f"{arena.ns}x.*.b",)))
        with pytest.raises(ConfigurationError, match="cannot name"):
            await transport.create_stream(StreamSpec("a.b", (f"{arena.ns}y.>",)))
        assert await transport.streams(arena.stream) == [arena.stream, name]
        await transport.delete_stream(name)
        await transport.delete_stream(name)
        assert await transport.streams(arena.stream) == [arena.stream]

    async def test_a_stream_of_foreign_documents(self, arena: Arena) -> None:
        name = f"{arena.stream}-IN"
        await arena.transport.create_stream(StreamSpec(name, (f"{arena.ns}.in.>",), log=False))
        told: list[Receipt | Exception] = []
        arena.transport.send(name, Append(f"{arena.ns}.in.Seen", b"1"), told.append)
        await eventually(lambda: told)
        assert told == [Receipt(1)]
        await arena.transport.delete_stream(name)

    async def test_stream_state_and_deleting_messages(self, arena: Arena) -> None:
        assert await arena.state() == (1, 0, 0)
        await arena.send(*(arena.event("k") for _ in range(200)))
        assert await arena.state() == (1, 200, 200)
        await arena.transport.delete_messages(arena.stream, [*range(1, 151), 160, 160, 999])
        assert await arena.state() == (151, 200, 49)
        assert await arena.transport.get(arena.stream, 160) is None
        assert ascending(await arena.read("log.1.k.>"))[:11] == [*range(151, 160), 161, 162]
        await arena.transport.delete_messages(arena.stream, range(1, 201))
        assert await arena.state() == (201, 200, 0)
        assert await arena.transport.last(arena.stream, f"{arena.ns}.log.1.k.>") is None
        assert await arena.send(arena.event("k")) == [Receipt(201)]

    async def test_a_bucket_keeps_the_newest_value(self, arena: Arena) -> None:
        bucket = await arena.transport.bucket(f"{arena.stream}-B")
        assert await bucket.get("a.b") is None
        first = await bucket.put("a.b", b"1")
        second = await bucket.put("a.b", b"")
        assert second > first
        assert await bucket.get("a.b") == Entry("a.b", b"", second)
        await bucket.delete("a.b")
        await bucket.delete("a.b")
        await bucket.delete("never")
        assert await bucket.get("a.b") is None
        assert await (await arena.transport.bucket(f"{arena.stream}-B")).get("a.b") is None

    async def test_expected_revisions(self, arena: Arena) -> None:
        bucket = await arena.transport.bucket(f"{arena.stream}-B")
        first = await bucket.put("k", b"1", expect=0)
        await bucket.put("other", b"")
        for wrong in (0, first + 1, 77):
            with pytest.raises(ConcurrencyError) as refusal:
                await bucket.put("k", b"no", expect=wrong)
            assert (refusal.value.expected, refusal.value.actual) == (wrong, first)
            with pytest.raises(ConcurrencyError):
                await bucket.delete("k", expect=wrong)
        second = await bucket.put("k", b"2", expect=first)
        await bucket.delete("k", expect=second)
        with pytest.raises(ConcurrencyError):
            await bucket.put("k", b"no", expect=second)
        with pytest.raises(ConcurrencyError):
            await bucket.delete("k", expect=second)
        await bucket.delete("k", expect=0)
        third = await bucket.put("k", b"3", expect=0)
        assert await bucket.get("k") == Entry("k", b"3", third)

    async def test_of_many_that_race_one_wins(self, arena: Arena) -> None:
        bucket = await arena.transport.bucket(f"{arena.stream}-B")
        for expect in (0, await bucket.put("second", b"")):
            key = "second" if expect else "first"
            results = await asyncio.gather(
                *(bucket.put(key, b"%d" % n, expect=expect) for n in range(20)), return_exceptions=True
            )
            won = [(n, result) for n, result in enumerate(results) if isinstance(result, int)]
            assert len(won) == 1
            assert all(isinstance(result, int | ConcurrencyError) for result in results)
            assert await bucket.get(key) == Entry(key, b"%d" % won[0][0], won[0][1])

    async def test_entries_are_ordered_living_and_chosen_by_prefix(self, arena: Arena) -> None:
        bucket = await arena.transport.bucket(f"{arena.stream}-B")
        assert await bucket.entries() == []
        for n in range(1_200):
            key = f"{'ab'[n % 2]}.x{n:04d}"
            if n < 30:
                await bucket.put(key, b"old")
        await asyncio.gather(*(bucket.put(f"{'ab'[n % 2]}.x{n:04d}", b"%d" % n) for n in range(1_200)))
        await bucket.delete("a.x0002")
        await bucket.put("ab", b"")
        entries = await bucket.entries("a.x00")
        assert [entry.key for entry in entries] == [f"a.x{n:04d}" for n in range(0, 100, 2) if n != 2]
        assert entries[0].value == b"0"
        assert [entry.key for entry in await bucket.entries("a")][-2:] == ["a.x1198", "ab"]
        assert len(await bucket.entries()) == 1_200
        assert await bucket.entries("c") == []

    @pytest.mark.parametrize("key", ["", ".", "a.", ".a", "a..b", "a b", "*", ">", "ключ"], ids=ascii)
    async def test_bad_keys_are_refused(self, arena: Arena, key: str) -> None:
        bucket = await arena.transport.bucket(f"{arena.stream}-B")
        for asked in (bucket.get(key), bucket.put(key, b""), bucket.delete(key)):
            with pytest.raises(PermanentError):
                await asked

    async def test_watch_brings_what_is_there_and_then_every_change(self, arena: Arena) -> None:
        bucket = await arena.transport.bucket(f"{arena.stream}-B")
        await bucket.put("p.gone", b"")
        await bucket.delete("p.gone")
        there = await bucket.put("p.there", b"1")
        await bucket.put("q.else", b"")
        seen: list[Entry] = []

        async def watch() -> None:
            async for entry in bucket.watch("p."):
                seen.append(entry)  # noqa: PERF401 - watched while it grows

        watching = asyncio.create_task(watch())
        await eventually(lambda: seen == [Entry("p.there", b"1", there)])
        new = await bucket.put("p.new", b"2")
        await eventually(lambda: seen[-1] == Entry("p.new", b"2", new))
        await bucket.put("q.else", b"")
        await bucket.delete("p.there")
        await eventually(lambda: len(seen) == 3)
        assert seen[-1][:2] == ("p.there", None) and seen[-1].revision > new
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
