"""The committer answers every unit exactly once, tears none, keeps order, and groups only when it pays."""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sojourn.bus.committer import MAX_BATCH_BYTES, MAX_MEMBERS, PLAIN, Committer
from sojourn.bus.errors import (
    BusyError,
    ClosedError,
    ConcurrencyError,
    ConfigurationError,
    DuplicateError,
    PermanentError,
    PermissionDenied,
    SojournError,
    TimedOutError,
    TooLargeError,
    TransientError,
    UnavailableError,
)
from sojourn.bus.memory import MemoryTransport
from sojourn.bus.ports import Ahead, Append, Expectation, Receipt, Stored, StreamSpec
from sojourn.bus.timers import VirtualTimers

OUTCOMES: dict[str, Callable[[], Exception]] = {
    "conflict": lambda: ConcurrencyError("moved", expected=1, actual=2),
    "too large": lambda: TooLargeError("large", size=2, limit=1),
    "denied": lambda: PermissionDenied("no"),
    "permanent": lambda: PermanentError("bad subject"),
    "misconfigured": lambda: ConfigurationError("no such thing"),
    "timeout": lambda: TimedOutError("no answer"),
    "unavailable": lambda: UnavailableError("gone"),
    "busy": lambda: BusyError("too many batches"),
    "closed": lambda: ClosedError("closed"),
    "fault": lambda: OverflowError("a bug"),
}


