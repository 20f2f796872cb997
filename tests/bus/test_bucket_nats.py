"""Erasable buckets on a real server: no byte stays in its store, and several processes never make one key twice."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from hashlib import sha512
from itertools import count
from pathlib import Path
from typing import Any

import nats
import pytest
from nats.aio.client import Client

from sojourn.bus.errors import ConfigurationError
from sojourn.bus.nats import NatsTransport, connect_nats
from sojourn.bus.nats.streams import NatsStreams
from sojourn.bus.ports import Bucket, Entry
from sojourn.bus.timers import JetStreamTimers
from tests.bus.arena import DEADLINE
from tests.nats_server import NatsServer

StartServer = Callable[..., NatsServer]

_REVISIONS = 64


def secret(name: str) -> bytes:
    """A value that cannot be in a file by chance."""
    return sha512(name.encode()).digest()


def found(store: Path, value: bytes) -> list[str]:
    """The files of the server's store that hold ``value``."""
    return [str(path) for path in sorted(store.rglob("*")) if path.is_file() and value in path.read_bytes()]


@asynccontextmanager
async def connected(server: NatsServer) -> AsyncIterator[NatsTransport]:
    transport = await connect_nats(server.url, timers=JetStreamTimers())
    try:
        yield transport
    finally:
        await transport.close()


async def fill(bucket: Bucket) -> None:
    """Neighbours, so that no file goes away as a whole with the value that is looked for."""
    await bucket.create({f"neighbour.{n}": secret(f"neighbour {n}") for n in range(200)})


async def test_erase_removes_the_bytes_of_all_revisions(private_server: StartServer, tmp_path: Path) -> None:
    server = private_server()
    values = [secret(f"revision {n}") for n in range(3)]
    async with connected(server) as transport:
        bucket = await transport.bucket("keys", erasable=True)
        await fill(bucket)
        assert await bucket.create({"key.anna": values[0]}) == {"key.anna"}
        assert found(tmp_path, values[0])
        await bucket.put("key.anna", values[1])
        assert found(tmp_path, values[1]) and not found(tmp_path, values[0]), "a predecessor is overwritten by `put`"
        newest = await bucket.get("key.anna")
        assert newest is not None
        await bucket.put("key.anna", values[2], expect=newest.revision)
        assert found(tmp_path, values[2]) and not found(tmp_path, values[1])
        assert await bucket.erase("key.anna")
        assert not any(found(tmp_path, value) for value in values)
    server.kill9()
    server.restart()
    assert not any(found(tmp_path, value) for value in values)
    async with connected(server) as transport:
        bucket = await transport.bucket("keys", erasable=True)
        assert await bucket.get("key.anna") is None
        assert len(await bucket.entries("neighbour.")) == 200
    server.stop()
    assert not any(found(tmp_path, value) for value in values)
    assert found(tmp_path, secret("neighbour 7")), "the search finds what is there"


async def test_what_is_stored_before_a_restart_is_erased_after_it(private_server: StartServer, tmp_path: Path) -> None:
    server = private_server()
    value = secret("old")
    async with connected(server) as transport:
        bucket = await transport.bucket("keys", erasable=True)
        await fill(bucket)
        await bucket.put("key.anna", value)
    server.stop()
    assert found(tmp_path, value)
    server.restart()
    async with connected(server) as transport:
        bucket = await transport.bucket("keys", erasable=True)
        assert await bucket.erase("key.anna")
        assert not found(tmp_path, value)
        # The server's index of subjects is written from time to time and still names the key; the value it never held.
        assert await bucket.create({"key.anna": secret("new")}) == {"key.anna"}
    server.stop()
    assert not found(tmp_path, value)


async def test_delete_removes_the_bytes_too(private_server: StartServer, tmp_path: Path) -> None:
    server = private_server()
    async with connected(server) as transport:
        bucket = await transport.bucket("keys", erasable=True)
        await fill(bucket)
        for name in ("first", "second"):
            assert await bucket.create({"k": secret(name)}) == {"k"}
            assert found(tmp_path, secret(name))
            await bucket.delete("k")
            assert not found(tmp_path, secret(name))


