"""Closing a connection that is broken: it ends in time, and in the words of nobody else's error."""

from __future__ import annotations

import asyncio
import time

import pytest

from sojourn.bus.nats import connect_nats
from sojourn.bus.ports import Append
from sojourn.bus.timers import JetStreamTimers
from tests.faults.proxy import STALL, Proxy
from tests.faults.shop import until
from tests.nats_server import NatsServer

SOON = 5.0
"""Seconds in which a connection closes, whatever its peer does; two of them wait for what was sent."""


async def test_a_dead_peer_that_takes_no_more_does_not_hold_it_up(nats_server: NatsServer) -> None:
    async with Proxy(nats_server.port) as proxy:
        transport = await connect_nats(proxy.url, timers=JetStreamTimers())
        proxy.set(up=STALL, down=STALL)
        outcomes: list[object] = []
        for _ in range(100):
            transport.send("NOWHERE", Append("nowhere.at.all", b"x" * 200_000), outcomes.append)
        begun = time.monotonic()
        async with asyncio.timeout(SOON):
            await transport.close()
        assert time.monotonic() - begun < SOON
        assert len(outcomes) == 100


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_what_is_kept_for_a_server_that_is_away_is_dropped(nats_server: NatsServer, loop: str) -> None:
    factory = pytest.importorskip("uvloop").new_event_loop if loop == "uvloop" else None

    async def close() -> list[str]:
        states: list[str] = []
        async with Proxy(nats_server.port) as proxy:
            transport = await connect_nats(proxy.url, timers=JetStreamTimers(), on_state=states.append)
            await transport.streams()
            flow = transport.consume("NOWHERE", "nobody", lambda _: None, lambda _: None)
            proxy.refusing = True
            proxy.cut()
            await until(lambda: "disconnected" in states)
            # An ack is fire and forget: nats-py keeps it for the next connection, which never comes.
            for _ in range(10):
                flow.ack("$JS.ACK.nowhere.nobody.1.1.1.1.0")
                await asyncio.sleep(0)
            async with asyncio.timeout(SOON):
                await transport.close()
        return states

    with asyncio.Runner(loop_factory=factory) as runner:
        assert runner.run(close())[-1] == "closed"
