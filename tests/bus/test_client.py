"""Opening a namespace: whoever comes first decides how it is spread, and everybody else takes that over."""

from __future__ import annotations

import asyncio
import sys
import uuid
from collections.abc import AsyncIterator, Callable

import pytest

from sojourn.bus.catalog import Catalog
from sojourn.bus.client import Bus, connect, open_bus
from sojourn.bus.clock import WallClock
from sojourn.bus.envelope import decode
from sojourn.bus.errors import ClosedError, ConfigurationError, NotFoundError, UnavailableError
from sojourn.bus.event import Event, Key
from sojourn.bus.memory import MemoryTransport
from sojourn.bus.nats import connect_nats
from sojourn.bus.ports import StreamSpec, Transport
from sojourn.bus.subjects import Namespace
from sojourn.bus.timers import JetStreamTimers, VirtualTimers
from tests.nats_server import NatsServer


class OrderPlaced(Event):
    customer_id: Key
    number: int = 0


@pytest.fixture(params=["memory", "nats"])
async def transport(request: pytest.FixtureRequest) -> AsyncIterator[Transport]:
    made: Transport
    if request.param == "memory":
        made = MemoryTransport(VirtualTimers())
    else:
        server: NatsServer = request.getfixturevalue("nats_server")
        made = await connect_nats(server.url, timers=JetStreamTimers())
    yield made
    await made.close()


@pytest.fixture
async def name(transport: Transport) -> AsyncIterator[str]:
    """A namespace of the test's own; it is removed afterwards."""
    name = f"t{uuid.uuid4().hex[:12]}"
    yield name
    for stream in await transport.streams():
        if name.upper() in stream:
            await transport.delete_stream(stream)


async def test_a_namespace_that_is_only_read_is_not_made(transport: Transport, name: str) -> None:
    other = f"{name}-other"
    async with open_bus(transport, Namespace(other, 2, 1), clock=WallClock()):
        before = await transport.streams()
    with pytest.raises(NotFoundError) as caught:
        async with open_bus(transport, Namespace(name), clock=WallClock(), create=False):
            pass
    assert f"there is no namespace {name!r}" in str(caught.value) and other in str(caught.value)
    assert await transport.streams() == before
    async with open_bus(transport, Namespace(other), clock=WallClock(), create=False) as bus:
        assert bus.namespace == Namespace(other, 2, 1)
        await transport.delete_stream(f"{other.upper()}_0")
    async with open_bus(transport, Namespace(other), clock=WallClock(), create=False):
        assert f"{other.upper()}_0" not in await transport.streams()


async def test_a_namespace_that_is_half_made_is_not_finished_by_a_reader(transport: Transport, name: str) -> None:
    await transport.bucket(Namespace(name).bucket("registry"))
    with pytest.raises(NotFoundError, match="there is no namespace"):
        async with open_bus(transport, Namespace(name), clock=WallClock(), create=False):
            pass
    assert await transport.streams(name.upper()) == []


async def test_many_namespaces_are_not_all_named() -> None:
    transport = MemoryTransport(VirtualTimers())
    for number in range(23):
        async with open_bus(transport, Namespace(f"shop-{number:02}", 1, 1), clock=WallClock()):
            pass
    with pytest.raises(NotFoundError, match=r"\(there: shop-00, .*, shop-19, 3 more\)"):
        async with open_bus(transport, Namespace("shop"), clock=WallClock(), create=False):
            pass


async def test_a_namespace_is_created_as_asked_for(transport: Transport, name: str) -> None:
    namespace = Namespace(name, 6, 3)
    async with open_bus(transport, namespace, clock=WallClock(), catalog=Catalog([OrderPlaced])) as bus:
        assert bus.namespace == namespace and bus.source == f"/{name}"
        assert list(bus.catalog) == [OrderPlaced]
        prefix = name.upper()
        assert await transport.streams(prefix) == [f"{prefix}_0", f"{prefix}_1", f"{prefix}_2", f"{prefix}_IN"]
        for number in range(30):
            published = await bus.publish(OrderPlaced(customer_id=f"c{number}", number=number))
            assert published.stream == namespace.locate(f"c{number}").stream


async def test_who_comes_later_takes_it_over(transport: Transport, name: str) -> None:
    async with open_bus(transport, Namespace(name, 6, 3), clock=WallClock()) as bus:
        first = await bus.publish(OrderPlaced(customer_id="c"))
    async with open_bus(transport, Namespace(name, 32, 4), clock=WallClock()) as bus:
        assert bus.namespace == Namespace(name, 6, 3)
        second = await bus.publish(OrderPlaced(customer_id="c"))
        assert (second.stream, second.sequence) == (first.stream, first.sequence + 1)


async def test_many_at_once_agree(transport: Transport, name: str) -> None:
    async def join(partitions: int) -> Namespace:
        async with open_bus(transport, Namespace(name, partitions, 2), clock=WallClock()) as bus:
            await bus.publish(OrderPlaced(customer_id=f"c{partitions}"))
            return bus.namespace

    joined = await asyncio.gather(*(join(partitions) for partitions in range(2, 10)))
    assert len({*joined}) == 1


