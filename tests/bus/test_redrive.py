"""Redriving and dropping: each letter once, in order, for its writer alone, over crashes and outages."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import timedelta
from typing import Any

import pytest

from sojourn.bus.client import Bus
from sojourn.bus.deadletters import EVERYTHING, DeadLetter, Selection, dead_letter, dead_letters, original
from sojourn.bus.delivery.worker import Worker
from sojourn.bus.errors import SojournError, UnavailableError
from sojourn.bus.memory import MemoryTransport
from sojourn.bus.ports import Append, Stored
from sojourn.bus.processor import Output, SetTimer
from sojourn.bus.redrive import Outcome, drop, redrive
from sojourn.bus.timers import VirtualTimers
from sojourn.state.erasure import erase
from tests.bus.delivery.processors import (
    START,
    CartAbandoned,
    Faults,
    FaultyTransport,
    OrderPlaced,
    Resident,
    Scripted,
    WaitEnded,
    actions,
    log_of,
    memory_bus,
    offer,
    turbo,
    until,
)
from tests.bus.delivery.test_worker_nats import nats_bus
from tests.nats_server import NatsServer

OPEN = Selection(status="open")


def failing(*numbers: int) -> Callable[[Resident, Any], Any]:
    """A handler that fails on these events; on all without any."""

    def handle(resident: Resident, turn: Any) -> Any:
        if not numbers or turn.recorded.envelope.event.n in numbers:
            raise ValueError("poison")
        return offer(resident, turn)

    return handle


async def letters(bus: Bus, selection: Selection = EVERYTHING) -> list[DeadLetter]:
    return [letter async for letter in dead_letters(bus, selection)]


async def redriven(bus: Bus, selection: Selection = EVERYTHING, *, dry_run: bool = False) -> list[Outcome]:
    outcomes: list[Outcome] = []
    async with contextlib.aclosing(dead_letters(bus, selection)) as found:
        await redrive(bus, found, outcomes.append, dry_run=dry_run)
    return outcomes


async def dropped(bus: Bus, selection: Selection = EVERYTHING, *, dry_run: bool = False) -> list[Outcome]:
    outcomes: list[Outcome] = []
    async with contextlib.aclosing(dead_letters(bus, selection)) as found:
        await drop(bus, found, outcomes.append, by="ann", dry_run=dry_run)
    return outcomes


def results(outcomes: Sequence[Outcome]) -> list[str]:
    return [outcome.result for outcome in outcomes]


async def publish(bus: Bus, keys: int, numbers: range) -> None:
    async with bus.publisher() as publisher:
        for n in numbers:
            await publisher.publish(CartAbandoned(customer_id=f"c{n % keys}", n=n))


async def bury(bus: Bus, keys: int, count: int) -> None:
    """That many letters of the writer ``win``, over some customers."""
    async with Worker(bus, [Scripted(failing())]) as worker:
        await publish(bus, keys, range(count))
        await worker.caught_up()
    assert len(await letters(bus)) == count


async def put_back(bus: Bus) -> list[Stored]:
    return await log_of(bus.transport, bus.namespace, "log.*.*.evt.redrive.>")


async def poison(bus: Bus) -> None:
    """One poisonous event among many: one letter, and after the fix one effect, however often it is redriven."""
    async with Worker(bus, [Scripted(failing(50))]) as worker:
        await publish(bus, 10, range(100))
        await worker.caught_up()
    assert len(await actions(bus)) == 99
    [letter] = await letters(bus)
    assert (letter.status, letter.customer, letter.reason) == ("open", "c0", "poison")
    async with Worker(bus, [Scripted()]) as worker:
        assert results(await redriven(bus)) == ["redriven"]
        await worker.caught_up()
        assert results(await redriven(bus)) == ["already"]
        assert results(await redriven(bus, OPEN)) == []
        await worker.caught_up()
    [again] = await put_back(bus)
    assert again.payload == await original(bus, letter)
    [action] = [action for action in await actions(bus) if action["data"]["n"] == 50]
    assert action["causeseq"] == again.sequence > letter.sequence
    assert (action["correlationid"], action["causationid"], action["hops"]) == (letter.id, letter.id, 1)
    assert action["data"]["seen"] == 10, "it was folded once, where it happened"
    assert [one.status for one in await letters(bus)] == ["redriven"]
    assert len(await actions(bus)) == 100


def test_a_poisonous_event_among_many() -> None:
    async def main() -> None:
        async with memory_bus() as bus:
            await poison(bus)

    turbo(main())


async def test_a_poisonous_event_among_many_on_a_server(nats_server: NatsServer) -> None:
    async with nats_bus(nats_server) as bus:
        await poison(bus)


@pytest.mark.parametrize("group", ["both", None])
def test_only_the_writer_that_failed_sees_it(group: str | None) -> None:
    seen: list[tuple[str, int]] = []

    def handle(writer: str) -> Callable[[Resident, Any], Any]:
        def note(resident: Resident, turn: Any) -> Any:
            seen.append((writer, turn.recorded.sequence))
            if writer == "win" and len(seen) <= 2:
                raise ValueError("at first")
            return offer(resident, turn)

        return note

    async def main() -> None:
        async with memory_bus() as bus:
            pair = [Scripted(handle(writer), writer=writer, group=group) for writer in ("win", "other")]
            async with Worker(bus, pair) as worker:
                await bus.publish(CartAbandoned(customer_id="c1", n=1))
                await worker.caught_up()
                assert len(seen) == 2
                assert results(await redriven(bus)) == ["redriven"]
                await worker.caught_up()
                [again] = await put_back(bus)
                assert seen[2:] == [("win", again.sequence)]
            # And none of them once their memory is gone.
            async with Worker(bus, pair) as worker:
                await bus.publish(CartAbandoned(customer_id="c1", n=2))
                await worker.caught_up()
            for writer in ("win", "other"):
                assert [action["data"]["seen"] for action in await actions(bus, writer)] == [1, 2]

    turbo(main())


def test_what_fails_again_is_a_letter_of_its_own() -> None:
    async def main() -> None:
        async with memory_bus() as bus:
            await bury(bus, 1, 1)
            async with Worker(bus, [Scripted(failing())]) as worker:
                await redriven(bus)
                await worker.caught_up()
            first, second = await letters(bus)
            [again] = await put_back(bus)
            assert (first.status, second.status, second.cause) == ("redriven", "open", again.sequence)
            assert (second.id, second.type, second.correlation_id) == (first.id, first.type, first.correlation_id)
            async with Worker(bus, [Scripted()]) as worker:
                assert results(await redriven(bus, OPEN)) == ["redriven"]
                await worker.caught_up()
            assert [letter.status for letter in await letters(bus)] == ["redriven", "redriven"]
            [action] = await actions(bus)
            assert action["data"]["seen"] == 1

    turbo(main())


def test_what_cannot_be_read_keeps_the_name_of_its_type() -> None:
    async def main() -> None:
        async with memory_bus() as bus, Worker(bus, [Scripted()]) as worker:
            at = bus.namespace.locate("c1")
            await bus.committer.store(at.stream, [Append(bus.namespace.event(at, "CartAbandoned"), b"junk")])
            await worker.caught_up()
            await redriven(bus)
            await worker.caught_up()
            first, second = await letters(bus)
            assert (first.type, second.type, second.error) == ("CartAbandoned", "CartAbandoned", "DecodeError")

    turbo(main())


def test_what_nobody_handles_any_more_is_told() -> None:
    async def main() -> None:
        async with memory_bus() as bus:
            await bury(bus, 1, 1)
            other = Scripted(handles=(OrderPlaced,), folds=())
            shared = Scripted(writer="other", group="win")
            async with Worker(bus, [other, shared]) as worker:
                await redriven(bus)
                await worker.caught_up()
            assert "win no longer handles CartAbandoned" in (await letters(bus))[-1].reason
            assert await actions(bus, "other") == []

    turbo(main())


def test_a_timer_that_failed_is_redriven_without_its_timer() -> None:
    broken = True

    def handle(resident: Resident, turn: Any) -> Any:
        event = turn.recorded.envelope.event
        if isinstance(event, CartAbandoned):
            waited = WaitEnded(customer_id=resident.key, n=event.n)
            return Output(timers=[SetTimer("wait", waited, START + timedelta(seconds=-1))])
        if broken:
            raise ValueError("not yet")
        return offer(resident, turn)

    async def main() -> None:
        nonlocal broken
        async with memory_bus() as bus:
            scripted = Scripted(handle, handles=(CartAbandoned, WaitEnded))
            async with Worker(bus, [scripted]) as worker:
                await bus.publish(CartAbandoned(customer_id="c1", n=7))
                await worker.caught_up()
                for timer in bus.transport._timers.pop_due(START):  # type: ignore[attr-defined]  # the twin's
                    await bus.committer.store(timer.stream, [Append(timer.target, timer.payload)])
                await worker.caught_up()
                [letter] = await letters(bus)
                assert ".evt.due.win.wait" in letter.subject
                broken = False
                await redriven(bus)
                await worker.caught_up()
            assert [action["data"]["n"] for action in await actions(bus)] == [7]

    turbo(main())


def test_redriving_and_dropping_exclude_each_other() -> None:
    async def main() -> None:
        async with memory_bus() as bus:
            await bury(bus, 2, 2)
            c0, c1 = (Selection(customer=customer) for customer in ("c0", "c1"))
            assert results(await dropped(bus, c0)) == ["dropped"]
            assert [(o.result, o.reason) for o in await redriven(bus, c0)] == [("excluded", "was dropped already")]
            assert results(await dropped(bus, c0)) == ["already"]
            assert results(await redriven(bus, c1)) == ["redriven"]
            assert [(o.result, o.reason) for o in await dropped(bus, c1)] == [("excluded", "was redriven already")]
            found = {letter.customer: letter for letter in await letters(bus)}
            assert (found["c0"].status, found["c1"].status) == ("dropped", "redriven")
            assert (await dead_letter(bus, found["c0"].number)).status == "dropped"
            verdict = json.loads((await put_back(bus))[0].payload)
            assert (verdict["kind"], verdict["by"]) == ("drop", "ann")
            async with Worker(bus, [Scripted()]) as worker:
                await worker.caught_up()
            assert [action["data"]["n"] for action in await actions(bus)] == [1]
            assert len(await letters(bus)) == 2

    turbo(main())


def test_those_who_did_not_see_it_coming_are_told_too() -> None:
    async def main() -> None:
        async with memory_bus() as bus:
            await bury(bus, 1, 3)
            before = await letters(bus)
            await dropped(bus, Selection(customer="c0"))

            async def stale() -> AsyncIterator[DeadLetter]:
                for letter in before:
                    yield letter

            outcomes: list[Outcome] = []
            await redrive(bus, stale(), outcomes.append)
            assert [(o.result, o.reason) for o in outcomes] == [("excluded", "was dropped already")] * 3

    turbo(main())


def test_a_dry_run_stores_nothing() -> None:
    async def main() -> None:
        async with memory_bus() as bus:
            await bury(bus, 3, 5)
            before = await log_of(bus.transport, bus.namespace)
            assert results(await redriven(bus, dry_run=True)) == ["redriven"] * 5
            assert results(await dropped(bus, dry_run=True)) == ["dropped"] * 5
            assert await log_of(bus.transport, bus.namespace) == before

    turbo(main())


def test_an_original_that_is_gone_stops_nobody() -> None:
    async def main() -> None:
        async with memory_bus() as bus:
            await bury(bus, 1, 3)
            gone = (await letters(bus))[1]
            await bus.transport.delete_messages(gone.cause_stream, [gone.cause])
            assert results(await redriven(bus)) == ["gone", "redriven", "redriven"]
            assert [letter.status for letter in await letters(bus)] == ["redriven", "open", "redriven"]

    turbo(main())


def test_a_customer_that_was_erased_is_not_put_back() -> None:
    async def main() -> None:
        async with memory_bus() as bus:
            await bury(bus, 2, 4)
            await erase(bus, "c0")
            await bury_more(bus, CartAbandoned(customer_id="c0", n=9))
            outcomes = await redriven(bus)
            assert sorted((o.letter.customer or "", o.result) for o in outcomes) == [
                ("c0", "erased"), ("c0", "erased"), ("c0", "redriven"), ("c1", "redriven"), ("c1", "redriven"),
            ]  # fmt: skip

    async def bury_more(bus: Bus, event: CartAbandoned) -> None:
        async with Worker(bus, [Scripted(failing())]) as worker:
            await bus.publish(event)
            await worker.caught_up()

    turbo(main())


@pytest.mark.parametrize("seed", range(6))
def test_over_lost_and_late_answers_each_is_stored_once_and_in_order(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sojourn.bus.bulk.IN_FLIGHT", 30)

    async def main() -> None:
        faults = Faults(seed, lost=0.3, refused=0.3, late=0.2, slow=0.5)
        faults.on = False
        transport = FaultyTransport(faults, VirtualTimers())
        async with memory_bus(transport) as bus:
            await bury(bus, 7, 300)
            faults.on = True
            outcomes = await redriven(bus)
            faults.on = False
            assert len(outcomes) == 300 and set(results(outcomes)) <= {"redriven", "already"}
            await check_put_back(bus)
            assert faults.met

    turbo(main(), seconds=3_000)


async def check_put_back(bus: Bus) -> None:
    """Every letter stands there once, with its original, in order for each customer and writer."""
    found = await letters(bus)
    messages = await put_back(bus)
    assert len(messages) == len(found) == len({message.subject for message in messages})
    order: dict[tuple[str, str], list[int]] = {}
    for message in messages:
        tokens = message.subject.split(".")
        order.setdefault((tokens[3], tokens[6]), []).append(int(tokens[7]))
    for sequences in order.values():
        assert sequences == sorted(sequences)
    assert {letter.status for letter in found} == {"redriven"}


class Breaking(MemoryTransport):
    """Fails for good after so many writes, as a process that is killed."""

    def __init__(self) -> None:
        super().__init__(VirtualTimers())
        self.left: int | None = None

    async def commit(self, stream: str, appends: Sequence[Append]) -> list[int]:
        self._count()
        return await super().commit(stream, appends)

    def send(self, stream: str, append: Append, done: Any) -> None:
        try:
            self._count()
        except SojournError as error:
            done(error)
        else:
            super().send(stream, append, done)

    def _count(self) -> None:
        if self.left is not None:
            if not self.left:
                raise UnavailableError("killed")
            self.left -= 1


def test_it_is_taken_up_where_it_was_interrupted() -> None:
    async def main() -> None:
        transport = Breaking()
        async with memory_bus(transport) as bus:
            await bury(bus, 5, 200)
            for left in (0, 1, 2, 2):
                transport.left = left
                with pytest.raises(UnavailableError):
                    await redriven(bus, OPEN)
            transport.left = None
            assert len(await put_back(bus)) < 200
            await redriven(bus, OPEN)
            await check_put_back(bus)
            async with Worker(bus, [Scripted()]):

                async def handled() -> bool:
                    return len(await actions(bus)) >= 200

                await until(handled)
            assert sorted(action["data"]["n"] for action in await actions(bus)) == list(range(200))

    turbo(main(), seconds=3_000)


@pytest.mark.parametrize("deed", ["redrive", "drop"])
def test_a_customer_that_is_parked_goes_on_when_a_person_decides(deed: str) -> None:
    async def main() -> None:
        async with memory_bus() as bus:
            async with Worker(bus, [Scripted(failing(1), on_poison="park")]):
                await publish(bus, 1, range(4))

                async def parked() -> bool:
                    return [letter.kind for letter in await letters(bus)] == ["parked"]

                await until(parked)
            [letter] = await letters(bus)
            assert (letter.type, letter.reason, letter.status) == ("CartAbandoned", "poison", "open")
            assert await dead_letter(bus, letter.number) == letter
            broken = (1,) if deed == "drop" else (99,)
            async with Worker(bus, [Scripted(failing(*broken), on_poison="park")]):
                outcomes = await (dropped(bus) if deed == "drop" else redriven(bus))
                assert results(outcomes) == ["dropped" if deed == "drop" else "woken"]
                expected = [0, 2, 3] if deed == "drop" else [0, 1, 2, 3]

                async def done() -> bool:
                    return len(await actions(bus)) >= len(expected)

                await until(done)
                assert [action["data"]["n"] for action in await actions(bus)] == expected

                async def released() -> bool:
                    return all(one.kind == "dead" for one in await letters(bus))

                await until(released)
            assert [one.cause for one in await letters(bus)] == ([letter.cause] if deed == "drop" else [])

    turbo(main())
