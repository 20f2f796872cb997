from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sojourn.bus.deadletters import DeadLetter, Selection, dead_letter, dead_letters, original
from sojourn.bus.delivery.worker import Worker
from sojourn.bus.errors import NotFoundError
from sojourn.bus.ports import Append
from sojourn.bus.redrive import Outcome, drop, redrive
from tests.bus.delivery.processors import CartAbandoned, OrderPlaced, Scripted, log_of, memory_bus, turbo


def test_dead_letters_are_found_by_writer_and_customer_past_records_that_are_none() -> None:
    def fails(resident: Any, turn: Any) -> Any:
        raise ValueError("never")

    async def main() -> None:
        async with memory_bus() as bus:
            async with Worker(bus, [Scripted(fails), Scripted(fails, writer="other")]) as worker:
                at = bus.namespace.locate("c1")
                await bus.transport.commit(at.stream, [Append(f"test.lane.{at.partition}.c1.act.win.dead", b"junk")])
                await bus.transport.commit(at.stream, [Append(f"test.lane.{at.partition}.c1.act.win.dead", b"{}")])
                for key in ("c1", "c2", "ключ.*"):
                    await bus.publish(CartAbandoned(customer_id=key, n=1))
                await worker.caught_up()

            async def found(**only: Any) -> list[DeadLetter]:
                return [letter async for letter in dead_letters(bus, **only)]

            assert len(await found()) == 6
            assert {letter.customer for letter in await found(writer="win")} == {"c1", "c2", "ключ.*"}
            assert [letter.writer for letter in await found(customer="ключ.*")] == ["win", "other"]
            assert await found(customer="nobody") == []
            [letter] = await found(writer="win", customer="c2")
            assert letter.error == "ValueError" and letter.reason == "never" and letter.attempts == 1
            content = await original(bus, letter)
            assert content is not None and json.loads(content)["subject"] == "c2"
            await bus.transport.delete_messages(letter.cause_stream, [letter.cause])
            assert await original(bus, letter) is None
            for number in ("", "x", "TEST_0", "TEST_0-0", "TEST_0-1", "TEST_9-1", "TEST_0-99999", "TEST_0-x"):
                with pytest.raises(NotFoundError):
                    await dead_letter(bus, number)

    turbo(main())


def test_a_selection_narrows_by_each_of_its_parts() -> None:
    def fails(resident: Any, turn: Any) -> Any:
        if isinstance(turn.recorded.envelope.event, OrderPlaced):
            raise LookupError("No such Order")
        raise ValueError("never")

    async def main() -> None:
        async with memory_bus() as bus:
            async with Worker(bus, [Scripted(fails, handles=(CartAbandoned, OrderPlaced))]) as worker:
                moments = [datetime(2026, 1, day, tzinfo=UTC) for day in (1, 2, 3)]
                for n, moment in enumerate(moments):
                    await bus.publish(CartAbandoned(customer_id="c1", n=n), time=moment)
                await bus.publish(OrderPlaced(customer_id="c2", n=3), time=moments[-1])
                await worker.caught_up()

            async def found(**parts: Any) -> int:
                return len([letter async for letter in dead_letters(bus, Selection(**parts))])

            assert await found() == 4
            assert (await found(type="OrderPlaced"), await found(type="Order")) == (1, 0)
            assert (await found(error="ValueError"), await found(error="LookupError")) == (3, 1)
            assert (await found(reason="no such order"), await found(reason="ever"), await found(reason="x")) == (
                1,
                3,
                0,
            )
            assert (await found(customer="c1"), await found(writer="win"), await found(writer="other")) == (3, 4, 0)
            times = sorted(letter.time for letter in [one async for one in dead_letters(bus)])
            assert times == [*moments, moments[-1]]
            assert (await found(since=moments[1]), await found(until=moments[1])) == (3, 1)
            assert await found(since=moments[1], until=moments[1] + timedelta(days=1)) == 1
            assert (await found(status="open"), await found(status="all"), await found(status="dropped")) == (4, 4, 0)
            both = Selection(type="CartAbandoned", customer="c2")
            assert [one async for one in dead_letters(bus, both)] == []

    turbo(main())


def test_customers_parked_until_a_person_decides_are_among_them() -> None:
    async def main() -> None:
        async with memory_bus() as bus:
            at = {key: bus.namespace.locate(key) for key in ("asks", "wakes", "went", "again", "junk")}
            cause = (await bus.publish(CartAbandoned(customer_id="asks", n=1))).sequence

            async def record(key: str, kind: str, **facts: Any) -> int:
                document = {"kind": kind, "generation": 0, "timers": {}} | facts
                append = Append(bus.namespace.record(at[key], "win", kind), json.dumps(document).encode())
                [sequence] = await bus.transport.commit(at[key].stream, [append])
                return sequence

            facts = {"from": cause, "attempts": 3, "reason": "never", "error": "ValueError"}
            number = await record("asks", "parked", **facts)
            wakes = await record("wakes", "parked", **facts, timers={"=park": [1, "2026-01-01T00:00:00+00:00"]})
            went = await record("went", "parked", **facts)
            await record("went", "unparked", cause=cause)
            older = await record("again", "parked", **facts)
            await record("again", "unparked", cause=cause)
            newer = await record("again", "parked", **facts)
            await bus.transport.commit(
                at["junk"].stream, [Append(bus.namespace.record(at["junk"], "win", "parked"), b"junk")]
            )

            found = {letter.customer: letter async for letter in dead_letters(bus)}
            assert found.keys() == {"asks", "again"}
            letter = found["asks"]
            assert (letter.kind, letter.status, letter.sequence, letter.cause) == ("parked", "open", number, cause)
            assert (letter.type, letter.attempts, letter.reason) == ("CartAbandoned", 3, "never")
            assert await dead_letter(bus, letter.number) == letter
            assert found["again"].sequence == newer
            for gone in (wakes, went, older):
                with pytest.raises(NotFoundError):
                    await dead_letter(bus, f"{at['went'].stream}-{gone}")

            outcomes: list[Outcome] = []
            await redrive(bus, dead_letters(bus, customer="asks"), outcomes.append)
            await drop(bus, dead_letters(bus, customer="again"), outcomes.append, by="ann")
            assert [outcome.result for outcome in outcomes] == ["woken", "dropped"]
            stored = await log_of(bus.transport, bus.namespace, "log.*.*.evt.redrive.win.*")
            told = {int(message.subject.rsplit(".", 1)[1]): json.loads(message.payload)["kind"] for message in stored}
            assert told == {number: "wake", newer: "drop"}
            assert {letter.status async for letter in dead_letters(bus)} == {"redriven", "dropped"}

    turbo(main())
