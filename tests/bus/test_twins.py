"""Finding stored twins: above the position, of that subject, by their ids, whatever else stands there."""

from __future__ import annotations

import json

import pytest

from sojourn.bus import twins as module
from sojourn.bus.errors import UnavailableError
from sojourn.bus.memory import MemoryTransport
from sojourn.bus.ports import Append, Stored, StreamSpec
from sojourn.bus.timers import VirtualTimers
from sojourn.bus.twins import Sent, find_twins


class Replicated(MemoryTransport):
    """The twin whose replica is behind its leader for so many questions, and counts them."""

    behind = 0
    asked = 0

    async def last(self, stream: str, filter: str) -> Stored | None:
        self.asked += 1
        return await super().last(stream, filter)

    async def read(self, stream: str, filter: str, start: int = 1, limit: int = 0, size: int = 0) -> list[Stored]:
        self.asked += 1
        found = await super().read(stream, filter, start, limit, size)
        if self.behind:
            self.behind -= 1
            return found[:-1]
        return found


@pytest.fixture
async def log(monkeypatch: pytest.MonkeyPatch) -> Replicated:
    monkeypatch.setattr(module, "_PAUSE", 0.001)
    monkeypatch.setattr(module, "_PAGE", 3)
    log = Replicated(VirtualTimers())
    await log.create_stream(StreamSpec("S", ("s.>",)))
    return log


async def store(log: Replicated, *ids: object, subject: str = "s.a") -> list[int]:
    return await log.commit("S", [Append(subject, json.dumps({"id": id}).encode()) for id in ids])


def sent(*ids: str, after: int = 0, subject: str = "s.a") -> list[Sent]:
    return [Sent("S", subject, id, after) for id in ids]


async def ids(log: Replicated, *wanted: Sent) -> dict[str, int]:
    return {one.id: sequence for one, sequence in (await find_twins(log, wanted)).items()}


async def test_what_is_stored_is_found_and_nothing_else(log: Replicated) -> None:
    await store(log, *"abcdefghij")
    await store(log, "x", subject="s.b")
    assert await ids(log, *sent("c", "z", "j", "a", "x")) == {"a": 1, "c": 3, "j": 10}
    assert await find_twins(log, [*sent("x"), *sent("x", subject="s.b")]) == {Sent("S", "s.b", "x", 0): 11}


async def test_it_costs_one_question_where_nothing_was_stored_since(log: Replicated) -> None:
    await store(log, *"abc")
    assert await ids(log, *sent("a", "c", after=3)) == {}
    assert await ids(log, *sent("a", subject="s.none")) == {}
    assert log.asked == 2
    assert await ids(log, *sent("c")) == {"c": 3}
    assert log.asked == 3
    assert await ids(log) == {}
    assert log.asked == 3


async def test_only_what_was_stored_after_the_first_attempt_counts(log: Replicated) -> None:
    await store(log, *"abcd")
    assert await ids(log, *sent("a", "d", after=2)) == {"d": 4}
    assert await ids(log, *sent("a", "b", "c", after=1)) == {"b": 2, "c": 3}


async def test_the_first_of_two_is_the_twin(log: Replicated) -> None:
    await store(log, "a", "b", "a", "c")
    assert await ids(log, *sent("a", "z")) == {"a": 1}


async def test_what_is_no_event_is_passed_over(log: Replicated) -> None:
    await log.commit("S", [Append("s.a", payload) for payload in (b"", b"\xff", b"[1]", b"7", b'{"id": 7}', b"{}")])
    await store(log, "a")
    await log.commit("S", [Append("s.a", b"?")])
    assert await ids(log, *sent("a", "7")) == {"a": 7}


async def test_a_replica_that_is_behind_is_asked_again(log: Replicated) -> None:
    await store(log, *"abc")
    log.behind = 5
    assert await ids(log, *sent("a", "c", "z")) == {"a": 1, "c": 3}
    assert log.behind == 0
    log.behind = 1_000
    with pytest.raises(UnavailableError, match="S: the replicas are behind their leader"):
        await find_twins(log, sent("z"))


async def test_what_was_trimmed_meanwhile_is_not_waited_for(log: Replicated) -> None:
    await store(log, *"abc")
    newest = await log.last("S", "s.a")

    async def last(stream: str, filter: str) -> Stored | None:
        await log.purge("S", 3)
        return newest

    log.last = last  # type: ignore[method-assign]  # it is trimmed in that very moment
    assert await ids(log, *sent("z")) == {}
