"""A publisher behind a network that breaks in the worst moments: each event is stored once, and it always goes on."""

from __future__ import annotations

import asyncio
import time

from tests.faults.proxy import STALL
from tests.faults.shop import open_shop, until
from tests.nats_server import NatsServer


async def test_a_peer_that_dies_while_much_is_written_to_it_is_left_too(nats_server: NatsServer) -> None:
    async with open_shop(nats_server, seed=51) as shop:
        await shop.publish(shop.make(20))
        begun = time.monotonic()
        for link in shop.to_publisher.links:
            link.set(up=STALL, down=STALL)
        # More than sockets hold: what was written and will never leave must not hold up the end of the connection.
        publishing = asyncio.create_task(shop.publish(shop.make(100, note="x" * 200_000)))
        await until(lambda: "reconnected" in shop.publisher_states, 35)
        assert time.monotonic() - begun < 35
        async with asyncio.timeout(20):
            await publishing
        await shop.handled(shop.deserving)
        await shop.check()
