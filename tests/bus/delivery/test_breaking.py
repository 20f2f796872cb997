"""The breaker in the worker: while an endpoint is down its calls are held, and nothing is given up for it."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Coroutine
from datetime import timedelta
from itertools import pairwise
from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from sojourn.bus.breaker import CUSTOMERS, LONGEST_PAUSE, State
from sojourn.bus.client import Bus
from sojourn.bus.clock import Clock
from sojourn.bus.delivery import handling, session
from sojourn.bus.delivery.worker import Worker
from sojourn.bus.errors import PermanentError, TransientError
from sojourn.bus.memory import MemoryTransport
from sojourn.bus.ports import Append
from sojourn.bus.processor import Output, Retry, Turn
from sojourn.bus.timers import VirtualTimers
from tests.bus.delivery.machine_line import LoopClock
from tests.bus.delivery.processors import (
    QUICK,
    CartAbandoned,
    Resident,
    Scripted,
    Turbo,
    actions,
    check_effects,
    dead,
    memory_bus,
    offer,
)

MINUTES = 10
EVENTS = 120
PEOPLE = 40


def steady(patch: pytest.MonkeyPatch, main: Coroutine[Any, Any, None]) -> None:
    """Runs ``main`` without waiting, with all clocks on the loop's time."""
    with asyncio.Runner(loop_factory=Turbo) as runner:
        for module in (handling, session):
            patch.setattr(module, "monotonic", runner.get_loop().time)
        runner.run(main)


def clock() -> Clock:
    return cast("Clock", LoopClock(asyncio.get_running_loop()))


@contextlib.asynccontextmanager
async def town() -> AsyncIterator[Bus]:
    """A bus on the loop's time, whose timers fire."""
    timers = VirtualTimers()
    time = clock()

    async def serve() -> None:
        while True:
            for timer in timers.pop_due(time.now()):
                await bus.committer.store(timer.stream, [Append(timer.target, timer.payload)])
            await asyncio.sleep(1)

    async with memory_bus(MemoryTransport(timers), clock=time) as bus:
        serving = asyncio.create_task(serve())
        try:
            yield bus
        finally:
            serving.cancel()


def now() -> float:
    return asyncio.get_running_loop().time()


async def publish(bus: Bus, events: int = EVENTS, people: int = PEOPLE) -> None:
    for n in range(events):
        await bus.publish(CartAbandoned(customer_id=f"c{n % people}", n=n))


class Endpoint:
    """What handlers call. ``calls``: when, while it was down, and afterwards; ``slow``: how long a call takes."""

    def __init__(self, *, slow: float = 0.0, **facts: object) -> None:
        self.down = True
        self.slow = slow
        self.met: list[float] = []
        self.calls: list[float] = []
        self.facts = facts

    async def handle(self, resident: Resident, turn: Turn) -> Output:
        if self.slow:
            await asyncio.sleep(self.slow)
        (self.met if self.down else self.calls).append(now())
        if self.down:
            error = TransientError("the endpoint is down")
            for name, value in self.facts.items():
                setattr(error, name, value)
            raise error
        return offer(resident, turn)


@pytest.mark.parametrize("slow", [0.0, 0.2], ids=["one by one", "all at once"])
def test_an_endpoint_that_is_down_holds_its_calls_and_gives_nothing_up(
    monkeypatch: pytest.MonkeyPatch, slow: float
) -> None:
    endpoint = Endpoint(slow=slow)

    async def main() -> None:
        both = [Scripted(endpoint.handle, writer="mailer", retry=QUICK), Scripted()]
        async with town() as bus, Worker(bus, both) as worker:
            await publish(bus)
            await asyncio.sleep(5)
            assert await check_effects(bus) == EVENTS, "an agent beside it goes on"
            await asyncio.sleep(MINUTES * 60)
            assert await actions(bus, "mailer") == [] == await dead(bus, "mailer")
            at_once = PEOPLE if slow else CUSTOMERS
            assert at_once <= len(endpoint.met) <= at_once + 10 + MINUTES, "few calls, and fewer as time goes by"
            last = [after - before for before, after in pairwise(endpoint.met)][-5:]
            assert min(last) >= LONGEST_PAUSE
            # What comes meanwhile waits, too.
            await publish(bus)
            await asyncio.sleep(1)
            [condition] = worker.breakers.snapshot(now())
            assert condition.handler is not None and condition.handler.writer == "mailer"
            assert condition.state is State.OPEN and condition.refused > PEOPLE / 2
            endpoint.down = False
            await asyncio.sleep(2 * LONGEST_PAUSE)
            assert worker.breakers.snapshot(now()) == []
            assert await check_effects(bus, "mailer") == await check_effects(bus) == 2 * EVENTS
            assert len(endpoint.calls) == 2 * EVENTS, "each is called once"
            assert await dead(bus, "mailer") == []

    steady(monkeypatch, main())


