"""What storing on every transport adapter has to do."""

from __future__ import annotations

import asyncio

import pytest

from sojourn.bus.errors import (
    ConcurrencyError,
    DuplicateError,
    PermanentError,
    TooLargeError,
    UnavailableError,
)
from sojourn.bus.ports import (
    Append,
    Expectation,
    Receipt,
)
from tests.bus.arena import Arena, eventually


class StoringContract:
    """`Log.send` and `Log.commit`."""

    async def test_send_stores_in_the_order_sent_and_answers_once(self, arena: Arena) -> None:
        outcomes = await arena.send(*(arena.event(f"k{n % 7}", payload=b"%d" % n) for n in range(500)))
        assert outcomes == [Receipt(n) for n in range(1, 501)]
        assert [stored.payload for stored in await arena.read("log.>")] == [b"%d" % n for n in range(500)]

    async def test_send_answers_from_the_event_loop_never_from_within(self, arena: Arena) -> None:
        told: list[Receipt | Exception] = []
        arena.transport.send(arena.stream, arena.event("k"), told.append)
        arena.transport.send("NOT-THERE", Append("nobody.listens.here", b""), told.append)
        arena.transport.send(arena.stream, Append("not a subject", b""), told.append)
        assert told == []
        await eventually(lambda: len(told) == 3)

    async def test_send_says_duplicate_for_an_id_that_is_stored(self, arena: Arena) -> None:
        first, again, other = await arena.send(
            arena.event("k", message_id="one"), arena.event("k", message_id="one"), arena.event("k", message_id="two")
        )
        assert (first, again, other) == (Receipt(1), Receipt(1, True), Receipt(2))
        assert await arena.state() == (1, 2, 2)

    async def test_send_refuses_a_wrong_expectation_and_tells_the_real_tail(self, arena: Arena) -> None:
        outcomes = await arena.send(
            arena.action("k", 0), arena.action("k", 0), arena.action("k", 7), arena.action("k", 1)
        )
        assert outcomes[0] == Receipt(1) and outcomes[3] == Receipt(2)
        for refused, expected in ((outcomes[1], 0), (outcomes[2], 7)):
            assert isinstance(refused, ConcurrencyError)
            assert (refused.expected, refused.actual) == (expected, 1)
            assert refused.filter == f"{arena.ns}.*.1.k.act.w.>"

    async def test_an_expectation_covers_all_that_its_filter_matches_and_nothing_else(self, arena: Arena) -> None:
        lane = Expectation(f"{arena.ns}.*.1.k.act.w.>", 0)
        outcomes = await arena.send(
            arena.event("k"),
            arena.action("k", None, writer="other"),
            arena.action("k2", None),
            Append(f"{arena.ns}.lane.1.k.act.w.once", b"", lane),
            Append(f"{arena.ns}.log.1.k.act.w.Done", b"", lane),
            Append(f"{arena.ns}.log.1.k.act.w.Done", b"", lane._replace(sequence=4)),
        )
        assert outcomes[3] == Receipt(4) and outcomes[5] == Receipt(5)
        assert isinstance(outcomes[4], ConcurrencyError) and outcomes[4].actual == 4

    async def test_an_exact_filter_and_one_of_nothing(self, arena: Arena) -> None:
        cursor = f"{arena.ns}.lane.1.k.saga.s.7"
        outcomes = await arena.send(
            Append(cursor, b"1", Expectation(cursor, 0)),
            Append(cursor, b"2", Expectation(cursor, 1)),
            Append(cursor, b"3", Expectation(cursor, 1)),
            Append(cursor, b"4", Expectation(f"{arena.ns}.lane.1.nobody.>", 3)),
        )
        assert outcomes[:2] == [Receipt(1), Receipt(2)]
        assert [getattr(outcome, "actual", None) for outcome in outcomes[2:]] == [2, 0]

    async def test_send_refuses_what_is_too_large(self, arena: Arena) -> None:
        limit = arena.transport.max_payload
        refused, subject, fits = await arena.send(
            arena.event("k", payload=bytes(limit + 1)),
            arena.event("k" * 4_000),
            arena.event("k", payload=bytes(limit - 1_000)),
        )
        assert isinstance(refused, TooLargeError) and refused.limit == limit < refused.size
        assert isinstance(subject, TooLargeError)
        assert fits == Receipt(1)

    async def test_nobody_answers_outside_every_stream(self, arena: Arena) -> None:
        told: list[Receipt | Exception] = []
        arena.transport.send("NOT-THERE", Append("nobody.listens.here", b""), told.append)
        await eventually(lambda: told)
        assert isinstance(told[0], UnavailableError)

    @pytest.mark.parametrize(
        "token", ["", ".", "a b", "a\r\nPUB x 1\r\n", "*", ">", "a.>", "\x00", "a\tb", "a..b", "\ud800"], ids=repr
    )
    async def test_hostile_subjects_are_refused_and_harm_nothing(self, arena: Arena, token: str) -> None:
        bad, fine = await arena.send(arena.event(token), arena.event("fine"))
        assert isinstance(bad, PermanentError)
        assert fine == Receipt(1)
        with pytest.raises(PermanentError):
            await arena.transport.commit(arena.stream, [arena.event("fine"), arena.event(token)])
        assert await arena.state() == (1, 1, 1)

    @pytest.mark.parametrize("token", ["=2E", "ключ", "🙂", "a=20b", "$SYS", "x" * 512], ids=ascii)
    async def test_odd_tokens_are_kept_as_they_are(self, arena: Arena, token: str) -> None:
        await arena.send(arena.event(token, payload=b"odd"), arena.event("other"))
        assert [stored.payload for stored in await arena.read(f"log.1.{token}.>")] == [b"odd"]
        found = await arena.transport.last(arena.stream, f"{arena.ns}.log.*.{token}.>")
        assert found is not None and found.subject == f"{arena.ns}.log.1.{token}.evt.Seen"

    async def test_commit_stores_all_with_consecutive_sequences(self, arena: Arena) -> None:
        await arena.send(arena.event("k"))
        batch = [arena.event(f"k{n}", payload=b"%d" % n) for n in range(1_000)]
        assert await arena.transport.commit(arena.stream, batch) == list(range(2, 1_002))
        assert await arena.transport.commit(arena.stream, [arena.event("one")]) == [1_002]
        assert [stored.payload for stored in await arena.read("log.>", start=2, limit=1_000)] == [
            append.payload for append in batch
        ]

    async def test_commit_takes_1_to_1000(self, arena: Arena) -> None:
        for count in (0, 1_001):
            with pytest.raises(PermanentError, match="1 to 1000"):
                await arena.transport.commit(arena.stream, [arena.event("k")] * count)

    @pytest.mark.parametrize("place", [0, 1, 2])
    async def test_commit_stores_nothing_where_one_lane_has_moved(self, arena: Arena, place: int) -> None:
        await arena.send(arena.event("x"), arena.action("moved", 0))
        batch = [arena.action("a", 0), arena.action("b", 0)]
        batch.insert(place, arena.action("moved", 0))
        with pytest.raises(ConcurrencyError) as refusal:
            await arena.transport.commit(arena.stream, batch)
        assert refusal.value.actual == 2
        assert await arena.state() == (1, 2, 2)
        batch[place] = arena.action("moved", 2)
        assert await arena.transport.commit(arena.stream, batch) == [3, 4, 5]

    async def test_commit_of_one_lane_names_it(self, arena: Arena) -> None:
        await arena.send(arena.action("k", 0))
        with pytest.raises(ConcurrencyError) as refusal:
            await arena.transport.commit(arena.stream, [arena.action("k", 0), arena.action("k", 0)])
        assert (refusal.value.expected, refusal.value.actual) == (0, 1)
        assert refusal.value.filter == f"{arena.ns}.*.1.k.act.w.>"
        with pytest.raises(ConcurrencyError, match="wrote first"):
            await arena.transport.commit(arena.stream, [arena.action("k", 0)])

    async def test_members_expecting_the_same_of_one_lane_are_all_stored(self, arena: Arena) -> None:
        # The server does not protect a wildcard lane from two members of one batch; a writer's one output relies on it.
        batch = [arena.action("k", 0), arena.action("k", 0), arena.event("k")]
        assert await arena.transport.commit(arena.stream, batch) == [1, 2, 3]

    async def test_an_expectation_of_an_earlier_member_cannot_be_evaluated(self, arena: Arena) -> None:
        subject = f"{arena.ns}.lane.1.k.saga.s.1"
        batch = [Append(subject, b"1"), Append(subject, b"2", Expectation(subject, 1))]
        with pytest.raises(ConcurrencyError) as refusal:
            await arena.transport.commit(arena.stream, batch)
        assert refusal.value.actual is None
        assert await arena.state() == (1, 0, 0)

    async def test_commit_refuses_a_stored_id_and_leaves_no_trace(self, arena: Arena) -> None:
        await arena.send(arena.event("k", message_id="old"))
        with pytest.raises(DuplicateError) as refusal:
            await arena.transport.commit(arena.stream, [arena.event("k", message_id="old")])
        assert refusal.value.sequence == 1
        for batch in (["old", "new"], ["new", "old"], ["new", "new"]):
            with pytest.raises(DuplicateError):
                await arena.transport.commit(arena.stream, [arena.event("k", message_id=one) for one in batch])
        assert await arena.state() == (1, 1, 1)
        new = [arena.event("k", message_id="new"), arena.event("k")]
        assert await arena.transport.commit(arena.stream, new) == [2, 3]

    async def test_commit_refuses_what_is_too_large(self, arena: Arena) -> None:
        huge = arena.event("k", payload=bytes(arena.transport.max_payload + 1))
        for batch in ([huge], [arena.event("k"), huge]):
            with pytest.raises(TooLargeError):
                await arena.transport.commit(arena.stream, batch)
        assert await arena.state() == (1, 0, 0)

    @pytest.mark.parametrize("place", [0, 1, 2])
    async def test_commit_outside_the_stream_stores_nothing_and_blocks_nobody(self, arena: Arena, place: int) -> None:
        for _ in range(60):  # more than the server allows to be open at a time
            batch = [arena.event("a"), arena.event("b")]
            batch.insert(place, Append("nobody.listens.here", b""))
            with pytest.raises(UnavailableError):
                await arena.transport.commit(arena.stream, batch)
        assert await arena.transport.commit(arena.stream, [arena.event("a"), arena.event("b")]) == [1, 2]

    async def test_refused_batches_block_nobody(self, arena: Arena) -> None:
        for _ in range(60):
            with pytest.raises(ConcurrencyError):
                await arena.transport.commit(arena.stream, [arena.action("a", 5), arena.action("b", 0)])
        assert await arena.transport.commit(arena.stream, [arena.action("a", 0), arena.action("b", 0)]) == [1, 2]

    async def test_sends_and_commits_keep_their_order(self, arena: Arena) -> None:
        told: list[Receipt | Exception] = []
        arena.transport.send(arena.stream, arena.event("k", payload=b"1"), told.append)
        commit = asyncio.create_task(
            arena.transport.commit(arena.stream, [arena.event("k", payload=b"2"), arena.event("k", payload=b"3")])
        )
        await asyncio.sleep(0)
        arena.transport.send(arena.stream, arena.event("k", payload=b"4"), told.append)
        assert await commit == [2, 3]
        await eventually(lambda: told == [Receipt(1), Receipt(4)])
        assert [stored.payload for stored in await arena.read("log.>")] == [b"1", b"2", b"3", b"4"]
