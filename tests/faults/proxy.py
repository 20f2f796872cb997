"""A TCP proxy that breaks things: between a client and a server of this machine, as told by a test.

Faults of the bytes that pass (`Fault`) are set for each direction, of one connection (`Link.set`) or of all there are
and will be (`Proxy.set`); connections are ended by `cut` and `reset`. What a connection passes can also set off a fault
(`Proxy.when`), before the bytes that did so are passed on. Loopback only.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self

Way = Literal["up", "down"]
"""``up`` is from the client to the server."""

_PIECE = 1 << 16
"""Bytes held of each direction of a connection, beside what the sockets hold: nothing more is read until they left."""


@dataclass(frozen=True)
class Fault:
    """What happens to the bytes of one direction. ``stalled``: nothing is passed on, nor read, until that is changed;
    the bytes are late, not lost. ``dropping``: they are read and thrown away. ``chunk``: the bytes of one write (0: as
    they come). ``delay``: seconds before each write."""

    stalled: bool = False
    dropping: bool = False
    chunk: int = 0
    delay: float = 0.0


CLEAR = Fault()
STALL = Fault(stalled=True)
DROP = Fault(dropping=True)
DRIP = Fault(chunk=1)


@dataclass
class Counted:
    """What happened so far. ``refused``: connections turned away; ``cut`` and ``reset``: connections ended so."""

    connections: int = 0
    refused: int = 0
    cut: int = 0
    reset: int = 0
    passed: int = 0
    dropped: int = 0


class Link:
    """One client's connection, and the one to the server that belongs to it."""

    def __init__(self, proxy: Proxy, number: int, faults: dict[Way, Fault]) -> None:
        self.number = number
        self.closed = False
        self._proxy = proxy
        self._faults = faults
        self._changed: dict[Way, asyncio.Event] = {"up": asyncio.Event(), "down": asyncio.Event()}
        self._writers: tuple[asyncio.StreamWriter, ...] = ()

    def set(self, *, up: Fault | None = None, down: Fault | None = None) -> None:
        """Changes what happens to the bytes from now on; a direction that is not named stays as it is."""
        for way, fault in _named(up, down).items():
            self._faults[way] = fault
            self._changed[way].set()

    def cut(self) -> None:
        """Closes both sides; what was on its way is lost. A side whose bytes were not all read meets a reset even so:
        that is how TCP says it."""
        if self._end():
            self._proxy.counted.cut += 1

    def reset(self) -> None:
        """Ends both sides with RST: they meet a `ConnectionResetError`."""
        if self.closed:
            return
        for writer in self._writers:
            # Lingering for zero seconds is what makes close() send RST. Source: socket(7), SO_LINGER.
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self._end()
        self._proxy.counted.reset += 1

    def _end(self) -> bool:
        if self.closed:
            return False
        self.closed = True
        for writer in self._writers:
            writer.transport.abort()
        for changed in self._changed.values():
            changed.set()
        return True

    async def _run(self, client: tuple[asyncio.StreamReader, asyncio.StreamWriter], port: int) -> None:
        self._writers = (client[1],)
        try:
            server = await asyncio.open_connection("127.0.0.1", port, limit=_PIECE)
        except OSError:
            self._proxy.counted.refused += 1
            self.closed = True
            client[1].transport.abort()
            return
        self._writers = (client[1], server[1])
        if self.closed:  # while it was being opened
            server[1].transport.abort()
            return
        try:
            await asyncio.gather(self._pump("up", client[0], server[1]), self._pump("down", server[0], client[1]))
        except OSError:
            pass  # One side is gone, so the other goes too.
        finally:
            self._end()

    async def _pump(self, way: Way, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        proxy, tail = self._proxy, b""
        while piece := await reader.read(_PIECE):
            tail = proxy._look(self, way, tail, piece)
            at = 0
            while at < len(piece):
                fault = self._faults[way]
                if self.closed:
                    return
                if fault.stalled:
                    self._changed[way].clear()
                    await self._changed[way].wait()
                    continue
                if fault.dropping:
                    proxy.counted.dropped += len(piece) - at
                    break
                if fault.delay:
                    await asyncio.sleep(fault.delay)
                    if self._faults[way] != fault:
                        continue
                chunk = piece[at : at + (fault.chunk or len(piece))]
                at += len(chunk)
                proxy.counted.passed += len(chunk)
                writer.write(chunk)
                await writer.drain()
                if fault.chunk:
                    # Otherwise the next chunk might be read together with this one.
                    await asyncio.sleep(0)
        if not self.closed:
            writer.write_eof()


class Proxy:
    """Listens on a free port of 127.0.0.1 and passes every connection on to ``port``, until its block ends.

    ``limit``: the connections at a time; more are turned away. ``script`` is called with every new connection, before
    anything has passed.
    """

    def __init__(self, port: int, *, limit: int = 64, script: Callable[[Link], None] | None = None) -> None:
        self.counted = Counted()
        self.links: list[Link] = []
        self.refusing = False
        self.script = script
        self.port = 0
        self._target = port
        self._limit = limit
        self._faults: dict[Way, Fault] = {"up": CLEAR, "down": CLEAR}
        self._triggers: list[tuple[Way, bytes, Callable[[Link], None]]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, limit=_PIECE)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for link in self.links:
            link._end()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    def set(self, *, up: Fault | None = None, down: Fault | None = None) -> None:
        """What happens to the bytes of every connection, and of those to come."""
        self._faults |= _named(up, down)
        for link in self.links:
            link.set(up=up, down=down)

    def clear(self) -> None:
        """Passes on everything again, and lets connections in. What stalled arrives late, what was dropped never."""
        self.refusing = False
        self._triggers.clear()
        self.set(up=CLEAR, down=CLEAR)

    def cut(self) -> int:
        """Closes every connection; returns how many there were."""
        links = list(self.links)
        for link in links:
            link.cut()
        return len(links)

    def reset(self) -> int:
        """Resets every connection; returns how many there were."""
        links = list(self.links)
        for link in links:
            link.reset()
        return len(links)

    def when(self, way: Way, pattern: bytes, action: Callable[[Link], None]) -> None:
        """Calls ``action`` once, with the connection on which ``pattern`` comes next, before it is passed on."""
        assert pattern
        self._triggers.append((way, pattern, action))

    def _look(self, link: Link, way: Way, tail: bytes, piece: bytes) -> bytes:
        seen = tail + piece
        for trigger in [one for one in self._triggers if one[0] == way]:
            # Found in the tail alone, it came before anybody asked for it.
            if seen.find(trigger[1], max(0, len(tail) - len(trigger[1]) + 1)) >= 0:
                self._triggers.remove(trigger)
                trigger[2](link)
        return seen[-256:]

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refusing or len(self.links) >= self._limit:
            self.counted.refused += 1
            writer.transport.abort()
            return
        self.counted.connections += 1
        link = Link(self, self.counted.connections, dict(self._faults))
        self.links.append(link)
        if self.script is not None:
            self.script(link)
        task = asyncio.create_task(link._run((reader, writer), self._target))
        self._tasks.add(task)
        task.add_done_callback(lambda _: self._done(task, link))

    def _done(self, task: asyncio.Task[None], link: Link) -> None:
        self._tasks.discard(task)
        self.links.remove(link)
        if not task.cancelled():
            task.result()  # A fault of the proxy itself is shown by the loop.


def _named(up: Fault | None, down: Fault | None) -> dict[Way, Fault]:
    named: dict[Way, Fault] = {}
    if up is not None:
        named["up"] = up
    if down is not None:
        named["down"] = down
    return named