def test_one_who_stays_down_is_not_given_up_by_a_new_owner_either(monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint = Endpoint()

    async def main() -> None:
        async with town() as bus:
            for life in range(3):
                async with Worker(bus, [Scripted(endpoint.handle, retry=QUICK)]):
                    if not life:
                        await publish(bus)
                    await asyncio.sleep(200)
            assert await actions(bus) == [] == await dead(bus)
            endpoint.down = False
            async with Worker(bus, [Scripted(endpoint.handle, retry=QUICK)]):
                await asyncio.sleep(2 * LONGEST_PAUSE)
            assert await check_effects(bus) == EVENTS

    steady(monkeypatch, main())


def test_a_host_that_is_down_holds_whoever_calls_it_and_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    mail, texts, other = (Endpoint(host=host) for host in ("mail.example", "mail.example", "other.example"))
    other.down = False

    async def main() -> None:
        three = [
            Scripted(endpoint.handle, writer=writer, retry=QUICK)
            for writer, endpoint in (("mailer", mail), ("texter", texts), ("win", other))
        ]
        async with town() as bus, Worker(bus, three) as worker:
            await publish(bus)
            await asyncio.sleep(MINUTES * 60)
            assert await check_effects(bus) == EVENTS
            open_ones = [one for one in worker.breakers.snapshot(now()) if one.state is not State.CLOSED]
            assert "mail.example" in [one.host for one in open_ones]
            assert len(mail.met) + len(texts.met) < 2 * (CUSTOMERS + MINUTES + 10)
            mail.down = texts.down = False
            await asyncio.sleep(4 * LONGEST_PAUSE)
            for writer in ("mailer", "texter"):
                assert await check_effects(bus, writer) == EVENTS
                assert await dead(bus, writer) == []

    steady(monkeypatch, main())


def test_one_customers_own_trouble_opens_nothing_and_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: Counter[str] = Counter()

    def handle(resident: Resident, turn: Turn) -> Output:
        calls[resident.key] += 1
        if resident.key == "c0":
            raise TransientError("only this one")
        return offer(resident, turn)

    async def main() -> None:
        retry = Retry(50, timedelta(milliseconds=100), timedelta(seconds=1))
        async with town() as bus, Worker(bus, [Scripted(handle, retry=retry)]) as worker:
            await publish(bus)
            await asyncio.sleep(0.1)
            assert len(await actions(bus)) == EVENTS - EVENTS // PEOPLE
            for second in range(10):
                await asyncio.sleep(1)
                assert all(one.state is State.CLOSED for one in worker.breakers.snapshot(now()))
                await bus.publish(CartAbandoned(customer_id="c1", n=1_000 + second))
                await asyncio.sleep(0.01)
                assert len(await actions(bus)) == EVENTS - EVENTS // PEOPLE + second + 1
            assert calls["c0"] > 10

    with capture_logs() as told:
        steady(monkeypatch, main())
    assert not [line for line in told if "breaker" in line["event"]]


def test_events_that_are_at_fault_themselves_open_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def handle(resident: Resident, turn: Turn) -> Output:
        raise PermanentError("bad data")

    async def main() -> None:
        async with town() as bus, Worker(bus, [Scripted(handle)]) as worker:
            await publish(bus)
            await worker.caught_up()
            assert len(await dead(bus)) == EVENTS
            assert worker.breakers.snapshot(now()) == []

    steady(monkeypatch, main())


@pytest.mark.parametrize("after", [45, 200])
def test_an_endpoint_that_says_when_to_come_back_is_not_called_before(
    monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    endpoint = Endpoint(slow=0.1, headers={"retry-after": str(after)})

    async def main() -> None:
        async with town() as bus, Worker(bus, [Scripted(endpoint.handle)]):
            await publish(bus)
            await asyncio.sleep(3.5 * after)
            assert await dead(bus) == []
            later = [when for when in endpoint.met if when > endpoint.met[0] + 1]
            assert len(endpoint.met) - len(later) == PEOPLE, "those that were under way together"
            rounds = [endpoint.met[0], *later]
            assert 2 <= len(later) <= 3
            assert all(last + after <= next <= last + 1.5 * after for last, next in pairwise(rounds))
            endpoint.down = False
            await asyncio.sleep(2 * after)
            assert await check_effects(bus) == EVENTS

    steady(monkeypatch, main())


def test_one_customer_that_is_told_when_to_come_back_is_called_then(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[float] = []

    def handle(resident: Resident, turn: Turn) -> Output:
        if resident.key != "c0":
            return offer(resident, turn)
        calls.append(now())
        if len(calls) > 1:
            return offer(resident, turn)
        error = TransientError("too many")
        error.retry_after = 30  # type: ignore[attr-defined]  # as clients of APIs have it
        raise error

    async def main() -> None:
        async with town() as bus, Worker(bus, [Scripted(handle)]):
            await publish(bus)
            await asyncio.sleep(60)
            assert 30 <= calls[1] - calls[0] <= 46
            assert await check_effects(bus) == EVENTS

    steady(monkeypatch, main())
