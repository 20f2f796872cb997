"""Older events of a customer come again after newer ones were handled, on the real server: never out of order."""

from __future__ import annotations

import asyncio
import itertools
import random
from datetime import timedelta

import nats
from nats.aio.client import Client

from sojourn.bus.delivery.partition import Partition
from sojourn.bus.delivery.worker import Worker
from sojourn.bus.errors import TransientError
from sojourn.bus.processor import Output, Retry, Turn
from tests.bus.delivery.processors import (
    CartAbandoned,
    Resident,
    Scripted,
    check_effects,
    dead,
    offer,
)
from tests.bus.delivery.test_worker_nats import nats_bus
from tests.nats_server import NatsServer

ROUNDS = 50
CUSTOMERS = 3
EVENTS = 12
"""Of each round: few customers with several events each, so that whatever is delivered again has newer ones behind."""


async def reset(client: Client, stream: str, consumer: str) -> None:
    """As another owner does it: all that is not acked is delivered anew."""
    await client.request(f"$JS.API.CONSUMER.RESET.{stream}.{consumer}", timeout=5)


async def refuse(client: Client, partition: Partition) -> int:
    """Has the server deliver again what was delivered and is not acked, after whatever it has sent since."""
    tokens = list(partition._open.values())
    for token in tokens:
        await client.publish(token, b"-NAK")
    return len(tokens)


async def test_older_events_that_come_again_after_newer_ones_change_nothing(nats_server: NatsServer) -> None:
    chance = random.Random(5)
    resets = refused = 0

    async def handle(resident: Resident, turn: Turn) -> Output:
        await asyncio.sleep(chance.random() * 0.004)
        if turn.attempt == 1 and chance.random() < 0.3:
            raise TransientError("in passing")
        return offer(resident, turn)

    async def disturb(partition: Partition) -> None:
        nonlocal resets, refused
        for _ in range(3):
            await asyncio.sleep(chance.random() * 0.02)
            if chance.random() < 0.5:
                refused += await refuse(client, partition)
            else:
                await reset(client, partition.stream, partition.consumer)
                resets += 1

    retry = Retry(initial=timedelta(milliseconds=5))
    client = await nats.connect(nats_server.url)
    try:
        async with nats_bus(nats_server) as bus, Worker(bus, [Scripted(handle, retry=retry)]) as worker:
            group = worker.groups[0]
            events = (CartAbandoned(customer_id=f"c{n % CUSTOMERS}", n=n) for n in itertools.count())
            for _ in range(ROUNDS):
                disturbances = [asyncio.create_task(disturb(partition)) for partition in group.partitions.values()]
                for event in itertools.islice(events, EVENTS):
                    await bus.publish(event)
                await asyncio.gather(*disturbances)
                # By what comes next it is noticed that others were served.
                for event in itertools.islice(events, CUSTOMERS):
                    await bus.publish(event)
                async with asyncio.timeout(30):
                    await worker.caught_up()
            assert resets > ROUNDS
            assert refused > ROUNDS
            assert group.counters.restarts > ROUNDS
            assert await check_effects(bus) == ROUNDS * (EVENTS + CUSTOMERS)
            assert await dead(bus) == []
    finally:
        await client.close()
