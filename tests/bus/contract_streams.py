"""What streams on every transport adapter have to do."""

from __future__ import annotations

import pytest

from sojourn.bus.errors import (
    ConfigurationError,
)
from sojourn.bus.ports import (
    Append,
    Receipt,
    StreamSpec,
)
from tests.bus.arena import Arena, ascending, eventually


class StreamContract:
    """`Streams`."""

    async def test_create_stream_is_idempotent_and_refuses_other_subjects(self, arena: Arena) -> None:
        transport = arena.transport
        name = f"{arena.stream}-X"
        spec = StreamSpec(name, (f"{arena.ns}x.a.>", f"{arena.ns}x.b.>"), metadata={"partitions": "32"})
        await transport.create_stream(spec)
        await transport.commit(name, [Append(f"{arena.ns}x.a.b", b"")])
        await transport.create_stream(StreamSpec(name, spec.subjects[::-1]))
        state = await transport.stream_state(name)
        assert state is not None and state[:4] == (1, 1, 1, {"partitions": "32"})
        with pytest.raises(ConfigurationError, match=f"{arena.ns}x.b.>.* instead of .*{arena.ns}x.c.>"):
            await transport.create_stream(StreamSpec(name, (f"{arena.ns}x.c.>",)))
        with pytest.raises(ConfigurationError, match="overlap"):
            await transport.create_stream(StreamSpec(f"{name}-Y", (f"{arena.ns}x.*.b",)))
        with pytest.raises(ConfigurationError, match="cannot name"):
            await transport.create_stream(StreamSpec("a.b", (f"{arena.ns}y.>",)))
        assert await transport.streams(arena.stream) == [arena.stream, name]
        await transport.delete_stream(name)
        await transport.delete_stream(name)
        assert await transport.streams(arena.stream) == [arena.stream]

    async def test_a_stream_of_foreign_documents(self, arena: Arena) -> None:
        name = f"{arena.stream}-IN"
        await arena.transport.create_stream(StreamSpec(name, (f"{arena.ns}.in.>",), log=False))
        told: list[Receipt | Exception] = []
        arena.transport.send(name, Append(f"{arena.ns}.in.Seen", b"1"), told.append)
        await eventually(lambda: told)
        assert told == [Receipt(1)]
        await arena.transport.delete_stream(name)

    async def test_stream_state_and_deleting_messages(self, arena: Arena) -> None:
        assert await arena.state() == (1, 0, 0)
        await arena.send(*(arena.event("k") for _ in range(200)))
        assert await arena.state() == (1, 200, 200)
        await arena.transport.delete_messages(arena.stream, [*range(1, 151), 160, 160, 999])
        assert await arena.state() == (151, 200, 49)
        assert await arena.transport.get(arena.stream, 160) is None
        assert ascending(await arena.read("log.1.k.>"))[:11] == [*range(151, 160), 161, 162]
        await arena.transport.delete_messages(arena.stream, range(1, 201))
        assert await arena.state() == (201, 200, 0)
        assert await arena.transport.last(arena.stream, f"{arena.ns}.log.1.k.>") is None
        assert await arena.send(arena.event("k")) == [Receipt(201)]

    async def test_a_purge_ends_at_its_sequence(self, arena: Arena) -> None:
        await arena.send(*(arena.event("k") for _ in range(20)))
        await arena.transport.purge(arena.stream, 0)
        assert await arena.state() == (1, 20, 20)
        await arena.transport.delete_messages(arena.stream, [3, 15])
        await arena.transport.purge(arena.stream, 12)
        await arena.transport.purge(arena.stream, 12)
        assert await arena.state() == (13, 20, 7)
        assert ascending(await arena.read("log.1.k.>")) == [13, 14, *range(16, 21)]
        await arena.transport.purge(arena.stream, 20)
        assert await arena.state() == (21, 20, 0)
        # What comes between the question and the purge stays.
        assert await arena.send(arena.event("k")) == [Receipt(21)]
        await arena.transport.purge(arena.stream, 20)
        assert await arena.state() == (21, 21, 1)
