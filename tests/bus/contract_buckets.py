"""What buckets on every transport adapter have to do, ordinary and erasable ones."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from sojourn.bus.errors import (
    ConcurrencyError,
    ConfigurationError,
    PermanentError,
)
from sojourn.bus.ports import (
    Bucket,
    Entry,
)
from tests.bus.arena import DEADLINE, Arena, eventually


class BucketContract:
    """`Bucket`, and `Transport.bucket`."""

    @pytest.fixture(params=[False, True], ids=["ordinary", "erasable"])
    async def bucket(self, request: pytest.FixtureRequest, arena: Arena) -> Bucket:
        return await arena.transport.bucket(f"{arena.stream}-B", erasable=request.param)

    @pytest.fixture
    async def erasable(self, arena: Arena) -> Bucket:
        return await arena.transport.bucket(f"{arena.stream}-E", erasable=True)

    async def test_a_bucket_keeps_the_newest_value(self, arena: Arena, bucket: Bucket) -> None:
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

    async def test_expected_revisions(self, bucket: Bucket) -> None:
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

    async def test_of_many_that_race_one_wins(self, bucket: Bucket) -> None:
        for expect in (0, await bucket.put("second", b"")):
            key = "second" if expect else "first"
            results = await asyncio.gather(
                *(bucket.put(key, b"%d" % n, expect=expect) for n in range(20)), return_exceptions=True
            )
            won = [(n, result) for n, result in enumerate(results) if isinstance(result, int)]
            assert len(won) == 1
            assert all(isinstance(result, int | ConcurrencyError) for result in results)
            assert await bucket.get(key) == Entry(key, b"%d" % won[0][0], won[0][1])

    async def test_entries_are_ordered_living_and_chosen_by_prefix(self, bucket: Bucket) -> None:
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
    async def test_bad_keys_are_refused(self, bucket: Bucket, key: str) -> None:
        for asked in (
            bucket.get(key),
            bucket.put(key, b""),
            bucket.delete(key),
            bucket.create({"good": b"", key: b""}),
        ):
            with pytest.raises(PermanentError):
                await asked
        assert await bucket.get("good") is None

    async def test_watch_brings_what_is_there_and_then_every_change(self, bucket: Bucket) -> None:
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

    async def test_watch_begins_with_living_values_only(self, bucket: Bucket) -> None:
        await bucket.put("gone", b"1")
        await bucket.put("gone", b"2")
        await bucket.put("there", b"1")
        await bucket.delete("gone")
        newest = await bucket.put("there", b"2")
        async with aclosing(bucket.watch()) as changes:
            async with asyncio.timeout(DEADLINE):
                assert await anext(changes) == Entry("there", b"2", newest)
                again = await bucket.put("gone", b"3")
                assert await anext(changes) == Entry("gone", b"3", again)

    async def test_create_writes_what_has_no_value(self, bucket: Bucket) -> None:
        assert await bucket.create({}) == set()
        there = await bucket.put("there", b"old")
        await bucket.put("deleted", b"old")
        await bucket.delete("deleted")
        assert await bucket.create({"there": b"new", "deleted": b"1", "a.b": b"2", "a": b""}) == {"deleted", "a.b", "a"}
        assert await bucket.get("there") == Entry("there", b"old", there)
        assert [entry[:2] for entry in await bucket.entries()] == [
            ("a", b""),
            ("a.b", b"2"),
            ("deleted", b"1"),
            ("there", b"old"),
        ]
        assert await bucket.create({"there": b"new", "a": b"new"}) == set()
        assert await bucket.create({"only": b"1"}) == {"only"}
        await bucket.delete("only")
        assert await bucket.create({"only": b"2"}) == {"only"}

    async def test_of_many_that_create_the_same_keys_each_key_has_one_creator(self, bucket: Bucket) -> None:
        # Windows that overlap by two thirds, so that every batch meets some of another's.
        makers = [{f"k{n}": b"%d" % maker for n in range(maker * 50, maker * 50 + 150)} for maker in range(8)]
        created = await asyncio.gather(*map(bucket.create, makers))
        values = {entry.key: entry.value for entry in await bucket.entries()}
        assert values == {key: b"%d" % maker for maker, keys in enumerate(created) for key in keys}
        assert set(values) == {f"k{n}" for n in range(500)}
        assert sum(map(len, created)) == 500

    async def test_thousands_of_keys_are_created_around_those_that_are_there(self, bucket: Bucket) -> None:
        there = {f"k{n}" for n in range(0, 2_500, 400)}
        for key in there:
            await bucket.put(key, b"old")
        wanted = {f"k{n}": b"new" for n in range(2_500)}
        assert await bucket.create(wanted) == set(wanted) - there
        entries = await bucket.entries()
        assert {entry.key: entry.value for entry in entries} == wanted | dict.fromkeys(there, b"old")

    async def test_erase_leaves_nothing_of_exactly_that_key(self, erasable: Bucket) -> None:
        for key in ("a", "a.b", "a.b.c", "a.bc"):
            await erasable.put(key, b"old")
            await erasable.put(key, key.encode())
        assert await erasable.erase("a.b")
        assert not await erasable.erase("a.b")
        assert not await erasable.erase("never")
        assert await erasable.get("a.b") is None
        rest = [("a", b"a"), ("a.b.c", b"a.b.c"), ("a.bc", b"a.bc")]
        assert [entry[:2] for entry in await erasable.entries()] == rest
        async with aclosing(erasable.watch()) as changes:
            async with asyncio.timeout(DEADLINE):
                assert sorted([(await anext(changes))[:2] for _ in rest]) == rest
                new = await erasable.put("a.b", b"new", expect=0)
                assert await anext(changes) == Entry("a.b", b"new", new)
        assert await erasable.get("a.b") == Entry("a.b", b"new", new)

    async def test_what_was_erased_can_be_created_again_and_not_be_written_over(self, erasable: Bucket) -> None:
        first = await erasable.put("k", b"1")
        await erasable.put("other", b"")
        assert await erasable.erase("k")
        with pytest.raises(ConcurrencyError) as refusal:
            await erasable.put("k", b"2", expect=first)
        assert (refusal.value.expected, refusal.value.actual) == (first, 0)
        await erasable.delete("k")
        assert await erasable.create({"k": b"3", "other": b"3"}) == {"k"}
        newest = await erasable.get("k")
        assert newest is not None and newest.value == b"3" and newest.revision > first

    async def test_a_deletion_can_be_erased(self, erasable: Bucket) -> None:
        await erasable.put("k", b"1")
        await erasable.delete("k")
        assert await erasable.erase("k")
        assert not await erasable.erase("k")
        assert await erasable.put("k", b"2", expect=0)

    async def test_an_erased_bucket_is_empty(self, erasable: Bucket) -> None:
        assert await erasable.create({"k": b"1", "l": b"2"}) == {"k", "l"}
        assert await erasable.erase("k") and await erasable.erase("l")
        assert await erasable.entries() == []
        assert await erasable.entries("k") == []

    async def test_who_expected_a_revision_cannot_write_after_its_erasure(self, erasable: Bucket) -> None:
        for _ in range(20):
            first = await erasable.put("k", b"1")
            written, erased = await asyncio.gather(
                erasable.put("k", b"2", expect=first), erasable.erase("k"), return_exceptions=True
            )
            assert erased is True
            assert isinstance(written, int | ConcurrencyError)
            assert await erasable.get("k") is None

    async def test_an_ordinary_bucket_cannot_erase(self, arena: Arena) -> None:
        name = f"{arena.stream}-B"
        ordinary = await arena.transport.bucket(name)
        await ordinary.put("k", b"1")
        with pytest.raises(ConfigurationError, match=f"{name} is not erasable"):
            await ordinary.erase("k")
        with pytest.raises(ConfigurationError, match=f"{name} is there but not erasable.*use another namespace"):
            await arena.transport.bucket(name, erasable=True)
        assert await (await arena.transport.bucket(name)).get("k") is not None

    async def test_an_erasable_bucket_stays_one_and_knows_no_ttl(self, arena: Arena, erasable: Bucket) -> None:
        await erasable.put("k", b"1")
        with pytest.raises(PermanentError, match="knows no TTLs"):
            await erasable.put("k", b"2", ttl=60)
        again = await arena.transport.bucket(f"{arena.stream}-E")
        assert await again.erase("k")
        assert await erasable.get("k") is None
