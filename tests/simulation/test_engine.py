from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from sojourn.bus.client import connect, open_bus
from sojourn.bus.clock import VirtualClock
from sojourn.bus.errors import ConfigurationError, UnavailableError
from sojourn.bus.memory import MemoryTransport
from sojourn.bus.ports import StreamSpec
from sojourn.bus.subjects import Namespace
from sojourn.simulation.engine import PURPOSE, Engine, clear
from sojourn.simulation.timers import CustomerTimers
from tests.nats_server import NatsServer
from tests.simulation.shop import CATALOG
from tests.simulation.world import START, abandoned


def clock() -> VirtualClock:
    return VirtualClock(START)


async def test_each_run_has_an_empty_namespace_and_leaves_it_to_be_looked_at(server: NatsServer) -> None:
    engine = Engine("nats", "fresh", url=server.url)
    for _ in range(2):
        async with engine.open(clock=clock(), timers=CustomerTimers(), catalog=CATALOG) as bus:
            states = [await bus.transport.stream_state(stream) for stream in bus.namespace.streams]
            assert [state.messages for state in states if state is not None] == [0] * 4
            assert await bus.registry.group("old") is None
            await bus.registry.settle_group("old", present={}, start="now", actions=False)
            await bus.publish(abandoned("a", 1).event, id="1")
    async with connect(server.url, namespace="fresh") as bus:
        where = bus.namespace.locate("a")
        assert len(await bus.transport.read(where.stream, bus.namespace.story_filter(where))) == 1


async def test_a_namespace_that_is_used_for_something_else_is_not_touched(server: NatsServer) -> None:
    async with connect(server.url, namespace="shop") as bus:
        await bus.publish(abandoned("a", 1).event, id="1")
    engine = Engine("nats", "shop", url=server.url)
    with pytest.raises(ConfigurationError, match=r"namespace shop is used for a bus.*nothing was touched.*--namespace"):
        async with engine.open(clock=clock(), timers=CustomerTimers(), catalog=CATALOG):
            pass
    async with connect(server.url, namespace="shop") as bus:
        where = bus.namespace.locate("a")
        assert await bus.transport.last(where.stream, bus.namespace.story_filter(where)) is not None


async def test_streams_that_nobody_can_tell_the_purpose_of_are_not_touched() -> None:
    transport = MemoryTransport(CustomerTimers())
    await transport.create_stream(StreamSpec("SIM_0", ("sim.log.0.>",)))
    with pytest.raises(ConfigurationError, match="does not say what it is used for"):
        await clear(transport, Namespace("sim"))
    assert await transport.streams("SIM_") == ["SIM_0"]
    bucket = await transport.bucket("SIM_registry")
    await bucket.put("writer.x", b"{}")
    with pytest.raises(ConfigurationError, match="does not say what it is used for"):
        await clear(transport, Namespace("sim"))
    await transport.close()


async def test_only_the_namespace_itself_is_cleared(server: NatsServer) -> None:
    async with connect(server.url, namespace="sim-other") as bus:
        await bus.publish(abandoned("a", 1).event, id="1")
    for _ in range(2):
        async with Engine("nats", "sim", url=server.url).open(
            clock=clock(), timers=CustomerTimers(), catalog=CATALOG
        ) as bus:
            assert "SIM-OTHER_0" in await bus.transport.streams()


async def test_a_namespace_that_does_not_exist_is_nothing_to_clear() -> None:
    transport = MemoryTransport(CustomerTimers())
    await clear(transport, Namespace("sim"))
    assert await transport.streams() == []
    async with open_bus(transport, Namespace("sim"), clock=clock(), purpose=PURPOSE):
        pass
    await clear(transport, Namespace("sim"))
    assert [name for name in await transport.streams() if not name.startswith("KV_")] == []
    await transport.close()


async def test_a_run_that_is_still_going_on_is_left_alone(server: NatsServer) -> None:
    engine = Engine("nats", "busy", url=server.url)
    async with engine.open(clock=clock(), timers=CustomerTimers(), catalog=CATALOG) as bus:
        with pytest.raises(ConfigurationError, match="another simulation is running in namespace busy"):
            async with engine.open(clock=clock(), timers=CustomerTimers(), catalog=CATALOG):
                pass
        await bus.publish(abandoned("a", 1).event, id="1")
    async with asyncio.timeout(10), engine.open(clock=clock(), timers=CustomerTimers(), catalog=CATALOG):
        pass


async def test_outages_are_said_and_leaving_is_not(server: NatsServer) -> None:
    said: list[str] = []
    engine = Engine("nats", "said", url=server.url, say=said.append)
    async with engine.open(clock=clock(), timers=CustomerTimers(), catalog=CATALOG):
        pass
    assert said == []


async def test_a_server_that_does_not_answer_is_an_error() -> None:
    with pytest.raises(UnavailableError):
        async with Engine("nats", url="nats://127.0.0.1:1").open(
            clock=clock(), timers=CustomerTimers(), catalog=CATALOG
        ):
            pass


async def test_in_memory_nothing_is_left_of_the_run_before() -> None:
    for _ in range(2):
        ticking = clock()
        async with Engine("memory").open(clock=ticking, timers=CustomerTimers(), catalog=CATALOG) as bus:
            assert bus.clock is ticking
            ticking.advance_to(START + timedelta(days=400))
            state = await bus.transport.stream_state("SIM_0")
            assert state is not None and state.messages == 0
