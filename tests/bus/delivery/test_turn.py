"""What a handler may ask of its turn: journalled results, identifiers, timers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest

from sojourn.bus.client import Bus
from sojourn.bus.delivery.worker import Worker
from sojourn.bus.errors import PermanentError, TransientError, UnavailableError
from sojourn.bus.processor import Output, SetTimer, Turn
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
    check_effects,
    dead,
    log_of,
    memory_bus,
    offer,
    turbo,
    until,
)


class Paid:
    """A paid call that counts."""

    def __init__(self) -> None:
        self.calls = 0

    async def __call__(self) -> bytes:
        self.calls += 1
        await asyncio.sleep(0.01)
        return json.dumps({"call": self.calls}).encode()


def run(
    handle: Callable[[Resident, Turn], Any], story: Callable[[Bus, Worker], Awaitable[None]], **options: Any
) -> None:
    async def main() -> None:
        async with memory_bus() as bus, Worker(bus, [Scripted(handle, **options)]) as worker:
            await story(bus, worker)

    turbo(main())


def test_a_journalled_call_is_made_once_over_retries() -> None:
    paid = Paid()

    async def handle(resident: Resident, turn: Turn) -> Output:
        result = await turn.once("price", paid)
        assert json.loads(result) == {"call": 1}
        if turn.attempt < 3:
            raise TransientError("later")
        return offer(resident, turn, result.decode())

    async def story(bus: Bus, worker: Worker) -> None:
        await bus.publish(CartAbandoned(customer_id="c1", n=1))
        await worker.caught_up()
        assert paid.calls == 1 and await check_effects(bus) == 1

    run(handle, story)


def test_a_journalled_call_is_made_once_over_a_reset_and_again_for_the_next_event() -> None:
    paid = Paid()
    stop = [True]

    async def handle(resident: Resident, turn: Turn) -> Output:
        first = await turn.once("price", paid)
        second = await turn.once("tax", paid)
        if stop:
            await asyncio.Event().wait()
        return offer(resident, turn, f"{first.decode()} {second.decode()}")

    async def story(bus: Bus, worker: Worker) -> None:
        await bus.publish(CartAbandoned(customer_id="c1", n=1))

        async def journalled() -> bool:
            return len(await log_of(bus.transport, bus.namespace, "lane.*.*.act.win.once")) == 2

        await until(journalled)
        stop.clear()
        for partition in worker.groups[0].partitions.values():
            partition.restart("test")
        await bus.publish(CartAbandoned(customer_id="c1", n=2))
        await worker.caught_up()
        assert [d["data"]["note"] for d in await actions(bus)] == [
            '{"call": 1} {"call": 2}',
            '{"call": 3} {"call": 4}',
        ]

    run(handle, story)


@pytest.mark.parametrize("form", ["gather", "group"])
def test_journalled_calls_may_run_together_and_their_interruption_starts_over(form: str) -> None:
    faults = Faults(3, refused=0.3, lost=0.2, conflict=0.2, slow=1.0)
    faults.on = False
    paid = Paid()

    async def handle(resident: Resident, turn: Turn) -> Output:
        if form == "gather":
            await asyncio.gather(*(turn.once(f"call{n}", paid) for n in range(5)))
        else:
            async with asyncio.TaskGroup() as tasks:
                for n in range(5):
                    tasks.create_task(turn.once(f"call{n}", paid))
        return offer(resident, turn)

    async def main() -> None:
        transport = FaultyTransport(faults)
        async with memory_bus(transport) as bus, Worker(bus, [Scripted(handle)]) as worker:
            for n in range(20):
                await bus.publish(CartAbandoned(customer_id=f"c{n % 4}", n=n))
            faults.on = True
            await asyncio.sleep(60)
            transport.heal()
            await worker.caught_up()
            assert await check_effects(bus) == 20
            assert await dead(bus) == []
            stored = [json.loads(m.payload) for m in await log_of(transport, bus.namespace, "lane.*.*.act.win.once")]
            causes = [(document["cause"], document["name"]) for document in stored]
            assert len(causes) == len(set(causes)) == 100

    turbo(main())


@pytest.mark.parametrize(
    ("result", "reason"),
    [(b"\xff", "is no JSON"), (b"nonsense", "is no JSON"), (b'"' + b"x" * 1_100_000 + b'"', "too large")],
    ids=["bytes", "text", "large"],
)
def test_a_result_that_cannot_be_journalled_is_a_dead_letter(result: bytes, reason: str) -> None:
    async def call() -> bytes:
        return result

    async def handle(resident: Resident, turn: Turn) -> Output:
        await turn.once("call", call)
        return offer(resident, turn)

    async def story(bus: Bus, worker: Worker) -> None:
        await bus.publish(CartAbandoned(customer_id="c1", n=1))
        await worker.caught_up()
        [letter] = await dead(bus)
        assert reason in letter["reason"]

    run(handle, story)


def test_the_failure_of_a_journalled_call_is_the_handlers_own() -> None:
    async def call() -> bytes:
        raise UnavailableError("the model does not answer")

    async def handle(resident: Resident, turn: Turn) -> Output:
        try:
            await turn.once("call", call)
        except UnavailableError as error:
            raise PermanentError("given up") from error
        return offer(resident, turn)

    async def story(bus: Bus, worker: Worker) -> None:
        await bus.publish(CartAbandoned(customer_id="c1", n=1))
        await worker.caught_up()
        [letter] = await dead(bus)
        assert letter["reason"] == "given up" and "the model does not answer" in letter["traceback"]

    run(handle, story)


def test_identifiers_are_the_same_on_every_attempt_and_differ_by_cause_and_part() -> None:
    ids: dict[int, list[str]] = {}

    def handle(resident: Resident, turn: Turn) -> Output:
        ids.setdefault(turn.recorded.sequence, []).append(turn.id("mail", 1))
        assert turn.id("mail", 2) != turn.id("mail", 1)
        if turn.attempt < 3:
            raise TransientError("later")
        return offer(resident, turn)

    async def story(bus: Bus, worker: Worker) -> None:
        for n in range(3):
            await bus.publish(CartAbandoned(customer_id="c1", n=n))
        await worker.caught_up()
        assert all(len(found) == 3 and len(set(found)) == 1 for found in ids.values())
        assert len({found[0] for found in ids.values()}) == 3

    run(handle, story)


def test_a_turn_knows_open_timers_the_present_and_its_cause() -> None:
    seen: list[object] = []

    def handle(resident: Resident, turn: Turn) -> Output:
        seen.append(turn.timer("wait"))
        assert turn.now == turn.recorded.envelope.time
        assert turn.cause.sequence == turn.recorded.sequence and turn.cause.id == turn.recorded.envelope.id
        at = START + timedelta(days=1)
        return Output(timers=[SetTimer("wait", WaitEnded(customer_id=resident.key, n=1), at)])

    async def story(bus: Bus, worker: Worker) -> None:
        await bus.publish(CartAbandoned(customer_id="c1", n=1), time=START - timedelta(days=3))
        await bus.publish(OrderPlaced(customer_id="c1", n=2), time=START)
        await worker.caught_up()
        assert seen == [None, START + timedelta(days=1)]

    run(handle, story, handles=(CartAbandoned, OrderPlaced, WaitEnded))
