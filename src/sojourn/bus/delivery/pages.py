"""Pages of the log in memory: customers' histories are read within the same bound as deliveries.

Room for a page is taken before it is asked for. A read ends with the message that reaches its size, so it asks for less
than it has room for, by the largest message that was seen. Where the next one is larger still, what it has more is
counted once it is there.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from sojourn.bus.delivery.budget import Budget
from sojourn.bus.ports import Stored

PAGE = 128
"""Messages of one page."""

BYTES = 128 * 1024
"""Payloads of one page, unless one message has more."""

_FORGETS = 16
"""The largest message counts for this part less with each page that has none like it."""


@dataclass(slots=True)
class Page:
    """``size``: bytes that are taken for it; ``more``: whether it ended before the log did."""

    messages: list[Stored]
    size: int
    more: bool


class Pages:
    """Those who read pages within one share of a budget, first come, first served."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._share = budget.join(self._go_on)
        self._waiting: deque[asyncio.Future[int]] = deque()
        self._largest = 0

    async def read(self, read: Callable[[int, int], Awaitable[list[Stored]]]) -> Page:
        """A page, read by ``read``, which is given the most messages and the bytes to ask for. Its size is to be given
        back by `give`. Raises what ``read`` raises."""
        room = await self._room()
        try:
            # Seen by others meanwhile, a larger message leaves nothing of this room.
            asked = max(room - self._largest, 1)
            messages = await read(PAGE, asked)
        except BaseException:
            self.give(room)
            raise
        size = _weight(messages)
        if size > room:
            self._budget.charge(self._share, size - room)
        else:
            self.give(room - size)
        largest = max((len(message.payload) for message in messages), default=0)
        self._largest = max(largest, self._largest - self._largest // _FORGETS)
        whole = sum(len(message.payload) for message in messages)
        return Page(messages, size, len(messages) >= PAGE or whole >= asked)

    def give(self, size: int) -> None:
        """Gives back what was taken for a page, or for a part of it."""
        self._budget.give(self._share, size)

    async def _room(self) -> int:
        if not self._waiting and (room := self._take()):
            return room
        waiting: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiting)
        try:
            return await waiting
        except asyncio.CancelledError:
            if waiting.done() and not waiting.cancelled():
                self.give(waiting.result())
            raise

    def _take(self) -> int:
        return self._budget.take(self._share, self._largest + 1, self._largest + BYTES)

    def _go_on(self) -> None:
        while self._waiting:
            if self._waiting[0].cancelled():
                self._waiting.popleft()
            elif room := self._take():
                self._waiting.popleft().set_result(room)
            else:
                return


def _weight(messages: Iterable[Stored]) -> int:
    """The bytes of messages, as the budget counts them."""
    return sum(len(message.payload) + len(message.subject) for message in messages)
