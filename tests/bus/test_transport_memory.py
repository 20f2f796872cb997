"""The transport in memory fulfils the contract, and stays deterministic and quick."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from sojourn.bus.clock import VirtualClock
from sojourn.bus.memory import MemoryTransport
from sojourn.bus.ports import Append, Entry, StreamSpec
from sojourn.bus.timers import VirtualTimers
from tests.bus.arena import Arena, eventually
from tests.bus.contract import TransportContract


class TestMemoryTransport(TransportContract):
    @pytest.fixture
    async def arena(self) -> AsyncIterator[Arena]:
        timers = VirtualTimers()
        transport = MemoryTransport(timers)
        await transport.create_stream(StreamSpec("S", ("s.log.>", "s.lane.>", "s.timer.>")))

        async def advance(moment: datetime) -> None:
            for due in timers.pop_due(moment):
                await transport.commit(due.stream, [Append(due.target, due.payload)])

        yield Arena(transport, "S", "s", advance)
        await transport.close()


async def test_timestamps_are_the_clocks_and_values_expire_by_it() -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    clock = VirtualClock(start)
    transport = MemoryTransport(VirtualTimers(), clock=clock)
    await transport.create_stream(StreamSpec("S", ("s.>",)))
    await transport.commit("S", [Append("s.a", b"")])
    stored = await transport.get("S", 1)
    assert stored is not None and stored.timestamp == int(start.timestamp()) * 1_000_000_000

    bucket = await transport.bucket("B")
    await bucket.put("lease", b"mine", expect=0, ttl=5)
    clock.advance_to(start + timedelta(seconds=4))
    assert await bucket.get("lease") == Entry("lease", b"mine", 1)
    clock.advance_to(start + timedelta(seconds=5))
    assert await bucket.get("lease") is None
    assert await bucket.put("lease", b"yours", expect=0) == 3
    await transport.close()


async def test_deliveries_never_come_from_within_send() -> None:
    transport = MemoryTransport(VirtualTimers())
    await transport.create_stream(StreamSpec("S", ("s.>",)))
    await transport.ensure_consumer("S", "c", "s.log.>", start=1, max_ack_pending=10)
    inside = False
    told: list[object] = []

    def tell(what: object) -> None:
        assert not inside
        told.append(what)

    flow = transport.consume("S", "c", tell, lambda _: None)
    await flow.restart()
    inside = True
    transport.send("S", Append("s.log.1.k", b""), tell)
    inside = False
    await eventually(lambda: len(told) == 2)
    await flow.close()
    await transport.close()
