"""A durable consumer in memory: position, ack floor, and the flow that is open on it."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from sojourn.bus.delivery.budget import Budget
from sojourn.bus.errors import ClosedError, NotFoundError
from sojourn.bus.grammar import matcher
from sojourn.bus.ports import ConsumerLag, Delivery, Stored

if TYPE_CHECKING:
    from sojourn.bus.memory.stream import MemoryStream

_TURN = 64
"""Deliveries before other consumers and the rest of the event loop have their turn."""


class MemoryConsumer:
    """What survives its flows. Nothing is delivered again by the passing of time, only by a restart."""

    def __init__(self, stream: MemoryStream, name: str, filter: str, *, start: int, max_ack_pending: int) -> None:
        self.filter = filter
        self._stream = stream
        self._name = name
        self._max_ack_pending = max_ack_pending
        self._head = literal_head(filter)
        self._matches = matcher(filter)
        self._delivered = self._floor = max(start, 1) - 1
        self._order: deque[int] = deque()
        self._in_flight: set[int] = set()
        self._consumer_sequence = 0
        self._position: int | None = None
        self._flow: MemoryFlow | None = None

    def refilter(self, filter: str) -> None:
        """Changes the filter; the position stays."""
        if filter != self.filter:
            self.filter = filter
            self._head = literal_head(filter)
            self._matches = matcher(filter)
            self._position = None
            self._stream.wake(self)

    def lag(self) -> ConsumerLag:
        self._advance()
        pending = sum(1 for _ in self._stream.select(self.filter, self._delivered + 1))
        return ConsumerLag(self._floor, self._delivered, pending, len(self._in_flight))

    def reset(self, flow: MemoryFlow) -> None:
        """Goes back to the ack floor and delivers to ``flow`` from now on, no longer to the one before."""
        previous, self._flow = self._flow, flow
        if previous is not None and previous is not flow:
            previous.interrupt("somebody else was served")
        self._advance()
        self._delivered = self._floor
        self._order.clear()
        self._in_flight.clear()
        self._consumer_sequence = 0
        self._position = None
        self._stream.wake(self)

    def leave(self, flow: MemoryFlow) -> None:
        """Delivers nothing more to ``flow``."""
        if self._flow is flow:
            self._flow = None

    def end(self, reason: str | None) -> None:
        """Ends the open flow, with a reason where its owner did not ask for it."""
        flow, self._flow = self._flow, None
        if flow is not None and reason is not None:
            flow.interrupt(reason)

    def ack(self, sequence: int) -> None:
        if sequence in self._in_flight:
            self._in_flight.discard(sequence)
            self._stream.wake(self)

    def wake(self) -> None:
        """Delivers what it may, soon."""
        self._stream.wake(self)

    def wants(self, head: str) -> bool:
        """True where a message whose subject begins with those three tokens may be for the open flow."""
        return self._flow is not None and (self._head is None or self._head == head)

    def deliver(self) -> bool:
        """Delivers what it may, at most a turn's worth; True where more is left."""
        index = self._stream.index(self.filter)
        for _ in range(_TURN):
            if self._flow is None or len(self._in_flight) >= self._max_ack_pending:
                return False
            if (message := self._next(index)) is None:
                return False
            if not self._flow.room_for(message):
                assert self._position is not None
                self._position -= 1  # the next turn begins with it
                return False
            self._delivered = message.sequence
            self._order.append(message.sequence)
            self._in_flight.add(message.sequence)
            self._consumer_sequence += 1
            self._flow.receive(Delivery(*message, self._consumer_sequence, str(message.sequence)))
        return True

    def _next(self, index: Sequence[int]) -> Stored | None:
        if self._position is None:
            self._position = bisect_right(index, self._delivered)
        while self._position < len(index):
            message = self._stream.get(index[self._position])
            self._position += 1
            if message is not None and self._matches(message.subject):
                return message
        return None

    def _advance(self) -> None:
        while self._order and self._order[0] not in self._in_flight:
            self._floor = self._order.popleft()


class MemoryFlow:
    """`sojourn.bus.ports.Consumption` in memory."""

    def __init__(
        self,
        find: Callable[[], MemoryConsumer | None],
        name: str,
        receive: Callable[[Delivery], None],
        broken: Callable[[str], None],
        budget: Budget,
    ) -> None:
        self.receive = receive
        self._budget = budget
        self._share = budget.join(self._wake)
        self._held: dict[str, int] = {}
        self._find = find
        self._name = name
        self._broken = broken
        self._consumer: MemoryConsumer | None = None
        self._closed = False

    async def restart(self) -> None:
        """Resets the consumer and takes its deliveries. Raises `NotFoundError` and, after `close`, `ClosedError`."""
        if self._closed:
            raise ClosedError(f"the flow of consumer {self._name} was closed")
        self._consumer = self._find()
        if self._consumer is None:
            raise NotFoundError(f"there is no consumer {self._name}")
        self._drop()
        self._consumer.reset(self)

    def room_for(self, message: Stored) -> bool:
        """Takes what the message needs of the budget; False where the flow has to wait for it."""
        size = len(message.subject) + len(message.payload)
        if not self._budget.take(self._share, size, size):
            return False
        self._held[str(message.sequence)] = size
        return True

    def ack(self, token: str) -> None:
        """Closes one delivery."""
        if self._consumer is not None:
            self._consumer.ack(int(token))
        if size := self._held.pop(token, 0):
            self._budget.give(self._share, size)

    def progress(self, token: str) -> None:
        """Changes nothing: the twin never delivers again by itself."""

    async def close(self) -> None:
        """Stops the deliveries."""
        self._closed = True
        if self._consumer is not None:
            self._consumer.leave(self)
        self._held.clear()
        self._budget.leave(self._share)

    def _drop(self) -> None:
        self._held.clear()
        self._budget.give(self._share, self._share.taken)

    def _wake(self) -> None:
        if self._consumer is not None:
            self._consumer.wake()

    def interrupt(self, reason: str) -> None:
        """Says, from the event loop, that deliveries may have been missed."""
        if not self._closed:
            asyncio.get_running_loop().call_soon(self._broken, reason)


def literal_head(filter: str) -> str | None:
    """The first three tokens of ``filter``, the partition in Sojourn's subjects, where none is a wildcard."""
    head = filter.split(".", 3)[:3]
    return None if len(head) < 3 or "*" in head or ">" in head else ".".join(head)
