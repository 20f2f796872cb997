"""Closing a connection that is broken: it ends in time, and in the words of nobody else's error."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from nats.aio.msg import Msg

from sojourn.bus.errors import UnavailableError
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


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_socket_that_closes_under_whoever_writes_is_left_for_a_new_one(nats_server: NatsServer, loop: str) -> None:
    factory = pytest.importorskip("uvloop").new_event_loop if loop == "uvloop" else None

    async def ignore(message: Msg) -> None:
        """Nothing comes."""

    async def write() -> None:
        states: list[str] = []
        transport = await connect_nats(nats_server.url, timers=JetStreamTimers(), on_state=states.append)
        flow = transport.consume("NOWHERE", "nobody", lambda _: None, lambda _: None)
        client: Any = transport._connection.client
        # As when the server died just now: nobody has read the end of it yet, and what is written fails.
        client._flusher_task.cancel()
        client._reading_task.cancel()
        client._transport._io_writer.transport.abort()
        await asyncio.sleep(0.01)
        flow.ack("$JS.ACK.nowhere.nobody.1.1.1.1.0")
        await asyncio.sleep(0.01)
        with pytest.raises(UnavailableError):
            await transport._connection.subscribe("nowhere", ignore)
        usual, client.options["ping_interval"] = client.options["ping_interval"], 0
        pinging = asyncio.create_task(client._ping_interval())
        await asyncio.sleep(0)
        client.options["ping_interval"] = usual
        await until(lambda: "reconnected" in states)
        await pinging
        assert await transport.streams() is not None
        await transport.close()

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(write())
