"""The partition worker on a real nats-server: consumers, schedules, kills, strangers, and two workers at once."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta

import nats

from sojourn.bus.client import Bus, open_bus
from sojourn.bus.clock import WallClock
from sojourn.bus.delivery.worker import Worker
from sojourn.bus.nats import connect_nats
from sojourn.bus.processor import NOTHING, CancelTimer, Output, SetTimer, Turn
from sojourn.bus.subjects import Namespace
from sojourn.bus.timers import JetStreamTimers
from tests.bus.delivery.processors import (
    CartAbandoned,
    DiscountOffered,
    OfferPrinted,
    OrderPlaced,
    Resident,
    Scripted,
    WaitEnded,
    actions,
    check_effects,
    dead,
    offer,
    until,
)
from tests.nats_server import NatsServer

numbers = itertools.count()


@contextlib.asynccontextmanager
async def nats_bus(server: NatsServer, namespace: Namespace | None = None) -> AsyncIterator[Bus]:
    namespace = namespace or Namespace(f"worker{next(numbers)}", 4, 2)
    transport = await connect_nats(server.url, timers=JetStreamTimers())
    try:
        async with open_bus(transport, namespace, clock=WallClock()) as bus:
            yield bus
    finally:
        await transport.close()


async def publish(bus: Bus, keys: int, numbers: range) -> None:
    async with bus.publisher() as publisher:
        for n in numbers:
            await publisher.publish(CartAbandoned(customer_id=f"c{n % keys}", n=n))


async def test_each_event_is_answered_once_in_order_and_with_its_state(nats_server: NatsServer) -> None:
    async with nats_bus(nats_server) as bus:
        async with Worker(bus, [Scripted()]) as worker:
            await publish(bus, 50, range(2000))
            await worker.caught_up()
            assert await check_effects(bus) == 2000
            assert worker.groups[0].counters.restarts == 0
        async with Worker(bus, [Scripted()]) as worker:
            await worker.caught_up()
            await publish(bus, 50, range(2000, 2100))
            await worker.caught_up()
            assert await check_effects(bus) == 2100


async def test_caught_up_after_a_reset_returns(nats_server: NatsServer) -> None:
    async with nats_bus(nats_server) as bus, Worker(bus, [Scripted()]) as worker:
        for n in range(5):
            await publish(bus, 3, range(10 * n, 10 * n + 10))
            if n % 2:
                for partition in worker.groups[0].partitions.values():
                    partition.restart("test")
            async with asyncio.timeout(20):
                await worker.caught_up()
            assert await check_effects(bus) == 10 * n + 10
            for partition in worker.groups[0].partitions.values():
                partition.restart("nothing is left to be delivered")


async def test_the_server_is_killed_during_load_and_everything_is_handled_once(
    private_server: Callable[..., NatsServer],
) -> None:
    server = private_server()

    async def handle(resident: Resident, turn: Turn) -> Output:
        await asyncio.sleep(0.002)
        return offer(resident, turn)

    async with nats_bus(server) as bus, Worker(bus, [Scripted(handle)]) as worker:

        async def produce() -> None:
            for start in range(0, 400, 20):
                await publish(bus, 20, range(start, start + 20))

        producing = asyncio.create_task(produce())
        for kill in range(3):
            await until(lambda due=40 + 100 * kill: worker.groups[0].counters.closed >= due)  # type: ignore[misc]  # a default binds it
            server.kill9()
            await asyncio.to_thread(server.restart)
        async with asyncio.timeout(30):
            await producing

        async def done() -> bool:
            return len({d["causeseq"] for d in await actions(bus)}) >= 400 or len(await actions(bus)) >= 400

        await until(done, 30)
        async with asyncio.timeout(20):
            await worker.caught_up()
        assert await check_effects(bus) == 400
        assert await dead(bus) == []


async def test_an_outage_longer_than_the_session_and_all_retries_makes_no_dead_letter(
    private_server: Callable[..., NatsServer],
) -> None:
    server = private_server()
    called = asyncio.Event()
    go_on = asyncio.Event()

    async def handle(resident: Resident, turn: Turn) -> Output:
        called.set()
        await go_on.wait()
        return offer(resident, turn)

    async with nats_bus(server) as bus, Worker(bus, [Scripted(handle)]) as worker:
        await publish(bus, 10, range(30))
        await called.wait()
        server.kill9()
        go_on.set()
        await until(lambda: not worker.groups[0].session.held, 20)
        await asyncio.to_thread(server.restart)
        await until(lambda: bool(worker.groups[0].partitions) and worker.groups[0].session.held, 20)
        async with asyncio.timeout(20):
            await worker.caught_up()
        assert await check_effects(bus) == 30
        assert await dead(bus) == []


async def test_leaving_while_the_server_is_down_or_silent_takes_less_than_ten_seconds(
    private_server: Callable[..., NatsServer],
) -> None:
    server = private_server()
    loop = asyncio.get_running_loop()
    async with nats_bus(server) as bus:
        async with Worker(bus, [Scripted()]):
            await publish(bus, 10, range(20))
            server.pause()
            begun = loop.time()
        assert loop.time() - begun < 10
        server.resume()
        async with Worker(bus, [Scripted()]) as worker:
            await until(lambda: bool(worker.groups[0].partitions), 20)
            server.kill9()
            begun = loop.time()
        assert loop.time() - begun < 10


async def test_timers_of_the_server_fire_are_replaced_and_cancelled(nats_server: NatsServer) -> None:
    def handle(resident: Resident, turn: Turn) -> Output:
        event = turn.recorded.envelope.event
        match event:
            case CartAbandoned():
                at = datetime.now(UTC) + timedelta(seconds=1)
                return Output(timers=[SetTimer("wait", WaitEnded(customer_id=resident.key, n=event.n), at)])
            case OrderPlaced():
                return Output(timers=[CancelTimer("wait")])
        return offer(resident, turn)

    async with nats_bus(nats_server) as bus:
        processor = Scripted(handle, handles=(CartAbandoned, OrderPlaced, WaitEnded))
        async with Worker(bus, [processor]) as worker:
            await bus.publish(CartAbandoned(customer_id="fires", n=1))
            await bus.publish(CartAbandoned(customer_id="replaced", n=2))
            await bus.publish(CartAbandoned(customer_id="replaced", n=3))
            await bus.publish(CartAbandoned(customer_id="cancelled", n=4))
            await bus.publish(OrderPlaced(customer_id="cancelled", n=4))
            await worker.caught_up()
            await bus.publish(CartAbandoned(customer_id="last", n=5))

            async def last() -> bool:
                return any(d["subject"] == "last" for d in await actions(bus))

            await until(last)
            await worker.caught_up()
            assert sorted(d["data"]["n"] for d in await actions(bus)) == [1, 3, 5]


async def test_two_owners_at_once_still_give_one_effect_each(nats_server: NatsServer) -> None:
    async def handle(resident: Resident, turn: Turn) -> Output:
        await asyncio.sleep(0.001)
        return offer(resident, turn)

    async with (
        nats_bus(nats_server) as one,
        nats_bus(nats_server, one.namespace) as two,
        Worker(one, [Scripted(handle)], ingress=False) as first,
    ):
        async with Worker(two, [Scripted(handle)], ingress=False) as second:
            zombie = second.groups[0]
            await until(lambda: len(zombie.partitions) + len(first.groups[0].partitions) == 4)
            await publish(one, 20, range(300))
            # A zombie: it believes that all is still its own, and reads a fresh tail.
            assert second._ownership is not None
            second._ownership._leaving = True
            stolen = list(first.groups[0].partitions)
            for number in stolen:
                await zombie.open(number)
            await publish(one, 20, range(300, 600))
            await until(lambda: first.groups[0].counters.restarts > 0)
            for number in stolen:
                await zombie.release(number, 0)
        async with asyncio.timeout(30):
            await first.caught_up()
        assert await check_effects(one) == 600


async def test_a_worker_whose_connection_ends_for_good_leaves_the_rest_to_the_next(nats_server: NatsServer) -> None:
    async def handle(resident: Resident, turn: Turn) -> Output:
        await asyncio.sleep(0.001)
        return offer(resident, turn)

    async with nats_bus(nats_server) as bus:
        processor = Scripted(handle, start="beginning")
        await publish(bus, 10, range(600))
        async with nats_bus(nats_server, bus.namespace) as own, Worker(own, [processor], ingress=False) as worker:
            await until(lambda: worker.groups[0].counters.closed > 100)
            await own.transport.close()
        async with Worker(bus, [processor], ingress=False) as worker:
            # Nobody could give the lease back.
            await until(lambda: bool(worker.groups[0].partitions), 20)

            async def done() -> bool:
                return len(await actions(bus)) >= 600

            await until(done)
            assert await check_effects(bus) == 600


async def test_strangers_can_write_what_they_like(nats_server: NatsServer) -> None:
    async with nats_bus(nats_server) as bus, Worker(bus, [Scripted()]) as worker:
        ns = bus.namespace.name
        at = bus.namespace.locate("c1")
        await publish(bus, 1, range(1))
        client = await nats.connect(nats_server.url)
        try:
            js = client.jetstream()
            other = (at.partition + 1) % 4
            for subject in (
                f"{ns}.log.{at.partition}.c1.evt.CartAbandoned",
                f"{ns}.log.{other}.c1.evt.CartAbandoned",
                f"{ns}.log.{at.partition}.=zz.evt.CartAbandoned",
                f"{ns}.log.{at.partition}.ключ.evt.CartAbandoned",
                f"{ns}.log.{at.partition}.{'x' * 3600}.evt.CartAbandoned",
                f"{ns}.log.{at.partition}.c1",
                f"{ns}.log.{at.partition}.c1.evt",
                f"{ns}.lane.{at.partition}.c1.act.win.out",
                f"{ns}.lane.{at.partition}.c1.act.win",
            ):
                await js.publish(subject, b"\xff junk")
        finally:
            await client.close()
        await bus.publish(CartAbandoned(customer_id="c1", n=1))

        async def answered() -> bool:
            return len(await actions(bus)) == 2

        await until(answered)
        await worker.caught_up()
        assert len(await dead(bus)) == 5
        assert len({letter["cause"] for letter in await dead(bus)}) >= 4


async def test_whoever_registers_later_is_seen_by_those_who_read_its_actions(nats_server: NatsServer) -> None:
    def read(resident: Resident, turn: Turn) -> Output:
        event = turn.recorded.envelope.event
        assert isinstance(event, DiscountOffered)
        return Output([OfferPrinted(customer_id=resident.key, n=event.n, seen=resident.seen(DiscountOffered))])

    reader = Scripted(
        read, writer="reader", handles=(DiscountOffered,), folds=(DiscountOffered,), publishes=(OfferPrinted,)
    )
    async with (
        nats_bus(nats_server) as one,
        nats_bus(nats_server, one.namespace) as two,
        Worker(one, [reader], ingress=False) as first,
    ):
        # Traffic that moves the reader's position on, past actions that it has not seen.
        async with Worker(two, [Scripted()], ingress=False) as second:
            await publish(two, 5, range(200))
            await second.caught_up()
        await until(lambda: first.groups[0].actions)

        async def printed() -> bool:
            return len(await actions(one, "reader")) >= 200

        await until(printed)
        mine = [d["data"]["seen"] for d in await actions(one, "reader") if d["subject"] == "c1"]
        assert mine == list(range(1, 41))


async def test_the_loop_of_a_silent_agent_leaves_no_record(nats_server: NatsServer) -> None:
    async with nats_bus(nats_server) as bus, Worker(bus, [Scripted(lambda r, t: NOTHING)]) as worker:
        await publish(bus, 10, range(100))
        await worker.caught_up()
        assert await actions(bus) == [] and await dead(bus) == []
        lag = [
            await bus.transport.consumer_lag(partition.stream, partition.consumer)
            for partition in worker.groups[0].partitions.values()
        ]
        assert all(one is not None and one.pending == 0 for one in lag)
