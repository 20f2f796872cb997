"""Pages of the log are read within a share of the budget, and what they take is given back."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sojourn.bus.delivery.budget import Budget
from sojourn.bus.delivery.pages import BYTES, PAGE, Page, Pages
from sojourn.bus.errors import UnavailableError
from sojourn.bus.ports import Stored

MEGABYTE = 1024 * 1024


class Log:
    """A log of messages with payloads of these sizes, and the most that readers were handed and had not given back."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self.sizes = sizes
        self.held = self.most = 0

    async def read(self, start: int, limit: int, size: int) -> list[Stored]:
        await asyncio.sleep(0)
        found: list[Stored] = []
        for number, length in enumerate(self.sizes[start:], start):
            found.append(Stored("s", number, bytes(length), 0))
            size -= length
            if size <= 0 or len(found) == limit:
                break
        self.held += sum(len(message.payload) for message in found)
        self.most = max(self.most, self.held)
        return found

    async def read_all(self, pages: Pages) -> int:
        """How many messages there are, read page by page."""
        count, more = 0, True
        while more:
            start = count
            page = await pages.read(lambda limit, size, start=start: self.read(start, limit, size))  # type: ignore[misc]
            assert page.size >= sum(len(message.payload) for message in page.messages)
            await asyncio.sleep(0)
            count += len(page.messages)
            self.held -= sum(len(message.payload) for message in page.messages)
            pages.give(page.size)
            more = page.more
        return count


async def test_small_messages_come_in_full_pages() -> None:
    log = Log([100] * 300)
    pages = Pages(Budget())
    page = await pages.read(lambda limit, size: log.read(0, limit, size))
    assert (len(page.messages), page.more) == (PAGE, True)
    page = await pages.read(lambda limit, size: log.read(256, limit, size))
    assert (len(page.messages), page.more) == (44, False)


async def test_many_readers_of_large_messages_stay_within_their_share() -> None:
    budget = Budget(8 * MEGABYTE)
    budget.join(lambda: None)  # a flow
    pages = Pages(budget)
    log = Log([256 * 1024] * 20)
    assert await asyncio.gather(*(log.read_all(pages) for _ in range(50))) == [20] * 50
    # Its own quarter and a fifth of what is lent. The first to read do not know yet how large messages are.
    assert log.most <= 0.36 * budget.limit + (budget.limit // BYTES) * 256 * 1024 // 4
    assert budget.used == 0


@settings(deadline=None)
@given(st.lists(st.integers(0, 300_000), max_size=30), st.integers(1, 20), st.integers(100_000, 4_000_000))
def test_all_is_read_and_all_is_given_back(sizes: list[int], readers: int, limit: int) -> None:
    async def run() -> None:
        budget = Budget(limit)
        pages = Pages(budget)
        log = Log(sizes)
        async with asyncio.timeout(10):
            assert await asyncio.gather(*(log.read_all(pages) for _ in range(readers))) == [len(sizes)] * readers
        assert budget.used == 0

    asyncio.run(run())


async def test_who_fails_or_is_cancelled_gives_back() -> None:
    budget = Budget(1_000_000)
    pages = Pages(budget)
    log = Log([400_000] * 3)

    async def fail(limit: int, size: int) -> list[Stored]:
        raise UnavailableError("no answer")

    with pytest.raises(UnavailableError):
        await pages.read(fail)
    assert budget.used == 0

    first = await pages.read(lambda limit, size: log.read(0, limit, size))
    waiting = [asyncio.create_task(pages.read(lambda limit, size: log.read(0, limit, size))) for _ in range(3)]
    await asyncio.sleep(0)
    assert not any(task.done() for task in waiting)
    waiting[0].cancel()  # while it waits
    pages.give(first.size)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    waiting[1].cancel()  # with its room just given
    second = await waiting[2]
    assert isinstance(second, Page) and waiting[0].cancelled() and waiting[1].cancelled()
    pages.give(second.size)
    assert budget.used == 0