async def test_an_ordinary_bucket_keeps_the_bytes_it_forgot(private_server: StartServer, tmp_path: Path) -> None:
    """Why there are erasable ones; where a server does better, they can be simpler."""
    server = private_server()
    async with connected(server) as transport:
        bucket = await transport.bucket("ordinary")
        await fill(bucket)
        await bucket.put("k", secret("first"))
        await bucket.put("k", secret("second"))
        assert found(tmp_path, secret("first"))


async def test_no_part_of_a_refused_batch_stays(private_server: StartServer, tmp_path: Path) -> None:
    server = private_server()
    async with connected(server) as transport:
        bucket = await transport.bucket("keys", erasable=True)
        await fill(bucket)
        lost = {f"neighbour.{n}": secret(f"lost {n}") for n in range(0, 200, 50)}
        assert await bucket.create(lost | {"new": secret("new")}) == {"new"}
        assert found(tmp_path, secret("new"))
        assert not any(found(tmp_path, value) for value in lost.values())


def interrupt(patch: pytest.MonkeyPatch, after: int) -> None:
    """Lets so many messages be deleted; then it is as if the process were gone."""
    delete = NatsStreams._delete
    left = after

    async def interrupted(streams: NatsStreams, stream: str, sequence: int) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise ConnectionAbortedError
        await delete(streams, stream, sequence)

    patch.setattr(NatsStreams, "_delete", interrupted)


async def leave(client: Client, key: str, values: list[bytes]) -> None:
    """Revisions as a writer leaves them that was killed before it overwrote the predecessors."""
    for value in values:
        ack = json.loads((await client.request(f"$KV.keys.{key}", value)).data)
        assert "error" not in ack