@dataclass
class ScriptedLog:
    """A `Log` that stores what it is sent, unless its script says otherwise.

    ``bad`` names payloads that are refused for good, alone or with the whole batch; ``script`` holds the outcomes of
    the next calls: "ok", "lost" (stored, but the answer is a time-out) or one of `OUTCOMES`. ``gate`` holds answers
    back while it is not set.
    """

    bad: dict[bytes, str] = field(default_factory=dict)
    script: deque[str] = field(default_factory=deque)
    stored: dict[str, list[Append]] = field(default_factory=lambda: defaultdict(list))
    calls: list[tuple[str, int]] = field(default_factory=list)
    """"send" or "commit", and how many appends."""
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    max_payload: int = 1_048_576
    flying: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def __post_init__(self) -> None:
        self.gate.set()

    def send(self, stream: str, append: Append, done: Callable[[Receipt | Exception], None]) -> None:
        self.calls.append(("send", 1))
        verdict = self._verdict([append])
        if verdict == "raises":
            raise RuntimeError("send broke")
        assert "commit" not in self.flying[stream], "a plain publish overtakes a batch"
        self.flying[stream].append("send")
        outcome: Receipt | Exception
        if verdict in {"ok", "lost"}:
            outcome = self._store_one(stream, append)
            outcome = TimedOutError("no answer") if verdict == "lost" else outcome
        else:
            outcome = OUTCOMES[verdict]()
        asyncio.get_running_loop().create_task(self._answer(stream, done, outcome))

    async def _answer(self, stream: str, done: Callable[[Receipt | Exception], None], outcome: Any) -> None:
        await asyncio.sleep(0)
        await self.gate.wait()
        self.flying[stream].remove("send")
        done(outcome)

    async def commit(self, stream: str, appends: Sequence[Append]) -> list[int]:
        assert 1 <= len(appends) <= MAX_MEMBERS
        assert not self.flying[stream], "one batch in flight, and nothing beside it"
        self.calls.append(("commit", len(appends)))
        verdict = self._verdict(appends)
        ids = [append.message_id for append in self.stored[stream] if append.message_id is not None]
        if verdict in {"ok", "lost"} and any(append.message_id in ids for append in appends):
            verdict = "duplicate"
        sequences: list[int] = []
        if verdict in {"ok", "lost"}:
            start = len(self.stored[stream])
            self.stored[stream] += appends
            sequences = list(range(start + 1, start + 1 + len(appends)))
        self.flying[stream].append("commit")
        await asyncio.sleep(0)
        await self.gate.wait()
        self.flying[stream].remove("commit")
        if verdict == "ok":
            return sequences
        if verdict == "raises":
            raise RuntimeError("commit broke")
        if verdict == "lost":
            raise TimedOutError("no answer")
        if verdict == "duplicate":
            raise DuplicateError("stored")
        error = OUTCOMES[verdict]()
        raise error

    def _store_one(self, stream: str, append: Append) -> Receipt:
        for sequence, other in enumerate(self.stored[stream], 1):
            if append.message_id is not None and other.message_id == append.message_id:
                return Receipt(sequence, True)
        self.stored[stream].append(append)
        return Receipt(len(self.stored[stream]))

    def _verdict(self, appends: Iterable[Append]) -> str:
        for append in appends:
            if append.payload in self.bad:
                return self.bad[append.payload]
        return self.script.popleft() if self.script else "ok"

    def payloads(self, stream: str = "S") -> list[bytes]:
        return [append.payload for append in self.stored[stream]]

    async def last(self, stream: str, filter: str) -> Stored | None:
        raise NotImplementedError

    async def get(self, stream: str, sequence: int) -> Stored | None:
        raise NotImplementedError

    async def read(self, stream: str, filter: str, start: int = 1, limit: int = 0, size: int = 0) -> list[Stored]:
        raise NotImplementedError

    async def ahead(self, stream: str, filter: str, start: int = 1) -> Ahead:
        raise NotImplementedError

    def follow(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError


class Told:
    """Who was told what, and what the observers saw."""

    def __init__(self, committer: Committer) -> None:
        self.results: dict[bytes, list[Any]] = defaultdict(list)
        self.order: list[bytes] = []
        self.seen: list[tuple[bytes, int]] = []
        self.committer = committer
        committer.observers.append(self._observe)

    def _observe(self, stream: str, appends: Sequence[Append], sequences: Sequence[int]) -> None:
        for append, sequence in zip(appends, sequences, strict=True):
            assert not self.results[append.payload], "observers come before `done`"
            self.seen.append((append.payload, sequence))

    def submit(
        self, name: str, members: int = 1, *, stream: str = "S", chain: str | None = None, id: str | None = None
    ) -> None:
        first = name.encode()
        appends = [
            Append("s.a", first if number == 0 else b"%s/%d" % (first, number), message_id=id)
            for number in range(members)
        ]

        def done(result: list[int] | Exception) -> None:
            self.results[first].append(result)
            self.order.append(first)

        self.committer.submit(stream, appends, done, chain=chain)

    async def settled(self) -> None:
        async with asyncio.timeout(10):
            while self.committer.pending:  # noqa: ASYNC110 - a condition with a deadline
                await asyncio.sleep(0)

    def __getitem__(self, name: str) -> Any:
        [result] = self.results[name.encode()]
        return result


@pytest.fixture
def log() -> ScriptedLog:
    return ScriptedLog()


@pytest.fixture
def told(log: ScriptedLog) -> Told:
    return Told(Committer(log))


async def test_a_few_go_out_plainly_and_at_once(log: ScriptedLog, told: Told) -> None:
    log.gate.clear()
    for number in range(PLAIN):
        told.submit(f"u{number}")
    await asyncio.sleep(0)
    assert log.calls == [("send", 1)] * PLAIN
    assert told.committer.pending == PLAIN
    log.gate.set()
    await told.settled()
    assert told.order == log.payloads() == [f"u{number}".encode() for number in range(PLAIN)]


async def test_many_are_one_batch_of_the_servers_size(log: ScriptedLog, told: Told) -> None:
    for number in range(2_500):
        told.submit(f"u{number}")
    assert told.committer.pending == 2_500
    await told.settled()
    assert log.calls == [("commit", MAX_MEMBERS), ("commit", MAX_MEMBERS), ("commit", 500)]
    assert told.order == log.payloads() == [f"u{number}".encode() for number in range(2_500)]
    assert told["u1700"] == [1701]


async def test_what_comes_while_a_batch_is_under_way_waits_for_it(log: ScriptedLog, told: Told) -> None:
    log.gate.clear()
    for number in range(PLAIN + 1):
        told.submit(f"a{number}")
    await asyncio.sleep(0.001)
    for number in range(3):
        told.submit(f"b{number}")
    assert told.committer.pending == PLAIN + 4
    await asyncio.sleep(0.001)
    assert log.calls == [("commit", PLAIN + 1)]
    log.gate.set()
    await told.settled()
    assert log.calls[1:] == [("send", 1)] * 3
    assert told.order == log.payloads()


async def test_a_large_output_waits_for_plain_ones_and_is_never_torn(log: ScriptedLog, told: Told) -> None:
    log.gate.clear()
    told.submit("a")
    await asyncio.sleep(0.001)
    told.submit("b", members=3)
    told.submit("c")
    await asyncio.sleep(0.001)
    assert log.calls == [("send", 1)]
    log.gate.set()
    await told.settled()
    assert log.calls == [("send", 1), ("commit", 4)]
    assert told["b"] == [2, 3, 4]
    assert log.payloads() == [b"a", b"b", b"b/1", b"b/2", b"c"]


async def test_streams_do_not_wait_for_each_other(log: ScriptedLog, told: Told) -> None:
    for number in range(50):
        told.submit(f"a{number}", stream="S0")
        told.submit(f"b{number}", stream="S1")
    await told.settled()
    assert log.calls == [("commit", 50), ("commit", 50)]


async def test_a_batch_is_bounded_in_members_and_bytes(log: ScriptedLog, told: Told) -> None:
    for number in range(3):
        told.submit(f"u{number}", members=600)
    await told.settled()
    assert log.calls == [("commit", 600)] * 3
    log.calls.clear()
    large = Append("s.a", bytes(MAX_BATCH_BYTES // 2 + 1))
    results: list[Any] = []
    for _ in range(3):
        told.committer.submit("S", [large, Append("s.a", b"")], results.append)
    await told.settled()
    assert log.calls == [("commit", 2)] * 3 and len(results) == 3


async def test_an_output_beyond_the_servers_batch_is_refused(log: ScriptedLog, told: Told) -> None:
    told.submit("u", members=MAX_MEMBERS + 1)
    assert isinstance(told["u"], TooLargeError) and "split it" in str(told["u"])
    assert not log.calls and not told.committer.pending


async def test_no_output_is_stored_at_once(log: ScriptedLog, told: Told) -> None:
    assert await told.committer.store("S", []) == []
    assert not log.calls


@pytest.mark.parametrize("kind", ["conflict", "too large", "denied", "permanent", "misconfigured", "fault", "raises"])
@pytest.mark.parametrize("members", [1, 2])
async def test_the_one_at_fault_is_found_and_the_others_are_stored(
    log: ScriptedLog, told: Told, kind: str, members: int
) -> None:
    log.bad[b"u437"] = kind
    for number in range(900 // members):
        told.submit(f"u{number}", members)
    if members == 2:
        log.bad[b"u437/1"] = kind
    await told.settled()
    wanted = [f"u{number}".encode() for number in range(900 // members) if number != 437]
    assert [payload for payload in log.payloads() if b"/" not in payload] == wanted
    assert isinstance(told["u437"], Exception)
    assert [name for name in told.order if name != b"u437"] == wanted
    # Found by halves, not by trying each.
    assert sum(kind == "commit" for kind, _ in log.calls) < 25
    assert sum(kind == "send" for kind, _ in log.calls) <= PLAIN


async def test_a_thousand_duplicates_cost_few_batches(log: ScriptedLog, told: Told) -> None:
    for _ in range(2):
        for number in range(1_000):
            told.submit(f"u{number}", id=f"id-{number}")
        await told.settled()
    assert len(log.payloads()) == 1_000
    results = [told.results[f"u{number}".encode()] for number in range(1_000)]
    assert all(isinstance(second, DuplicateError) for _, second in results)
    assert [second.sequence for _, second in results] == [first[0] for first, _ in results]
    assert sum(kind == "commit" for kind, _ in log.calls) < 150


async def test_a_duplicate_that_was_sent_plainly_says_so(log: ScriptedLog, told: Told) -> None:
    told.submit("a", id="same")
    told.submit("b", id="same")
    await told.settled()
    assert told["a"] == [1]
    assert isinstance(told["b"], DuplicateError) and told["b"].sequence == 1
    assert told.seen == [(b"a", 1)]


@pytest.mark.parametrize("kind", ["timeout", "unavailable", "closed"])
async def test_what_is_not_known_is_told_to_all_and_not_tried_again(log: ScriptedLog, told: Told, kind: str) -> None:
    log.script.append(kind)
    for number in range(100):
        told.submit(f"u{number}")
    await told.settled()
    assert log.calls == [("commit", 100)]
    assert all(isinstance(told[f"u{number}"], type(OUTCOMES[kind]())) for number in range(100))
    assert not told.seen


async def test_with_too_many_open_batches_single_appends_go_plainly(log: ScriptedLog, told: Told) -> None:
    log.script.append("busy")
    for number in range(100):
        told.submit(f"u{number}", members=2 if number == 50 else 1)
    await told.settled()
    assert isinstance(told["u50"], BusyError)
    assert log.calls == [("commit", 101)] + [("send", 1)] * 99
    assert log.payloads() == [f"u{number}".encode() for number in range(100) if number != 50]


async def test_a_broken_callback_stops_nobody_else(log: ScriptedLog, told: Told) -> None:
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: reported.append(context))

    def broken(*_: Any) -> None:
        raise ZeroDivisionError

    told.committer.observers.insert(0, broken)
    for count in (3, 100):
        told.committer.submit("S", [Append("s.a", b"x%d" % count)], broken)
        for number in range(count):
            told.submit(f"u{count}-{number}")
        await told.settled()
    assert len(told.seen) == len(log.payloads()) == 105
    assert all(len(results) == 1 for name, results in told.results.items() if name.startswith(b"u"))
    assert {type(context["exception"]) for context in reported} == {ZeroDivisionError}
    assert len(reported) == 107


async def test_a_send_that_raises_is_told_and_the_next_are_sent(log: ScriptedLog, told: Told) -> None:
    log.bad[b"u1"] = "raises"
    for number in range(3):
        told.submit(f"u{number}")
    await told.settled()
    assert isinstance(told["u1"], RuntimeError)
    assert log.payloads() == [b"u0", b"u2"]
    for number in range(100):
        told.submit(f"v{number}")
    await told.settled()
    assert log.calls[-1] == ("commit", 100)


@pytest.mark.parametrize("count", [1, PLAIN, 300])
async def test_close_settles_what_is_in_flight_and_refuses_the_rest(log: ScriptedLog, told: Told, count: int) -> None:
    log.gate.clear()
    for number in range(count):
        told.submit(f"u{number}")
    await asyncio.sleep(0.001)
    for number in range(50):
        told.submit(f"v{number}")
        told.submit(f"w{number}", stream="S2")
    closing = asyncio.create_task(told.committer.close())
    await asyncio.sleep(0.001)
    assert not closing.done(), "what is in flight is not settled yet"
    told.submit("late")
    told.submit("late elsewhere", stream="S3")
    log.gate.set()
    await closing
    assert told.committer.pending == 0
    assert all(isinstance(told[f"u{number}"], list) for number in range(count))
    assert len(log.payloads()) == count
    # Those of the other stream had not been sent either.
    refused = [
        *(f"v{number}" for number in range(50)),
        *(f"w{number}" for number in range(50)),
        "late",
        "late elsewhere",
    ]
    assert all(isinstance(told[name], ClosedError) and "nothing was stored" in str(told[name]) for name in refused)
    await told.committer.close()


async def test_who_waits_gets_the_sequences_or_the_error(log: ScriptedLog) -> None:
    committer = Committer(log)
    assert await committer.store("S", [Append("s.a", b"1"), Append("s.a", b"2")]) == [1, 2]
    log.bad[b"3"] = "conflict"
    with pytest.raises(ConcurrencyError):
        await committer.store("S", [Append("s.a", b"3")])
    log.gate.clear()
    waiting = asyncio.create_task(committer.store("S", [Append("s.a", b"4")]))
    await asyncio.sleep(0.001)
    waiting.cancel()
    log.gate.set()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await committer.close()
    assert log.payloads() == [b"1", b"2", b"4"]


async def test_a_cancelled_batch_tells_everybody(log: ScriptedLog, told: Told) -> None:
    log.bad[b"u0"] = "conflict"
    for number in range(100):
        told.submit(f"u{number}", members=2)
    await asyncio.sleep(0)
    # The first half is under way when everything ends.
    async with asyncio.timeout(5):
        while log.calls[-1:] != [("commit", 100)]:  # noqa: ASYNC110 - a condition with a deadline
            await asyncio.sleep(0)
    [task] = [task for task in asyncio.all_tasks() if "_commit_next" in str(task.get_coro())]
    task.cancel()
    await asyncio.wait([task])
    assert all(isinstance(told[f"u{number}"], UnavailableError) for number in range(100))


async def test_one_chain_is_never_in_flight_twice(log: ScriptedLog, told: Told) -> None:
    log.gate.clear()
    told.submit("a1", chain="a")
    told.submit("b1", chain="b")
    await asyncio.sleep(0.001)
    for number in range(2, 6):
        told.submit(f"a{number}", chain="a")
    told.submit("free")
    await asyncio.sleep(0.001)
    assert log.payloads() == [b"a1", b"b1", b"free"]
    log.gate.set()
    await told.settled()
    assert log.payloads() == [b"a1", b"b1", b"free", b"a2", b"a3", b"a4", b"a5"]
    assert {kind for kind, _ in log.calls} == {"send"}, "no batch for a few"


async def test_a_long_chain_is_batched(log: ScriptedLog, told: Told) -> None:
    for number in range(500):
        told.submit(f"a{number}", chain="a")
        if number % 100 == 7:
            await asyncio.sleep(0.001)
    await told.settled()
    assert log.payloads() == [f"a{number}".encode() for number in range(500)]
    assert len(log.calls) < 40


@pytest.mark.parametrize("kind", ["timeout", "unavailable", "busy", "lost"])
async def test_behind_a_failed_one_its_chain_fails_too(log: ScriptedLog, told: Told, kind: str) -> None:
    log.gate.clear()
    log.script.append(kind)
    told.submit("a1", chain="a")
    await asyncio.sleep(0.001)
    for name in ("a2", "b1", "a3", "c1"):
        told.submit(name, chain=name[0])
    log.gate.set()
    await told.settled()
    assert all(isinstance(told[name], TransientError) for name in ("a1", "a2", "a3"))
    assert log.payloads() == ([b"a1"] if kind == "lost" else []) + [b"b1", b"c1"]


async def test_behind_a_failed_batch_too(log: ScriptedLog, told: Told) -> None:
    log.script.append("timeout")
    for number in range(3_000):
        told.submit(f"u{number}", chain=str(number % 1_500))
    await told.settled()
    # The first batch held the chains 0 to 999; of the rest, only the others may go on.
    assert log.payloads() == [f"u{number}".encode() for number in range(3_000) if number % 1_500 >= 1_000]


async def test_behind_one_refused_for_good_its_chain_goes_on(log: ScriptedLog, told: Told) -> None:
    log.bad[b"a1"] = "too large"
    for number in range(1, 4):
        told.submit(f"a{number}", chain="a")
    await told.settled()
    assert isinstance(told["a1"], TooLargeError)
    assert log.payloads() == [b"a2", b"a3"]


UNITS = st.lists(
    st.tuples(
        st.integers(1, 3), st.sampled_from([None, "a", "b", "c"]), st.sampled_from([""] * 12 + [*OUTCOMES, "raises"])
    ),
    max_size=60,
)
SCRIPTS = st.lists(st.sampled_from(["ok"] * 6 + ["lost", "raises", *OUTCOMES]), max_size=30)


@settings(max_examples=150)
@given(st.lists(st.tuples(UNITS, st.integers(0, 6)), max_size=4), SCRIPTS, st.none() | st.integers(0, 20))
def test_whatever_happens_each_unit_is_answered_once(
    waves: list[tuple[list[tuple[int, str | None, str]], int]], script: list[str], closing: int | None
) -> None:
    asyncio.run(_whatever_happens(waves, script, closing))


async def _whatever_happens(
    waves: list[tuple[list[tuple[int, str | None, str]], int]], script: list[str], closing: int | None
) -> None:
    log = ScriptedLog(script=deque(script))
    told = Told(Committer(log))
    submitted: list[tuple[bytes, int, str | None]] = []
    for wave, (units, turns) in enumerate(waves):
        for number, (members, chain, bad) in enumerate(units):
            name = f"u{wave}.{number}"
            if bad:
                log.bad[name.encode()] = bad
            # Chains are for single events, as publishers have them.
            told.submit(name, members if chain is None else 1, chain=chain)
            submitted.append((name.encode(), members if chain is None else 1, chain))
        for _ in range(turns):
            await asyncio.sleep(0)
        if closing is not None and wave == closing % 4:
            await told.committer.close()
    await told.settled()
    await told.committer.close()
    stored = log.payloads()
    places = {payload: place for place, payload in enumerate(stored, 1)}
    assert len(places) == len(stored), "nothing is stored twice"
    answers = {name: told.results[name] for name, _, _ in submitted}
    assert all(len(results) == 1 for results in answers.values())
    acked = []
    for unit, members, _ in submitted:
        [result] = answers[unit]
        sequences = [places.get(unit if number == 0 else b"%s/%d" % (unit, number)) for number in range(members)]
        if isinstance(result, list):
            assert result == sequences, "what is told is where it is"
            acked.append(unit)
        elif not isinstance(result, TimedOutError):
            assert sequences == [None] * members, "what was refused is not there"
        # Never torn: all members or none, side by side.
        assert sequences in ([None] * members, list(range(sequences[0] or 0, (sequences[0] or 0) + members)))
    assert sorted(told.seen) == sorted(
        (payload, places[payload]) for payload in stored if payload.split(b"/")[0] in acked
    ), "observers see each stored append once, and no other"
    # Within a chain, nothing overtakes what failed for a reason that may go away.
    for wave in range(len(waves)):
        for its in ("a", "b", "c"):
            mine = [unit for unit, _, chain in submitted if chain == its and unit.startswith(b"u%d." % wave)]
            failed = [number for number, unit in enumerate(mine) if isinstance(answers[unit][0], TransientError)]
            if failed:
                there = [unit in places for unit in mine[failed[0] :]]
                # Of those that failed together, because an answer was lost, all may be stored.
                assert there == sorted(there, reverse=True)
                assert all(isinstance(answers[unit][0], Exception) for unit in mine[failed[0] :])
            assert [places[unit] for unit in mine if unit in places] == sorted(
                places[unit] for unit in mine if unit in places
            )


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 4), st.booleans()), max_size=80))
def test_on_a_real_store_lanes_move_only_as_expected(plan: list[tuple[int, int, bool]]) -> None:
    asyncio.run(_lanes_move(plan))


async def _lanes_move(plan: list[tuple[int, int, bool]]) -> None:
    transport = MemoryTransport(VirtualTimers())
    await transport.create_stream(StreamSpec("S", ("s.>",)))
    committer = Committer(transport)
    tails: dict[int, int] = defaultdict(int)
    for start in range(0, len(plan), 30):
        # At most one unit of a lane at a time, as workers have it.
        wave = {lane: (members, stale) for lane, members, stale in plan[start : start + 30]}
        results = await asyncio.gather(
            *(
                committer.store(
                    "S",
                    [
                        Append(f"s.x.p.{lane}.{number}", b"", Expectation(f"s.x.p.{lane}.>", tails[lane] + 7 * stale))
                        for number in range(members)
                    ],
                )
                for lane, (members, stale) in wave.items()
            ),
            return_exceptions=True,
        )
        for (lane, (members, stale)), result in zip(wave.items(), results, strict=True):
            if stale:
                assert isinstance(result, ConcurrencyError)
            else:
                assert isinstance(result, list) and len(result) == members
                tails[lane] = result[-1]
    for lane, tail in tails.items():
        found = await transport.last("S", f"s.x.p.{lane}.>")
        assert (found.sequence if found is not None else 0) == tail
    await committer.close()
    await transport.close()


def test_every_outcome_of_the_script_is_told_apart() -> None:
    # The scripted failures cover the tree of errors that a log may raise.
    raised = {type(make()) for make in OUTCOMES.values()}
    assert {ConcurrencyError, TooLargeError, PermissionDenied, TimedOutError, UnavailableError, BusyError} <= raised
    assert OverflowError in raised and not issubclass(OverflowError, SojournError)
