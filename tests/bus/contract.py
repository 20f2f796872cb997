"""What every transport adapter has to do: the sentences of `sojourn.bus.ports`, as tests.

An adapter's test module subclasses `TransportContract` and gives it an ``arena``.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import pytest

from sojourn.bus.errors import (
    ClosedError,
    ConcurrencyError,
    ConfigurationError,
    DuplicateError,
    NotFoundError,
    PermanentError,
    TooLargeError,
    UnavailableError,
)
from sojourn.bus.ports import (
    Append,
    Consumption,
    Delivery,
    Entry,
    Expectation,
    Receipt,
    Schedule,
    Stored,
    StreamSpec,
    Transport,
)

DEADLINE = 20.0

T = TypeVar("T")


async def eventually(condition: Callable[[], T]) -> T:
    """Waits until ``condition`` holds."""
    async with asyncio.timeout(DEADLINE):
        while not (found := condition()):  # noqa: ASYNC110 - any condition, not one with an event
            await asyncio.sleep(0.005)
    return found


@dataclass
class Arena:
    """One adapter with a stream of the test's own: subjects ``{ns}.log|lane|timer.>``."""

    transport: Transport
    stream: str
    ns: str
    advance: Callable[[datetime], Awaitable[None]]
    """Lets time pass up to a moment: what was due has been sent to its target afterwards, or will be soon."""

    def event(self, key: str, *, partition: int = 1, type: str = "Seen", payload: bytes = b"{}", **rest: Any) -> Append:
        return Append(f"{self.ns}.log.{partition}.{key}.evt.{type}", payload, **rest)

    def action(self, key: str, sequence: int | None, *, writer: str = "w", payload: bytes = b"{}") -> Append:
        expect = None if sequence is None else Expectation(f"{self.ns}.*.1.{key}.act.{writer}.>", sequence)
        return Append(f"{self.ns}.log.1.{key}.act.{writer}.Done", payload, expect)

    async def send(self, *appends: Append) -> list[Receipt | Exception]:
        """Sends them pipelined and waits for all answers, in the order of ``appends``."""
        outcomes: dict[int, list[Receipt | Exception]] = {number: [] for number in range(len(appends))}
        for number, append in enumerate(appends):
            self.transport.send(self.stream, append, outcomes[number].append)
        await eventually(lambda: all(outcomes.values()))
        await asyncio.sleep(0)
        assert all(len(told) == 1 for told in outcomes.values()), "done is called exactly once"
        return [told[0] for told in outcomes.values()]

    async def read(self, filter: str, **rest: Any) -> list[Stored]:
        return await self.transport.read(self.stream, f"{self.ns}.{filter}", **rest)

    async def state(self) -> tuple[int, int, int]:
        state = await self.transport.stream_state(self.stream)
        assert state is not None
        return state[:3]


class Taking:
    """A consumption that records what it gets."""

    def __init__(self, arena: Arena, name: str) -> None:
        self.deliveries: list[Delivery] = []
        self.reasons: list[str] = []
        self.flow: Consumption = arena.transport.consume(
            arena.stream, name, self.deliveries.append, self.reasons.append
        )

    @property
    def sequences(self) -> list[int]:
        return [delivery.sequence for delivery in self.deliveries]

    @property
    def counted(self) -> list[int]:
        return [delivery.consumer_sequence for delivery in self.deliveries]

    async def got(self, count: int) -> list[Delivery]:
        await eventually(lambda: len(self.deliveries) >= count)
        return self.deliveries

    def ack(self, *sequences: int) -> None:
        for delivery in self.deliveries:
            if delivery.sequence in sequences:
                self.flow.ack(delivery.token)


async def gather(batches: AsyncIterator[list[Stored]], count: int | None = None) -> list[Stored]:
    """What a follow brings: until its end, or until ``count`` messages."""
    found: list[Stored] = []
    async with asyncio.timeout(DEADLINE):
        async for batch in batches:
            assert batch, "no empty batches"
            found += batch
            if count is not None and len(found) >= count:
                break
    return found


def ascending(messages: Iterable[Stored]) -> list[int]:
    sequences = [message.sequence for message in messages]
    assert sequences == sorted(set(sequences))
    return sequences


