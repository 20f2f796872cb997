"""A worker and a publisher behind a network that breaks: none lost, none doubled, in order, and no flow stalls."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest

from sojourn.bus.delivery import runners
from tests.faults.proxy import CLEAR, DROP, STALL, Fault, Proxy
from tests.faults.shop import lose_answers, open_shop, until
from tests.nats_server import NatsServer

NOTICED = 30.0
"""Seconds within which a dead peer is noticed. The measurement may be late by what the machine does meanwhile."""
LATE = 3.0

Break = Callable[[Proxy], None]


def _cut(proxy: Proxy) -> None:
    proxy.cut()


def _reset(proxy: Proxy) -> None:
    proxy.reset()


def _turn_away(proxy: Proxy) -> None:
    proxy.refusing = True
    proxy.cut()


def _stall(proxy: Proxy) -> None:
    proxy.set(up=STALL, down=STALL)


def _stall_answers(proxy: Proxy) -> None:
    proxy.set(down=STALL)


def _drop_answers(proxy: Proxy) -> None:
    proxy.set(down=DROP)


def _drop_requests(proxy: Proxy) -> None:
    proxy.set(up=DROP)


def _drip(proxy: Proxy) -> None:
    proxy.set(up=Fault(chunk=3), down=Fault(chunk=1))


def _delay(proxy: Proxy) -> None:
    proxy.set(up=Fault(delay=0.03), down=Fault(delay=0.03, chunk=1_000))


def _heal(proxy: Proxy) -> None:
    # TCP never goes on behind bytes that were lost: such a connection ends.
    gaps = bool(proxy.counted.dropped)
    proxy.clear()
    if gaps:
        proxy.counted.dropped = 0
        proxy.reset()


async def test_a_dead_peer_is_noticed_and_left_for_a_living_one(nats_server: NatsServer) -> None:
    # First, and side by side, because most of it is waiting. The second writes more than sockets hold: what was written
    # and will never leave must not hold up the end of the connection.
    await asyncio.gather(_leave_the_dead(nats_server, 43, ""), _leave_the_dead(nats_server, 51, "x" * 200_000))


async def _leave_the_dead(server: NatsServer, seed: int, note: str) -> None:
    async with open_shop(server, seed) as shop:
        await shop.publish(shop.make(50))
        await shop.handled(shop.deserving)
        begun = time.monotonic()
        for proxy in shop.proxies:
            # What is connected stays as if the peer were gone without a word; who connects anew finds it alive.
            for link in proxy.links:
                link.set(up=STALL, down=STALL)
        states = (shop.worker_states, shop.publisher_states)
        publishing = asyncio.create_task(shop.publish(shop.make(100, note=note)))
        await until(lambda: all("disconnected" in told for told in states), NOTICED + LATE)
        assert time.monotonic() - begun < NOTICED + LATE
        await until(lambda: all("reconnected" in told for told in states), 5)
        async with asyncio.timeout(20):
            await publishing
        await shop.handled(shop.deserving)
        await shop.check()


@pytest.mark.parametrize(
    "damage",
    [_cut, _reset, _turn_away, _stall, _stall_answers, _drop_answers, _drop_requests, _drip, _delay],
    ids=lambda damage: damage.__name__.strip("_"),
)
async def test_every_fault_leaves_each_event_answered_once(nats_server: NatsServer, damage: Break) -> None:
    async with open_shop(nats_server, seed=41) as shop:
        for victims in ([shop.to_worker], [shop.to_publisher], list(shop.proxies)):
            before, deserving = await shop.actions(), shop.deserving
            events = shop.make(150)
            publishing = asyncio.create_task(shop.publish(events, pause=0.001))
            await shop.handled(before + (shop.deserving - deserving) // 4)
            for proxy in victims:
                damage(proxy)
            await asyncio.sleep(shop.chance.uniform(0.3, 0.6))
            for proxy in victims:
                _heal(proxy)
            async with asyncio.timeout(40):
                await publishing
            await shop.handled(shop.deserving)
            # The flow goes on for what is published only now.
            await shop.publish(shop.make(20))
            await shop.handled(shop.deserving)
        await shop.check()


async def test_faults_in_quick_succession(nats_server: NatsServer) -> None:
    async with open_shop(nats_server, seed=42) as shop:
        damages: list[Break] = [_cut, _reset, _stall, _drop_answers, _drop_requests, _drip, _delay, _turn_away]
        publishing = asyncio.create_task(shop.publish(shop.make(1_500), pause=0.001))
        while not publishing.done():
            proxy = shop.chance.choice(shop.proxies)
            shop.chance.choice(damages)(proxy)
            await asyncio.sleep(shop.chance.uniform(0.02, 0.3))
            _heal(proxy)
            await asyncio.sleep(shop.chance.uniform(0.02, 0.5))
        await publishing
        await shop.handled(shop.deserving)
        assert sum(proxy.counted.connections for proxy in shop.proxies) > 4
        await shop.check()


@pytest.mark.parametrize("pattern", [b"Nats-Batch-Commit: 1", b".act.escort.OfferMade"], ids=["batch", "one"])
async def test_the_ack_of_an_output_is_lost_and_the_retry_comes_after_the_deduplication_window(
    nats_server: NatsServer, pattern: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Many customers are ready at once, so that their outputs go out as a batch.
    monkeypatch.setattr(runners, "READS", 64)
    async with open_shop(nats_server, seed=45) as shop:
        await shop.remember(1.0)
        lost = lose_answers(shop.to_worker, pattern)
        # What waits behind a stall comes at once, and so do the outputs: then they go out as batches.
        shop.to_worker.set(down=STALL)
        await shop.publish(shop.make(1_000 if b"Batch" in pattern else 5, customers=400))
        shop.to_worker.set(down=CLEAR)
        async with asyncio.timeout(20):
            await lost.wait()
        await shop.handled(1)
        await asyncio.sleep(1.5)
        shop.to_worker.set(down=CLEAR)
        shop.to_worker.cut()
        await shop.handled(shop.deserving)
        await shop.publish(shop.make(50))
        await shop.handled(shop.deserving)
        await shop.check()
