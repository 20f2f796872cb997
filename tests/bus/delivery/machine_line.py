"""A worker's own line to the twin, which freezes with its process and ends with it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from sojourn.bus.delivery.budget import Budget
from sojourn.bus.errors import UnavailableError
from sojourn.bus.memory import MemoryTransport
from sojourn.bus.ports import Append, Delivery, Receipt, Stored
from sojourn.bus.timers import VirtualTimers
from tests.bus.delivery.processors import START, Faults, FaultyTransport


class LoopClock:
    """Tells the time of an event loop as that of a wall."""

    virtual = False

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def now(self) -> datetime:
        return START + timedelta(seconds=self._loop.time())

    def handling(self, event_time: datetime) -> datetime:
        return self.now()


class Server(FaultyTransport):
    """The twin, its network with faults, and a clock that counts for what is stored and what expires."""

    def __init__(self, faults: Faults, timers: VirtualTimers, clock: LoopClock) -> None:
        super().__init__(faults, timers)
        self._clock = clock


class Line:
    """`Transport` to a server for one process. While it is frozen nothing passes, in either direction, and all of it
    does later; once it is cut nothing passes any more. ``reliable``: it knows no other faults."""

    def __init__(self, server: Server, *, reliable: bool = False) -> None:
        self._server = server
        self._reliable = reliable
        self._gate = asyncio.Event()
        self._gate.set()
        self._held: deque[tuple[Callable[[], object], Callable[[], object]]] = deque()
        self.dead = False

    @property
    def max_payload(self) -> int:
        return self._server.max_payload

    def freeze(self) -> None:
        self._gate.clear()

    def thaw(self) -> None:
        self._gate.set()
        while self._held:
            self._held.popleft()[0]()

    def cut(self) -> None:
        self.dead = True
        self._gate.set()
        while self._held:
            self._held.popleft()[1]()

    async def passed(self) -> None:
        """Waits until the line is open. Raises `UnavailableError` where it was cut."""
        await self._gate.wait()
        if self.dead:
            raise UnavailableError("the line was cut")

    def when_open(self, call: Callable[[], object], otherwise: Callable[[], object] = lambda: None) -> None:
        """Calls now or later; the other one where the line is cut."""
        if self.dead:
            otherwise()
        elif self._gate.is_set():
            call()
        else:
            self._held.append((call, otherwise))

    def send(self, stream: str, append: Append, done: Callable[[Receipt | Exception], None]) -> None:
        lost = partial(asyncio.get_running_loop().call_soon, done, UnavailableError("the line was cut"))
        send = partial(MemoryTransport.send, self._server) if self._reliable else self._server.send

        def told(result: Receipt | Exception) -> None:
            self.when_open(partial(done, result), lost)

        self.when_open(lambda: send(stream, append, told), lost)

    async def commit(self, stream: str, appends: Sequence[Append]) -> list[int]:
        if self._reliable:
            return await MemoryTransport.commit(self._server, stream, appends)
        sequences: list[int] = await self._gated(partial(self._server.commit, stream, appends))
        return sequences

    def consume(
        self,
        stream: str,
        name: str,
        receive: Callable[[Delivery], None],
        broken: Callable[[str], None],
        budget: Budget | None = None,
        left: Callable[[], float] | None = None,
    ) -> Any:
        return _Flow(
            self,
            self._server.consume(
                stream,
                name,
                lambda delivery: self.when_open(partial(receive, delivery)),
                lambda reason: self.when_open(partial(broken, reason)),
                budget,
                left,
            ),
        )

    async def read(self, stream: str, filter: str, start: int = 1, limit: int = 0, size: int = 0) -> list[Stored]:
        """As any replica answers: the last few messages of the stream may be missing (the fault ``behind``)."""
        found: list[Stored] = await self._gated(partial(self._server.read, stream, filter, start, limit, size))
        faults = self._server.faults
        if found and not self._reliable and faults.strikes("behind"):
            newest = await self._server.last(stream, ">")
            shown = 0 if newest is None else newest.sequence - faults.random.randrange(1, 12)
            return [message for message in found if message.sequence <= shown]
        return found

    async def bucket(self, name: str, *, erasable: bool = False) -> Any:
        return _Shelf(self, await self._gated(partial(self._server.bucket, name, erasable=erasable)))

    async def _gated(self, call: Callable[[], Awaitable[Any]]) -> Any:
        await self.passed()
        result = await call()
        await self.passed()
        return result

    def gated(self, method: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        """The same method, by this line."""
        return lambda *arguments, **named: self._gated(partial(method, *arguments, **named))

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._server, name)
        return found if name == "follow" else self.gated(found)


class _Flow:
    def __init__(self, line: Line, inner: Any) -> None:
        self._line = line
        self._inner = inner
        self.restart = line.gated(inner.restart)
        self.close = inner.close

    def ack(self, token: str) -> None:
        self._line.when_open(lambda: self._inner.ack(token))

    def progress(self, token: str) -> None:
        self._line.when_open(lambda: self._inner.progress(token))


class _Shelf:
    def __init__(self, line: Line, inner: Any) -> None:
        self._line = line
        self._inner = inner
        self.erasable = inner.erasable

    async def watch(self, prefix: str = "") -> AsyncGenerator[Any, None]:
        await self._line.passed()
        async for entry in self._inner.watch(prefix):
            await self._line.passed()
            yield entry

    def __getattr__(self, name: str) -> Any:
        return self._line.gated(getattr(self._inner, name))
