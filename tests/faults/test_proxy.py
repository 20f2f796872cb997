"""The fault proxy before a plain echo server: each fault does what it says, and nothing is left behind."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import pytest

from tests.faults.proxy import CLEAR, DRIP, DROP, STALL, Fault, Link, Proxy

SOON = 0.2
"""Seconds in which something would have come that is not to come."""


@dataclass
class Echo:
    """A server that sends back what it gets, and remembers the pieces in which it came."""

    port: int = 0
    pieces: list[bytes] = field(default_factory=list)

    @property
    def got(self) -> bytes:
        return b"".join(self.pieces)


@contextlib.asynccontextmanager
async def echoing() -> AsyncIterator[Echo]:
    echo = Echo()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while piece := await reader.read(65_536):
                echo.pieces.append(piece)
                writer.write(piece)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    echo.port = server.sockets[0].getsockname()[1]
    try:
        yield echo
    finally:
        server.close()
        # From Python 3.13 on; without it, clients that have ended are all that there are.
        getattr(server, "close_clients", lambda: None)()


class Caller:
    """A client of the echo server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def say(self, text: bytes) -> None:
        self.writer.write(text)

    async def hear(self, count: int) -> bytes:
        async with asyncio.timeout(10):
            return await self.reader.readexactly(count)

    async def hears_nothing(self) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(SOON):
                await self.reader.read(1)


@contextlib.asynccontextmanager
async def calling(proxy: Proxy) -> AsyncIterator[Caller]:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    try:
        yield Caller(reader, writer)
    finally:
        # What was not sent need not arrive any more.
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - sockets set no event
            await asyncio.sleep(0.005)


async def test_without_faults_everything_passes_and_is_counted() -> None:
    async with echoing() as echo, Proxy(echo.port) as proxy, calling(proxy) as one, calling(proxy) as two:
        text = bytes(range(256)) * 2_000
        one.say(text)
        two.say(b"short")
        assert await one.hear(len(text)) == text
        assert await two.hear(5) == b"short"
        assert proxy.counted.connections == len(proxy.links) == 2
        assert proxy.counted.passed == 2 * (len(text) + 5)
        assert proxy.counted.dropped == proxy.counted.cut == proxy.counted.reset == proxy.counted.refused == 0


async def test_a_side_that_closes_closes_the_other_once_all_has_passed() -> None:
    async with echoing() as echo, Proxy(echo.port) as proxy, calling(proxy) as caller:
        caller.say(b"the end")
        caller.writer.write_eof()
        assert await caller.hear(7) == b"the end"
        assert await caller.reader.read(1) == b""
        await until(lambda: not proxy.links)


async def test_cut_closes_both_sides_of_every_connection() -> None:
    async with echoing() as echo, Proxy(echo.port) as proxy, calling(proxy) as one, calling(proxy) as two:
        for caller in (one, two):
            caller.say(b"a")
            assert await caller.hear(1) == b"a"
        assert proxy.cut() == 2
        assert await one.reader.read(1) == await two.reader.read(1) == b""
        await until(lambda: not proxy.links)
        assert proxy.counted.cut == 2
        async with calling(proxy) as three:
            three.say(b"b")
            assert await three.hear(1) == b"b"


async def test_reset_is_met_as_a_reset() -> None:
    async with echoing() as echo, Proxy(echo.port) as proxy, calling(proxy) as caller:
        caller.say(b"a")
        assert await caller.hear(1) == b"a"
        assert proxy.reset() == 1
        with pytest.raises(ConnectionResetError):
            await caller.reader.read(1)
        await until(lambda: not proxy.links)
        assert proxy.counted.reset == 1 and proxy.counted.cut == 0


@pytest.mark.parametrize("both", [True, False])
async def test_what_is_stalled_is_late_and_not_lost(both: bool) -> None:
    async with echoing() as echo, Proxy(echo.port) as proxy, calling(proxy) as caller:
        proxy.set(up=STALL if both else None, down=STALL)
        caller.say(b"patience")
        await caller.hears_nothing()
        assert echo.got == (b"" if both else b"patience")
        proxy.clear()
        assert await caller.hear(8) == b"patience"
        assert proxy.counted.dropped == 0


async def test_a_stall_holds_a_bounded_part_of_what_is_sent() -> None:
    async with echoing() as echo, Proxy(echo.port) as proxy, calling(proxy) as caller:
        proxy.set(up=STALL)
        text = b"x" * (32 << 20)
        caller.say(text)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(SOON):
                await caller.writer.drain()
        # Most of it has not even left the sender: what the proxy holds is what its sockets hold.
        assert caller.writer.transport.get_write_buffer_size() > len(text) // 2
        assert proxy.counted.passed == 0


