from __future__ import annotations

import json
from typing import Any

import pytest

from sojourn.bus.deadletters import DeadLetter, dead_letter, dead_letters, original
from sojourn.bus.delivery.worker import Worker
from sojourn.bus.errors import NotFoundError
from sojourn.bus.ports import Append
from tests.bus.delivery.processors import CartAbandoned, Scripted, memory_bus, turbo


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
