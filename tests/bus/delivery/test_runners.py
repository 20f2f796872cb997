from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from itertools import pairwise
from typing import Any

import pytest

from sojourn.bus.delivery.runners import Runners
from tests.bus.delivery.processors import Turbo, turbo, until


async def drained(runners: Runners, seconds: float) -> bool:
    """Whether nothing is running or waiting any more within so many seconds."""
    try:
        await until(lambda: not runners.busy and not runners._ready, seconds)
    except TimeoutError:
        return False
    return True


class Job:
    """One thing to do; counts how often it was done."""

    def __init__(self, work: Callable[[], Coroutine[Any, Any, None]] | None = None) -> None:
        self.work = work
        self.done = 0

    async def step(self) -> None:
        if self.work is not None:
            await self.work()
        self.done += 1


def test_quick_work_needs_one_task_and_is_done_in_order() -> None:
    async def main() -> None:
        runners = Runners()
        order: list[int] = []
        tasks: set[object] = set()

        def job(n: int) -> Job:
            async def work() -> None:
                order.append(n)
                tasks.add(asyncio.current_task())

            return Job(work)

        for n in range(1000):
            runners.push(job(n))
        assert await drained(runners, 10)
        assert order == list(range(1000)) and len(tasks) == 1
        await runners.close(1)

    turbo(main())


def test_work_that_waits_holds_nobody_and_is_bounded() -> None:
    async def main() -> None:
        runners = Runners(limit=10)
        now = highest = 0

        async def work() -> None:
            nonlocal now, highest
            now += 1
            highest = max(highest, now)
            await asyncio.sleep(1)
            now -= 1

        begun = asyncio.get_running_loop().time()
        jobs = [Job(work) for _ in range(50)]
        for job in jobs:
            runners.push(job)
        assert await drained(runners, 60)
        assert highest == 10 and all(job.done == 1 for job in jobs)
        assert 5 <= asyncio.get_running_loop().time() - begun < 6
        await runners.close(1)

    turbo(main())


@pytest.mark.parametrize(("pause", "jobs", "most"), [(0.0, 640, 64), (0.03, 10, 1)], ids=["many", "slow"])
def test_the_loop_gets_its_turn_between_many_handlings_and_between_slow_ones(
    pause: float, jobs: int, most: int
) -> None:
    async def main() -> None:
        runners = Runners()
        turns: list[int] = []
        done = 0

        async def work() -> None:
            nonlocal done
            done += 1
            loop = asyncio.get_running_loop()
            assert isinstance(loop, Turbo)
            loop.skipped += pause  # as where a handler blocks for a while

        def turn() -> None:
            turns.append(done)
            if done < jobs:
                asyncio.get_running_loop().call_soon(turn)

        for _ in range(jobs):
            runners.push(Job(work))
        asyncio.get_running_loop().call_soon(turn)
        assert await drained(runners, 10)
        assert max(b - a for a, b in pairwise(turns)) <= most
        await runners.close(1)

    turbo(main())


def test_work_that_fails_ends_neither_its_runner_nor_the_rest() -> None:
    async def main() -> None:
        runners = Runners(limit=1)

        async def bad() -> None:
            raise ValueError("a bug")

        good = Job()
        runners.push(Job(bad))
        runners.push(good)
        assert await drained(runners, 5)
        assert good.done == 1 and runners.busy == 0
        await runners.close(1)

    turbo(main())


def test_what_outlives_its_time_is_cancelled_once() -> None:
    async def main() -> None:
        runners = Runners()
        cancelled = 0

        async def work() -> None:
            nonlocal cancelled
            end = asyncio.get_running_loop().time() + 40
            call = runners.enter("test", 2)
            try:
                while asyncio.get_running_loop().time() < end:
                    try:
                        await asyncio.sleep(1)
                    except asyncio.CancelledError:
                        cancelled += 1
            finally:
                runners.leave(call)

        job = Job(work)
        runners.push(job)
        while not job.done:
            runners.sweep()
            await asyncio.sleep(0.5)
        assert cancelled == 1 and not runners.calls
        await runners.close(1)

    turbo(main())


def test_closing_leaves_the_stubborn_behind() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        runners = Runners()
        free = asyncio.Event()

        async def stubborn() -> None:
            while not free.is_set():
                try:
                    await free.wait()
                except asyncio.CancelledError:
                    continue

        job = Job(stubborn)
        runners.push(job)
        begun = loop.time()
        assert not await drained(runners, 3)
        await runners.close(0.5)
        assert 3 <= loop.time() - begun < 4
        runners.push(Job())
        free.set()
        await until(lambda: job.done == 1)

    turbo(main())