@pytest.mark.parametrize(("up", "down", "arrived"), [(DROP, CLEAR, b""), (CLEAR, DROP, b"gone")])
async def test_one_direction_can_be_dropped(up: Fault, down: Fault, arrived: bytes) -> None:
    async with echoing() as echo, Proxy(echo.port) as proxy, calling(proxy) as caller:
        proxy.set(up=up, down=down)
        caller.say(b"gone")
        await caller.hears_nothing()
        assert echo.got == arrived
        assert proxy.counted.dropped == 4
        proxy.clear()
        caller.say(b"here")
        assert await caller.hear(4) == b"here"


async def test_byte_by_byte() -> None:
    async with echoing() as echo, Proxy(echo.port) as proxy, calling(proxy) as caller:
        proxy.set(up=DRIP)
        text = bytes(range(200))
        caller.say(text)
        assert await caller.hear(200) == text
        # On its way two bytes may still be read as one piece, but never all.
        assert len(echo.pieces) > 20


async def test_delay() -> None:
    async with echoing() as echo, Proxy(echo.port) as proxy, calling(proxy) as caller:
        proxy.set(up=Fault(delay=0.1), down=Fault(delay=0.1))
        begun = asyncio.get_running_loop().time()
        caller.say(b"slow")
        assert await caller.hear(4) == b"slow"
        assert asyncio.get_running_loop().time() - begun >= 0.19


async def test_one_connection_alone() -> None:
    async with echoing() as echo, Proxy(echo.port) as proxy, calling(proxy) as one, calling(proxy) as two:
        await until(lambda: len(proxy.links) == 2)
        proxy.links[0].set(down=DROP)
        for caller in (one, two):
            caller.say(b"who")
        assert await two.hear(3) == b"who"
        await one.hears_nothing()
        proxy.links[0].cut()
        assert await one.reader.read(1) == b""
        two.say(b"still")
        assert await two.hear(5) == b"still"


async def test_connections_to_come_get_the_fault_too_or_what_their_script_says() -> None:
    def script(link: Link) -> None:
        if link.number == 2:
            link.set(down=CLEAR)

    async with echoing() as echo, Proxy(echo.port, script=script) as proxy:
        proxy.set(down=DROP)
        async with calling(proxy) as one, calling(proxy) as two:
            await until(lambda: len(proxy.links) == 2)
            one.say(b"1")
            two.say(b"2")
            assert await two.hear(1) == b"2"
            await one.hears_nothing()


async def test_what_passes_sets_off_a_fault_once_and_before_it_is_passed_on() -> None:
    async with echoing() as echo, Proxy(echo.port) as proxy, calling(proxy) as caller:
        proxy.set(up=Fault(chunk=3))
        caller.say(b"before;")
        assert await caller.hear(7) == b"before;"
        proxy.when("up", b"commit", lambda link: link.set(down=DROP))
        # In two pieces, so that it is found across them.
        caller.say(b"a com")
        assert await caller.hear(5) == b"a com"
        caller.say(b"mit")
        await until(lambda: echo.got.endswith(b"a commit"))
        await caller.hears_nothing()
        proxy.clear()
        caller.say(b"commit")
        assert await caller.hear(6) == b"commit"


async def test_what_came_before_sets_off_nothing() -> None:
    async with echoing() as echo, Proxy(echo.port) as proxy, calling(proxy) as caller:
        caller.say(b"commit")
        assert await caller.hear(6) == b"commit"
        proxy.when("up", b"commit", lambda link: link.cut())
        caller.say(b"x")
        assert await caller.hear(1) == b"x"
        caller.say(b"commit")
        assert await caller.reader.read(1) == b""
        assert echo.got == b"commitx"


async def test_more_than_the_limit_and_all_while_refusing_are_turned_away() -> None:
    async with echoing() as echo, Proxy(echo.port, limit=1) as proxy, calling(proxy) as one:
        one.say(b"a")
        assert await one.hear(1) == b"a"
        async with calling(proxy) as two:
            assert await two.reader.read(1) == b""
        proxy.cut()
        await until(lambda: not proxy.links)
        proxy.refusing = True
        async with calling(proxy) as three:
            assert await three.reader.read(1) == b""
        proxy.clear()
        async with calling(proxy) as four:
            four.say(b"b")
            assert await four.hear(1) == b"b"
        assert proxy.counted.refused == 2


async def test_a_server_that_is_down_ends_the_client() -> None:
    async with echoing() as echo:
        port = echo.port
    async with Proxy(port) as proxy, calling(proxy) as caller:
        assert await caller.reader.read(1) == b""
        await until(lambda: not proxy.links)
        assert proxy.counted.refused == 1


async def test_it_stops_cleanly_in_the_middle_of_a_stall() -> None:
    before = asyncio.all_tasks()
    async with echoing() as echo, Proxy(echo.port) as proxy:
        proxy.set(up=STALL, down=STALL)
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(b"held")
        await until(lambda: len(proxy.links) == 1)
    with contextlib.suppress(ConnectionResetError):
        assert await reader.read(1) == b""
    writer.transport.abort()
    await until(lambda: asyncio.all_tasks() == before)
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", proxy.port)
