"""What every transport adapter has to do: the sentences of `sojourn.bus.ports`, as tests.

An adapter's test module subclasses `TransportContract` and gives it an ``arena``.
"""

from __future__ import annotations

import asyncio

import pytest

from sojourn.bus.errors import (
    ClosedError,
)
from sojourn.bus.ports import (
    Receipt,
)
from tests.bus.arena import Arena, Taking, eventually, gather
from tests.bus.contract_buckets import BucketContract
from tests.bus.contract_consumers import ConsumerContract
from tests.bus.contract_reading import ReadingContract
from tests.bus.contract_storing import StoringContract
from tests.bus.contract_streams import StreamContract


class TransportContract(StoringContract, ReadingContract, ConsumerContract, StreamContract, BucketContract):
    """Everything together, and how it ends."""

    async def test_after_close_everything_says_so(self, arena: Arena) -> None:
        transport = arena.transport
        await self.consumer(arena)
        bucket = await transport.bucket(f"{arena.stream}-B")
        taking = Taking(arena, "c-1")
        await taking.flow.restart()
        following = asyncio.create_task(gather(transport.follow(arena.stream, f"{arena.ns}.>")))
        await self.settled(arena)
        told: list[Receipt | Exception] = []
        transport.send(arena.stream, arena.event("k"), told.append)
        await transport.close()
        await transport.close()
        await eventually(lambda: told)
        assert isinstance(told[0], ClosedError | Receipt)
        await following
        assert taking.reasons == []
        transport.send(arena.stream, arena.event("k"), told.append)
        await eventually(lambda: len(told) == 2)
        assert isinstance(told[1], ClosedError)
        for asked in (
            transport.commit(arena.stream, [arena.event("k")]),
            transport.read(arena.stream, ">"),
            transport.stream_state(arena.stream),
            bucket.put("k", b""),
            taking.flow.restart(),
        ):
            with pytest.raises(ClosedError):
                await asked
        await taking.flow.close()
