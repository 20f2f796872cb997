"""What tests of transports share: an adapter with a stream of the test's own, and waiting on conditions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from sojourn.bus.ports import (
    Append,
    Consumption,
    Delivery,
    Expectation,
    Receipt,
    Stored,
    Transport,
)

DEADLINE = 20.0

T = TypeVar("T")


async def eventually(condition: Callable[[], T]) -> T:
    """Waits until ``condition`` holds."""
    async with asyncio.timeout(DEADLINE):
        while not (found := condition()):  # noqa: ASYNC110 - any condition, not one with an event
            await asyncio.sleep(0.005)
    return found


@dataclass
class Arena:
    """One adapter with a stream of the test's own: subjects ``{ns}.log|lane|timer.>``."""

    transport: Transport
    stream: str
    ns: str
    advance: Callable[[datetime], Awaitable[None]]
    """Lets time pass up to a moment: what was due has been sent to its target afterwards, or will be soon."""

    def event(self, key: str, *, partition: int = 1, type: str = "Seen", payload: bytes = b"{}", **rest: Any) -> Append:
        return Append(f"{self.ns}.log.{partition}.{key}.evt.{type}", payload, **rest)

    def action(self, key: str, sequence: int | None, *, writer: str = "w", payload: bytes = b"{}") -> Append:
        expect = None if sequence is None else Expectation(f"{self.ns}.*.1.{key}.act.{writer}.>", sequence)
        return Append(f"{self.ns}.log.1.{key}.act.{writer}.Done", payload, expect)

    async def send(self, *appends: Append) -> list[Receipt | Exception]:
        """Sends them pipelined and waits for all answers, in the order of ``appends``."""
        outcomes: dict[int, list[Receipt | Exception]] = {number: [] for number in range(len(appends))}
        for number, append in enumerate(appends):
            self.transport.send(self.stream, append, outcomes[number].append)
        await eventually(lambda: all(outcomes.values()))
        await asyncio.sleep(0)
        assert all(len(told) == 1 for told in outcomes.values()), "done is called exactly once"
        return [told[0] for told in outcomes.values()]

    async def read(self, filter: str, **rest: Any) -> list[Stored]:
        return await self.transport.read(self.stream, f"{self.ns}.{filter}", **rest)

    async def state(self) -> tuple[int, int, int]:
        state = await self.transport.stream_state(self.stream)
        assert state is not None
        return state[:3]


class Taking:
    """A consumption that records what it gets."""

    def __init__(self, arena: Arena, name: str) -> None:
        self.deliveries: list[Delivery] = []
        self.reasons: list[str] = []
        self.flow: Consumption = arena.transport.consume(
            arena.stream, name, self.deliveries.append, self.reasons.append
        )

    @property
    def sequences(self) -> list[int]:
        return [delivery.sequence for delivery in self.deliveries]

    @property
    def counted(self) -> list[int]:
        return [delivery.consumer_sequence for delivery in self.deliveries]

    async def got(self, count: int) -> list[Delivery]:
        await eventually(lambda: len(self.deliveries) >= count)
        return self.deliveries

    def ack(self, *sequences: int) -> None:
        for delivery in self.deliveries:
            if delivery.sequence in sequences:
                self.flow.ack(delivery.token)


async def gather(batches: AsyncIterator[list[Stored]], count: int | None = None) -> list[Stored]:
    """What a follow brings: until its end, or until ``count`` messages."""
    found: list[Stored] = []
    async with asyncio.timeout(DEADLINE):
        async for batch in batches:
            assert batch, "no empty batches"
            found += batch
            if count is not None and len(found) >= count:
                break
    return found


def ascending(messages: Iterable[Stored]) -> list[int]:
    sequences = [message.sequence for message in messages]
    assert sequences == sorted(set(sequences))
    return sequences
