"""Runners: a small pool of tasks that does the work of many keys.

A key that is ready is run by whichever runner is awake; one runner does thousands of quick handlings one after the
other, without a task for each. When a handling has to wait (a model call, a fetch), its runner waits with it and
another goes on with the rest.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import Protocol

import structlog

_BURST = 64
_SLICE = 0.02
"""Handlings in a row, and seconds of them, before a runner lets the event loop read from the network again."""

READS = 8
"""Customers whose history is read at a time. Each read keeps the server busy for 25 to 100 ms where the log is long
(nats-server 2.15.1): many at once from several workers would keep it from everything else, renewals of sessions
included."""

log = structlog.get_logger("sojourn.worker")


class Runnable(Protocol):
    """Something with one thing to do."""

    async def step(self) -> None: ...


@dataclass(slots=True, eq=False)
class Call:
    """A handler that is running. ``deadline`` is on the loop's clock; ``label`` names it for people."""

    task: asyncio.Task[None]
    label: str
    deadline: float
    timed_out: bool = False


class Runners:
    """Runs what is pushed, first come, first served, ``limit`` of them at a time where they wait for something."""

    def __init__(self, limit: int = 1000) -> None:
        self._limit = limit
        self._ready: deque[Runnable] = deque()
        self._idle: list[asyncio.Future[None]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._waking = 0
        self._checking = False
        self.closed = False
        self.calls: dict[asyncio.Task[None], Call] = {}
        self.busy = 0
        self.reading = asyncio.Semaphore(READS)
        """Held while a customer's history is read."""

    def push(self, runnable: Runnable) -> None:
        """Has ``runnable.step()`` run soon."""
        self._ready.append(runnable)
        if not self._checking:
            self._checking = True
            asyncio.get_running_loop().call_soon(self._check)

    def enter(self, label: str, timeout: float) -> Call:
        """Marks the start of user code in the current runner."""
        task = asyncio.current_task()
        assert task is not None
        call = Call(task, label, asyncio.get_running_loop().time() + timeout)
        self.calls[task] = call
        return call

    def leave(self, call: Call) -> None:
        """Marks its end."""
        del self.calls[call.task]

    def sweep(self) -> None:
        """Cancels handlers that have outlived their time."""
        now = asyncio.get_running_loop().time()
        for call in list(self.calls.values()):
            if now > call.deadline:
                if not call.timed_out:
                    call.timed_out = True
                    call.task.cancel()
                elif now > call.deadline + 10:
                    call.deadline = now
                    log.error("handler ignores its cancellation", handler=call.label)

    async def close(self, seconds: float) -> None:
        """Cancels what is still running; what ignores that for so many seconds is left behind."""
        self.closed = True
        self._ready.clear()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=seconds)

    def _check(self) -> None:
        # Runs between two steps of the loop: whoever was awake has either emptied the queue or is waiting inside a
        # handler.
        self._checking = False
        if not self._ready or self._waking or self.closed:
            return
        if self._idle:
            self._waking += 1
            self._idle.pop().set_result(None)
        elif len(self._tasks) < self._limit:
            self._waking += 1
            task = asyncio.create_task(self._run())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        done = 0
        begun = loop.time()
        self._waking -= 1
        while not self.closed:
            while not self._ready:
                parked: asyncio.Future[None] = loop.create_future()
                self._idle.append(parked)
                await parked
                self._waking -= 1
                done = 0
                begun = loop.time()
            runnable = self._ready.popleft()
            if self._ready and not self._checking:
                self._checking = True
                loop.call_soon(self._check)
            self.busy += 1
            try:
                await runnable.step()
            except Exception:
                log.exception("a handling failed in the worker itself")
            finally:
                self.busy -= 1
            done += 1
            if done >= _BURST or loop.time() - begun > _SLICE:
                done = 0
                self._waking += 1
                await asyncio.sleep(0)
                self._waking -= 1
                begun = loop.time()
