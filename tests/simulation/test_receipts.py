from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import pytest

from sojourn.bus.client import open_bus
from sojourn.bus.clock import VirtualClock
from sojourn.bus.delivery.worker import Worker
from sojourn.bus.errors import TimedOutError, UnavailableError
from sojourn.bus.memory import MemoryTransport
from sojourn.bus.ports import Append, Receipt, StreamState
from sojourn.bus.subjects import Namespace
from sojourn.simulation.audit import Tally, audit
from sojourn.simulation.driver import Driver
from sojourn.simulation.engine import Engine
from sojourn.simulation.run import Watching
from sojourn.simulation.shoppers import shoppers
from sojourn.simulation.simulate import run_simulation
from sojourn.simulation.timers import CustomerTimers
from tests.nats_server import NatsServer
from tests.simulation.shop import CATALOG, Lapse, Recovery
from tests.simulation.world import MEMORY, START, at

PROCESSORS = (Recovery(), Lapse(days=1.5))


class Forgetful(MemoryTransport):
    """Stores everything, and now and then neither it nor its timers learn of it; sometimes it stores nothing."""

    def __init__(self, timers: CustomerTimers, seed: int) -> None:
        super().__init__(timers)
        self.luck = random.Random(seed)
        self.chance = 0.0
        self.swallowed = 0

    def send(self, stream: str, append: Append, done: Callable[[Receipt | Exception], None]) -> None:
        if not self._fails():
            super().send(stream, append, done)
            return
        self._mute(
            lambda: super(Forgetful, self).send(stream, append, lambda outcome: done(TimedOutError("no answer")))
        )

    async def commit(self, stream: str, appends: Sequence[Append]) -> list[int]:
        if not self._fails():
            return await super().commit(stream, appends)
        if self.luck.random() < 0.3:
            raise UnavailableError("not stored")
        timers, self._timers = self._timers, CustomerTimers()
        storing = super().commit(stream, appends)
        # The memory stores before its first pause, and pauses only then.
        try:
            storing.send(None)
        except StopIteration:
            pass
        finally:
            self._timers = timers
            storing.close()
        raise TimedOutError("no answer")

    async def stream_state(self, name: str) -> StreamState | None:
        if self._fails():
            raise UnavailableError("not there")
        return await super().stream_state(name)

    def _fails(self) -> bool:
        if self.luck.random() >= self.chance:
            return False
        self.swallowed += 1
        return True

    def _mute(self, call: Callable[[], Any]) -> None:
        timers, self._timers = self._timers, CustomerTimers()
        try:
            call()
        finally:
            self._timers = timers


async def live(transport: Forgetful, timers: CustomerTimers, chance: float) -> tuple[Tally, int]:
    clock = VirtualClock(START)
    people = shoppers(25, CATALOG, seed=7, start=START, end=at(5))
    async with open_bus(transport, Namespace("sim"), clock=clock, catalog=CATALOG, purpose="simulation") as bus:
        async with Worker(bus, PROCESSORS, catalog=CATALOG, ingress=False, relays=False) as worker:
            driver = Driver(
                bus, timers, people, clock=clock, end=at(5), quiet=worker.caught_up, hear=worker.widen,
                types={cls.__name__: cls for cls in CATALOG}, window=timedelta(days=1),
            )  # fmt: skip
            transport.chance = chance
            await driver.run()
            transport.chance = 0.0
        tally = await audit(transport, bus.namespace, PROCESSORS, published=driver.published, end=at(5))
    return tally, driver.actions


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries do not wait for long."""
    for module in ("sojourn.bus.publisher", "sojourn.simulation.firing", "sojourn.simulation.receipts"):
        monkeypatch.setattr(f"{module}._PAUSE", 0.001)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.usefixtures("hasty")
async def test_answers_that_are_lost_change_nothing(seed: int) -> None:
    reliable, timers = CustomerTimers(), CustomerTimers()
    expected, actions = await live(Forgetful(reliable, 0), reliable, 0.0)
    transport = Forgetful(timers, seed)
    tally, told = await live(transport, timers, 0.15)
    assert transport.swallowed > 20
    assert tally == expected
    assert told == actions
    assert tally.clean
    assert tally.fired > 3


async def test_a_server_that_is_killed_changes_nothing(server: NatsServer) -> None:
    expected = (await run_simulation(PROCESSORS, CATALOG, customers=40, days=5, engine=MEMORY)).table()
    said: list[str] = []
    rounds = 0

    def kill(progress: object) -> None:
        nonlocal rounds
        rounds += 1
        if rounds % 12 == 0 and rounds < 50:
            server.kill9()
            server.restart()

    engine = Engine("nats", "killed", url=server.url, say=said.append)
    result = await run_simulation(PROCESSORS, CATALOG, customers=40, days=5, engine=engine, watching=Watching(kill))
    assert rounds > 50
    assert "disconnected" in said
    assert result.table() == expected
    assert result.clean