@pytest.mark.parametrize("after", range(5))
async def test_an_interrupted_erasure_is_finished_by_the_next(
    private_server: StartServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    values = [secret(f"revision {n}") for n in range(4)]
    server = private_server()
    client = await nats.connect(server.url)
    async with connected(server) as transport:
        bucket = await transport.bucket("keys", erasable=True)
        await fill(bucket)
        await leave(client, "k", values)
        with monkeypatch.context() as patch:
            interrupt(patch, after)
            if after < 4:
                with pytest.raises(ConnectionAbortedError):
                    await bucket.erase("k")
                newest = await bucket.get("k")
                assert newest is not None and newest.value == values[-1], "no predecessor comes back"
            else:
                assert await bucket.erase("k")
        assert await bucket.erase("k") is (after < 4)
        assert not any(found(tmp_path, value) for value in values)
    await client.close()


async def test_a_write_that_slips_into_an_erasure_is_erased_too(
    private_server: StartServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = [secret("late")]
    server = private_server()
    client = await nats.connect(server.url)
    delete = NatsStreams._delete
    writes = [late]

    async def overtaken(streams: NatsStreams, stream: str, sequence: int) -> None:
        if writes:
            await leave(client, "k", writes.pop())
        await delete(streams, stream, sequence)

    async with connected(server) as transport:
        bucket = await transport.bucket("keys", erasable=True)
        await fill(bucket)
        await bucket.put("k", secret("early"))
        monkeypatch.setattr(NatsStreams, "_delete", overtaken)
        assert await bucket.erase("k")
        assert not writes and await bucket.get("k") is None
        assert not found(tmp_path, late[0])
    await client.close()


async def test_leftovers_of_killed_writers_hide_from_readers_and_go_with_the_next_write(
    private_server: StartServer, tmp_path: Path
) -> None:
    values = [secret(f"revision {n}") for n in range(_REVISIONS)]
    server = private_server()
    client = await nats.connect(server.url)
    async with connected(server) as transport:
        bucket = await transport.bucket("keys", erasable=True)
        await fill(bucket)
        await leave(client, "full", values)
        full = json.loads((await client.request("$KV.keys.full", b"one too many")).data)
        assert "maximum messages per subject" in full["error"]["description"], "refused, and no revision is dropped"
        assert [entry.value for entry in await bucket.entries("full")] == [values[-1]]
        async with aclosing(bucket.watch("full")) as changes:
            async with asyncio.timeout(DEADLINE):
                assert (await anext(changes)).value == values[-1]
                revision = await bucket.put("full", b"new")
                assert await anext(changes) == Entry("full", b"new", revision)
        assert not any(found(tmp_path, value) for value in values)

        # A writer that was killed after its marker was stored.
        for again in (
            lambda: bucket.delete("gone"),
            lambda: bucket.create({"gone": b"new"}),
            lambda: bucket.put("gone", b"new", expect=0),
        ):
            await bucket.erase("gone")
            await leave(client, "gone", values[:2])
            await client.request("$KV.keys.gone", b"", headers={"KV-Operation": "DEL"})
            assert await bucket.get("gone") is None and await bucket.entries("gone") == []
            assert found(tmp_path, values[1])
            await again()
            assert not found(tmp_path, values[0]) and not found(tmp_path, values[1])
    await client.close()


async def test_what_would_forget_without_overwriting_is_refused(nats_server: NatsServer) -> None:
    client = await nats.connect(nats_server.url)

    async def error(subject: str, payload: bytes = b"", headers: dict[str, Any] | None = None) -> str:
        told: str = json.loads((await client.request(subject, payload, headers=headers)).data)["error"]["description"]
        return told

    async with connected(nats_server) as transport:
        bucket = await transport.bucket("strict", erasable=True)
        await bucket.put("k", b"1")
        assert "TTL is disabled" in await error("$KV.strict.k", b"2", {"Nats-TTL": "5"})
        assert "rollup not permitted" in await error("$KV.strict.k", b"", {"Nats-Rollup": "sub"})
        assert "purge not permitted" in await error("$JS.API.STREAM.PURGE.KV_strict")
        # Other clients read it as the key-value bucket it is.
        entry = await (await client.jetstream().key_value("strict")).get("k")
        assert entry.value == b"1"
    await client.close()


async def test_a_bucket_made_by_others_is_told_what_differs(nats_server: NatsServer) -> None:
    client = await nats.connect(nats_server.url)
    await client.jetstream().create_key_value(bucket="foreign", history=64)
    async with connected(nats_server) as transport:
        with pytest.raises(
            ConfigurationError, match=r"KV_foreign has other settings in .*deny_delete.*another namespace"
        ):
            await transport.bucket("foreign", erasable=True)
        assert not (await transport.bucket("foreign")).erasable
        # It does not stay away for good.
        await transport.delete_stream("KV_foreign")
        assert (await transport.bucket("foreign", erasable=True)).erasable
    await client.close()


async def test_entries_that_are_written_anew_all_along_are_never_missing(nats_server: NatsServer) -> None:
    async with connected(nats_server) as transport, connected(nats_server) as other:
        bucket, mine = await transport.bucket("restless"), await other.bucket("restless")
        keys = [f"k{number}" for number in range(40)]
        for key in keys:
            await mine.put(key, b"0")

        async def write() -> None:
            for number in count():
                for key in keys:
                    await mine.put(key, b"%d" % number)

        writing = asyncio.create_task(write())
        try:
            for _ in range(60):
                assert [entry.key for entry in await bucket.entries()] == sorted(keys)
        finally:
            writing.cancel()
        with suppress(asyncio.CancelledError):
            await writing


_MAKER = """
import asyncio, random, sys
from sojourn.bus.nats import connect_nats
from sojourn.bus.timers import JetStreamTimers

async def main(url, maker, keys):
    transport = await connect_nats(url, timers=JetStreamTimers())
    bucket = await transport.bucket("race", erasable=True)
    print("ready", flush=True)
    sys.stdin.readline()
    order = random.Random(maker).sample(range(keys), keys)
    for start in range(0, keys, 60):
        part = order[start:start + 60]
        created = await bucket.create({f"k{n}": f"{maker}".encode() for n in part})
        print(*created, flush=True)
    await transport.close()

asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
"""


async def test_processes_that_create_the_same_keys_agree(nats_server: NatsServer) -> None:
    keys, makers = 1_500, 3
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable,
            *("-c", _MAKER, nats_server.url, str(maker), str(keys)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=os.environ,
        )
        for maker in range(makers)
    ]
    async with asyncio.timeout(60):
        for process in processes:
            assert process.stdout is not None
            assert await process.stdout.readline() == b"ready\n"
        told = await asyncio.gather(*(process.communicate(b"go\n") for process in processes))
    created = [out.decode().split() for out, _ in told]
    async with connected(nats_server) as transport:
        bucket = await transport.bucket("race", erasable=True)
        values = {entry.key: entry.value for entry in await bucket.entries()}
    assert len(values) == sum(map(len, created)) == keys, "each key has one creator"
    assert values == {key: b"%d" % maker for maker, names in enumerate(created) for key in names}