class TransportContract:
    """Inherited by each adapter's test class."""

    # Log.send

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

    # Log.commit

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

    # Log.last, get, read

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

    async def test_a_missing_stream_is_named(self, arena: Arena) -> None:
        transport = arena.transport
        for asked in (
            transport.last("NOT-THERE", "a.>"),
            transport.get("NOT-THERE", 1),
            transport.read("NOT-THERE", "a.>"),
            gather(transport.follow("NOT-THERE", "a.>")),
            transport.delete_messages("NOT-THERE", [1]),
            transport.ensure_consumer("NOT-THERE", "c", "a.>", start=1, max_ack_pending=1),
        ):
            with pytest.raises(NotFoundError):
                await asked
        with pytest.raises(UnavailableError):
            await transport.commit("NOT-THERE", [Append("nobody.a", b""), Append("nobody.b", b"")])
        assert await transport.stream_state("NOT-THERE") is None
        assert await transport.consumer_lag("NOT-THERE", "c") is None
        await transport.delete_stream("NOT-THERE")

    # Log.follow

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

    # Schedules

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

    # Consumers

    async def test_deliveries_come_in_order_and_are_counted(self, arena: Arena) -> None:
        transport, ns = arena.transport, arena.ns
        await transport.ensure_consumer(arena.stream, "c-1", f"{ns}.log.1.*.evt.>", start=1, max_ack_pending=1_000)
        await transport.commit(
            arena.stream, [arena.event("k", partition=1 + n % 2, payload=b"%d" % n) for n in range(600)]
        )
        taking = Taking(arena, "c-1")
        await taking.flow.restart()
        await taking.got(300)
        assert taking.sequences == list(range(1, 601, 2))
        assert taking.counted == list(range(1, 301))
        first = taking.deliveries[0]
        stored = await transport.get(arena.stream, 1)
        assert stored is not None
        assert first[:4] == (f"{ns}.log.1.k.evt.Seen", 1, b"0", first.timestamp)
        assert first.timestamp // 1_000_000 == stored.timestamp // 1_000_000
        await taking.flow.close()

    async def test_nothing_comes_before_restart_nor_after_close(self, arena: Arena) -> None:
        await self.consumer(arena)
        taking = Taking(arena, "c-1")
        await arena.send(arena.event("k"))
        await self.settled(arena)
        assert taking.deliveries == []
        await taking.flow.restart()
        await taking.got(1)
        await taking.flow.close()
        await arena.send(arena.event("k"))
        await self.settled(arena)
        assert taking.sequences == [1]
        with pytest.raises(ClosedError):
            await taking.flow.restart()

    async def test_new_messages_flow_for_long(self, arena: Arena) -> None:
        await self.consumer(arena)
        taking = Taking(arena, "c-1")
        await taking.flow.restart()
        for part in range(12):
            await arena.transport.commit(arena.stream, [arena.event("k") for _ in range(100)])
            await taking.got(100 * (part + 1))
            taking.ack(*taking.sequences[-100:])
        assert taking.sequences == taking.counted == list(range(1, 1_201))
        assert taking.reasons == []
        await taking.flow.close()
        assert await self.lag(arena) == (1_200, 1_200, 0, 0)

    async def test_a_consumer_starts_where_it_is_told_and_is_never_moved(self, arena: Arena) -> None:
        transport, ns = arena.transport, arena.ns
        await arena.send(*(arena.event("k") for _ in range(5)))
        await self.consumer(arena, start=4)
        assert await self.lag(arena) == (3, 3, 2, 0)
        await self.consumer(arena, start=1)
        assert await self.lag(arena) == (3, 3, 2, 0)
        await self.consumer(arena, name="future", start=9)
        await arena.send(*(arena.event("k") for _ in range(5)))
        taking, future = Taking(arena, "c-1"), Taking(arena, "future")
        await taking.flow.restart()
        await future.flow.restart()
        await taking.got(7)
        await future.got(2)
        assert (taking.sequences, future.sequences) == ([4, 5, 6, 7, 8, 9, 10], [9, 10])
        assert await transport.consumer_lag(arena.stream, "nobody") is None
        await taking.flow.close()
        await future.flow.close()
        assert ns

    async def test_a_changed_filter_keeps_the_position(self, arena: Arena) -> None:
        await arena.send(arena.event("k"), arena.action("k", 0), arena.event("k"))
        await self.consumer(arena, filter="log.1.*.evt.>")
        taking = Taking(arena, "c-1")
        await taking.flow.restart()
        await taking.got(2)
        taking.ack(1, 3)
        await taking.flow.close()
        await self.consumer(arena, filter="log.1.>")
        await arena.send(arena.action("k", 2), arena.event("k"))
        again = Taking(arena, "c-1")
        await again.flow.restart()
        await again.got(2)
        assert again.sequences == [4, 5] and again.counted == [1, 2]
        await again.flow.close()

    async def test_restart_delivers_again_from_the_ack_floor(self, arena: Arena) -> None:
        await self.consumer(arena)
        await arena.send(*(arena.event("k") for _ in range(6)))
        taking = Taking(arena, "c-1")
        await taking.flow.restart()
        await taking.got(6)
        taking.ack(1, 2, 4)  # 4 lies above the floor: it comes again
        await eventually_lag(self, arena, (2, 6, 0, 3))
        taking.deliveries.clear()
        await taking.flow.restart()
        await taking.got(4)
        assert taking.sequences == [3, 4, 5, 6]
        assert taking.counted == [1, 2, 3, 4]
        taking.ack(3, 4, 5, 6)
        await eventually_lag(self, arena, (6, 6, 0, 0))
        taking.deliveries.clear()
        await taking.flow.restart()
        await arena.send(arena.event("k"))
        await taking.got(1)
        assert (taking.sequences, taking.counted) == ([7], [1])
        await taking.flow.close()

    async def test_acks_of_before_a_close_count_for_the_next_owner(self, arena: Arena) -> None:
        await self.consumer(arena)
        await arena.send(*(arena.event("k") for _ in range(100)))
        first = Taking(arena, "c-1")
        await first.flow.restart()
        await first.got(100)
        first.ack(*range(1, 71))
        first.flow.progress(first.deliveries[-1].token)
        await first.flow.close()
        second = Taking(arena, "c-1")
        await second.flow.restart()
        await second.got(30)
        assert second.sequences == list(range(71, 101)) and second.counted == list(range(1, 31))
        await second.flow.close()

    async def test_at_most_max_ack_pending_are_out(self, arena: Arena) -> None:
        await self.consumer(arena, max_ack_pending=10)
        await arena.send(*(arena.event("k") for _ in range(25)))
        taking = Taking(arena, "c-1")
        await taking.flow.restart()
        await taking.got(10)
        await self.settled(arena)
        assert taking.sequences == list(range(1, 11))
        taking.ack(2, 3, 5)
        await taking.got(13)
        await self.settled(arena)
        assert taking.sequences == list(range(1, 14))
        assert await self.lag(arena) == (0, 13, 12, 10)
        await taking.flow.close()

    async def test_a_second_owner_takes_over(self, arena: Arena) -> None:
        await self.consumer(arena)
        await arena.send(arena.event("k"))
        zombie, owner = Taking(arena, "c-1"), Taking(arena, "c-1")
        await zombie.flow.restart()
        await zombie.got(1)
        await zombie.flow.close()
        await owner.flow.restart()
        await owner.got(1)
        await arena.send(arena.event("k"))
        await owner.got(2)
        assert owner.sequences == owner.counted == [1, 2]
        zombie.ack(1)  # of before: it acts on the new owner's copy
        owner.ack(2)
        await eventually_lag(self, arena, (2, 2, 0, 0))
        await owner.flow.close()

    async def test_a_deleted_stream_breaks_the_flow(self, arena: Arena) -> None:
        await self.consumer(arena)
        taking = Taking(arena, "c-1")
        await taking.flow.restart()
        await self.settled(arena)
        await arena.transport.delete_stream(arena.stream)
        await eventually(lambda: taking.reasons)
        assert len(taking.reasons) == 1
        with pytest.raises(NotFoundError):
            await taking.flow.restart()
        await taking.flow.close()

    async def test_restarting_a_consumer_that_is_not_there(self, arena: Arena) -> None:
        taking = Taking(arena, "nobody")
        with pytest.raises(NotFoundError):
            await taking.flow.restart()
        await taking.flow.close()

    async def consumer(self, arena: Arena, name: str = "c-1", *, filter: str = "log.>", **rest: int) -> None:
        await arena.transport.ensure_consumer(
            arena.stream, name, f"{arena.ns}.{filter}", **({"start": 1, "max_ack_pending": 1_000} | rest)
        )

    async def lag(self, arena: Arena) -> tuple[int, int, int, int]:
        lag = await arena.transport.consumer_lag(arena.stream, "c-1")
        assert lag is not None
        return lag.ack_floor, lag.delivered, lag.pending, lag.in_flight

    async def settled(self, arena: Arena) -> None:
        """Round trips after which whatever was under way has arrived."""
        for _ in range(3):
            await arena.transport.stream_state(arena.stream)
            await asyncio.sleep(0.02)

    # Streams

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

    # Buckets

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

    # Transport.close

    async def test_after_close_everything_says_so(self, arena: Arena) -> None:
        transport = arena.transport
        await self.consumer(arena)
        bucket = await transport.bucket(f"{arena.stream}-B")
        taking = Taking(arena, "c-1")
        await taking.flow.restart()
        following = asyncio.create_task(gather(transport.follow(arena.stream, f"{arena.ns}.>")))
        await self.settled(arena)
        told: list[Receipt | Exception] = []
        transport.send(arena.stream, arena.event("k"), told.append)
        await transport.close()
        await transport.close()
        await eventually(lambda: told)
        assert isinstance(told[0], ClosedError | Receipt)
        await following
        assert taking.reasons == []
        transport.send(arena.stream, arena.event("k"), told.append)
        await eventually(lambda: len(told) == 2)
        assert isinstance(told[1], ClosedError)
        for asked in (
            transport.commit(arena.stream, [arena.event("k")]),
            transport.read(arena.stream, ">"),
            transport.stream_state(arena.stream),
            bucket.put("k", b""),
            taking.flow.restart(),
        ):
            with pytest.raises(ClosedError):
                await asked
        await taking.flow.close()


async def eventually_lag(contract: TransportContract, arena: Arena, expected: tuple[int, int, int, int]) -> None:
    """Acks are fire and forget: waits until the server has counted them."""
    async with asyncio.timeout(DEADLINE):
        while await contract.lag(arena) != expected:  # noqa: ASYNC110 - the server counts
            await asyncio.sleep(0.01)
