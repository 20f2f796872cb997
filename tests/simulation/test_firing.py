from __future__ import annotations

from collections.abc import Callable

import pytest

from sojourn.bus.committer import Committer
from sojourn.bus.errors import PermissionDenied, UnavailableError
from sojourn.bus.memory import MemoryTransport
from sojourn.bus.ports import Append, Receipt, StreamSpec
from sojourn.bus.timers import DueTimer
from sojourn.simulation.firing import Firing
from sojourn.simulation.timers import CustomerTimers
from tests.simulation.world import at

TARGET = "sim.log.1.a.evt.due.lapse.x"


class Refusing(MemoryTransport):
    """Answers with what it is told to, first come, first served; then it stores."""

    def __init__(self, *answers: Exception) -> None:
        super().__init__(CustomerTimers())
        self.answers = list(answers)

    def send(self, stream: str, append: Append, done: Callable[[Receipt | Exception], None]) -> None:
        if self.answers:
            done(self.answers.pop(0))
        else:
            super().send(stream, append, done)


async def fire(transport: Refusing, count: int = 1) -> list[str]:
    await transport.create_stream(StreamSpec("SIM_1", ("sim.log.1.>",)))
    firing = Firing(Committer(transport))
    for number in range(count):
        payload = b'{"id": "%d"}' % number
        firing.fire(DueTimer(at(1), "sim.timer.1.a.lapse.x", number, "SIM_1", TARGET, payload))
    await firing.flush()
    return [message.subject for message in await transport.read("SIM_1", "sim.>")]


async def test_messages_are_stored_under_their_targets() -> None:
    assert await fire(Refusing(), 3) == [TARGET] * 3


async def test_nothing_fired_is_flushed_at_once() -> None:
    await Firing(Committer(Refusing())).flush()


async def test_it_tries_again_through_an_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sojourn.simulation.firing._PAUSE", 0.001)
    assert await fire(Refusing(*[UnavailableError("gone")] * 5), 2) == [TARGET] * 2


async def test_after_its_patience_it_gives_up_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sojourn.simulation.firing._PAUSE", 0.001)
    monkeypatch.setattr("sojourn.simulation.firing.PATIENCE", 0.05)
    with pytest.raises(UnavailableError, match="gone"):
        await fire(Refusing(*[UnavailableError("gone")] * 1000))


async def test_a_refusal_is_raised_at_once() -> None:
    with pytest.raises(PermissionDenied, match="no"):
        await fire(Refusing(PermissionDenied("no")))


async def test_what_is_stored_already_is_stored_once() -> None:
    transport = Refusing()
    assert await fire(transport) == [TARGET]
    firing = Firing(Committer(transport))
    firing.fire(DueTimer(at(1), "sim.timer.1.a.lapse.x", 0, "SIM_1", TARGET, b'{"id": "0"}'))
    await firing.flush()
    assert len(await transport.read("SIM_1", "sim.>")) == 1
