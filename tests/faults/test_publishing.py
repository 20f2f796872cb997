"""A publisher behind a network that breaks in the worst moments: each event is stored once, and it always goes on."""

from __future__ import annotations

import asyncio

import pytest

from tests.faults.proxy import CLEAR
from tests.faults.shop import lose_answers, open_shop
from tests.nats_server import NatsServer


@pytest.mark.parametrize("events", [1, 200], ids=["one", "batch"])
async def test_the_ack_is_lost_and_the_retry_comes_after_the_deduplication_window(
    nats_server: NatsServer, events: int
) -> None:
    async with open_shop(nats_server, seed=44) as shop:
        await shop.remember(1.0)
        made = shop.make(events)
        lost = lose_answers(shop.to_publisher, made[-1][0].encode())
        publishing = asyncio.create_task(shop.publish(made))
        async with asyncio.timeout(20):
            await lost.wait()
        await shop.until_stored(made[-1][0])
        # The server's memory of ids is a matter of its clock, which nobody here can turn.
        await asyncio.sleep(1.5)
        shop.to_publisher.set(down=CLEAR)
        shop.to_publisher.cut()
        async with asyncio.timeout(20):
            await publishing
        await shop.handled(shop.deserving)
        await shop.check()