async def test_processes_at_once_agree(nats_server: NatsServer) -> None:
    name = f"t{uuid.uuid4().hex[:12]}"
    program = f"""
import asyncio, sys
from sojourn.bus.client import open_bus
from sojourn.bus.clock import WallClock
from sojourn.bus.nats import connect_nats
from sojourn.bus.subjects import Namespace
from sojourn.bus.timers import JetStreamTimers

async def main():
    transport = await connect_nats({nats_server.url!r}, timers=JetStreamTimers())
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    async with open_bus(transport, Namespace({name!r}, int(sys.argv[1]), 2), clock=WallClock()) as bus:
        print(bus.namespace.partitions, flush=True)
    await transport.close()

asyncio.run(main())
"""
    pipe = asyncio.subprocess.PIPE
    processes = [
        await asyncio.create_subprocess_exec(sys.executable, "-c", program, str(partitions), stdin=pipe, stdout=pipe)
        for partitions in (4, 6, 8)
    ]
    async with asyncio.timeout(60):
        for process in processes:
            assert process.stdout is not None
            assert await process.stdout.readline() == b"ready\n"
        told = await asyncio.gather(*(process.communicate(b"go\n") for process in processes))
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert len({output for output, _ in told}) == 1
    transport = await connect_nats(nats_server.url, timers=JetStreamTimers())
    try:
        for stream in await transport.streams():
            if name.upper() in stream:
                await transport.delete_stream(stream)
    finally:
        await transport.close()


async def test_a_namespace_is_for_its_purpose(transport: Transport, name: str) -> None:
    namespace = Namespace(name, 2, 1)
    async with open_bus(transport, namespace, clock=WallClock(), purpose="simulation"):
        pass
    with pytest.raises(
        ConfigurationError, match=f"namespace {name} is used for a simulation, not for a replay: choose another"
    ):
        async with open_bus(transport, namespace, clock=WallClock(), purpose="replay"):
            pass
    for purpose in ("simulation", "bus"):
        async with open_bus(transport, namespace, clock=WallClock(), purpose=purpose):
            pass


async def test_a_live_namespace_is_no_place_to_simulate(transport: Transport, name: str) -> None:
    namespace = Namespace(name, 2, 1)
    async with open_bus(transport, namespace, clock=WallClock()):
        pass
    with pytest.raises(ConfigurationError, match="is used for a bus, not for a simulation"):
        async with open_bus(transport, namespace, clock=WallClock(), purpose="simulation"):
            pass


@pytest.mark.parametrize("value", [b"", b"{}", b'{"partitions":0,"shards":0,"purpose":"bus"}', b'{"partitions":"x"}'])
async def test_a_broken_record_of_the_namespace_is_explained(value: bytes) -> None:
    transport = MemoryTransport(VirtualTimers())
    bucket = await transport.bucket("TEST_registry")
    await bucket.put("namespace", value)
    with pytest.raises(ConfigurationError):
        async with open_bus(transport, Namespace("test"), clock=WallClock()):
            pass
    assert await transport.streams("TEST_") == []


async def test_streams_of_somebody_else_are_not_taken(transport: Transport, name: str) -> None:
    await transport.create_stream(StreamSpec(f"{name.upper()}_0", (f"{name}.log.0.>",)))
    with pytest.raises(ConfigurationError, match=f"{name.upper()}_0"):
        async with open_bus(transport, Namespace(name, 2, 1), clock=WallClock()):
            pass


async def test_after_its_block_a_bus_is_closed_and_the_transport_is_not(transport: Transport, name: str) -> None:
    async with open_bus(transport, Namespace(name, 2, 1), clock=WallClock()) as bus:
        await bus.schemas.admit(OrderPlaced)
        publishing = [
            asyncio.create_task(bus.publish(OrderPlaced(customer_id="c", number=number))) for number in range(5)
        ]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    # What was under way has arrived.
    assert [(await task).duplicate for task in publishing] == [False] * 5
    with pytest.raises(ClosedError, match="nothing was stored"):
        await bus.publish(OrderPlaced(customer_id="c"))
    found = await transport.read(f"{name.upper()}_0", f"{name}.log.>")
    assert [decode(message.payload, OrderPlaced).event for message in found] == [
        OrderPlaced(customer_id="c", number=number) for number in range(5)
    ]


async def test_connecting_opens_and_closes_everything(nats_server: NatsServer) -> None:
    name = f"t{uuid.uuid4().hex[:12]}"
    told: list[str] = []
    async with connect(nats_server.url, namespace=name, say=told.append) as bus:
        assert isinstance(bus, Bus) and bus.namespace == Namespace(name)
        await bus.publish(OrderPlaced(customer_id="c"))
        transport = bus.transport
        for stream in (*bus.namespace.streams, bus.namespace.ingress_stream, f"KV_{name.upper()}_registry"):
            await transport.delete_stream(stream)
    with pytest.raises(ClosedError):
        await transport.stream_state("X")


async def test_an_unusable_namespace_or_a_missing_server_is_said_at_once(
    nats_server: NatsServer, private_server: Callable[..., NatsServer]
) -> None:
    with pytest.raises(ConfigurationError, match="namespace 'No' is not a usable name"):
        async with connect(nats_server.url, namespace="No"):
            pass
    server = private_server()
    server.stop()
    with pytest.raises(UnavailableError, match="no NATS server answers at"):
        async with connect(server.url):
            pass
