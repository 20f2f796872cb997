"""The transport on NATS fulfils the contract with both kinds of timers, and survives its server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, suppress
from datetime import datetime
from itertools import count
from pathlib import Path

import nats
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from sojourn.bus.client import connect
from sojourn.bus.errors import (
    BusyError,
    ConfigurationError,
    PermissionDenied,
    SojournError,
    TimedOutError,
    TransientError,
    UnavailableError,
)
from sojourn.bus.nats import NatsTransport, connect_nats
from sojourn.bus.nats.faults import RefusedError, meaning
from sojourn.bus.nats.times import nanoseconds
from sojourn.bus.ports import Append, Entry, Receipt, Stored, StreamSpec
from sojourn.bus.timers import JetStreamTimers, VirtualTimers
from tests.bus.arena import DEADLINE, Arena, Taking, ascending, eventually, gather
from tests.bus.contract import TransportContract
from tests.bus.credentials import Chain
from tests.nats_server import NatsServer

StartServer = Callable[..., NatsServer]
_number = count(1)


async def make_arena(server: NatsServer, timers: JetStreamTimers | VirtualTimers, **options: object) -> Arena:
    transport = await connect_nats(server.url, timers=timers, **options)  # type: ignore[arg-type] # handed on
    ns = f"n{next(_number)}"
    await transport.create_stream(StreamSpec(ns.upper(), (f"{ns}.log.>", f"{ns}.lane.>", f"{ns}.timer.>")))

    async def advance(moment: datetime) -> None:
        if isinstance(timers, VirtualTimers):
            for due in timers.pop_due(moment):
                await transport.commit(due.stream, [Append(due.target, due.payload)])

    return Arena(transport, ns.upper(), ns, advance)


class TestNatsTransport(TransportContract):
    @pytest.fixture
    async def arena(self, nats_server: NatsServer) -> AsyncIterator[Arena]:
        arena = await make_arena(nats_server, JetStreamTimers())
        yield arena
        await arena.transport.close()


class TestNatsTransportOnVirtualTime(TransportContract):
    @pytest.fixture
    async def arena(self, nats_server: NatsServer) -> AsyncIterator[Arena]:
        arena = await make_arena(nats_server, VirtualTimers())
        yield arena
        await arena.transport.close()


@pytest.fixture
async def arena(nats_server: NatsServer) -> AsyncIterator[Arena]:
    arena = await make_arena(nats_server, JetStreamTimers())
    yield arena
    await arena.transport.close()


# Connecting


async def test_no_server_is_said_in_one_line() -> None:
    with pytest.raises(UnavailableError) as refusal:
        await connect_nats("nats://127.0.0.1:9", timers=JetStreamTimers())
    assert "127.0.0.1:9" in str(refusal.value) and "refused" in str(refusal.value).lower()
    assert "\n" not in str(refusal.value)


async def test_wrong_credentials_are_said_in_one_line(private_server: StartServer) -> None:
    server = private_server("authorization { user: right, password: secret }")
    with pytest.raises(PermissionDenied, match="refused the credentials"):
        await connect_nats(server.url, timers=JetStreamTimers(), user="wrong", password="no")
    transport = await connect_nats(server.url, timers=JetStreamTimers(), user="right", password="secret")
    assert transport.server_version.startswith("2.")
    await transport.close()


async def test_a_credentials_file_opens_a_server_that_knows_its_signer(
    private_server: StartServer, tmp_path: Path
) -> None:
    chain = Chain()
    server = private_server(chain.settings)
    creds = chain.write_user(tmp_path / "me.creds")
    async with connect(server.url, creds=str(creds)) as bus:
        assert await bus.registry.agents() == []
    stranger = Chain().write_user(tmp_path / "stranger.creds")
    for refused in (None, str(stranger)):
        with pytest.raises(PermissionDenied, match="refused the credentials"):
            await connect_nats(server.url, timers=JetStreamTimers(), creds=refused)


async def test_what_a_credentials_file_needs_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sojourn.bus.nats.transport.find_spec", lambda name: None)
    file = tmp_path / "me.creds"
    file.touch()
    with pytest.raises(
        ConfigurationError, match=r"me\.creds needs the package nkeys, .*: pip install 'nats-py\[nkeys\]'$"
    ):
        await connect_nats("nats://127.0.0.1:1", timers=JetStreamTimers(), creds=str(file))


@pytest.mark.parametrize(
    ("info", "complaint"),
    [
        ({"version": "2.10.4", "headers": True, "jetstream": True}, "nats-server 2.10.4 is too old.*2.14"),
        ({"version": "2.15.0", "headers": False, "jetstream": True}, "headers switched off"),
    ],
)
async def test_a_server_that_does_not_fit_is_refused(info: dict[str, object], complaint: str) -> None:
    left = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        document = json.dumps({"server_id": "x", "max_payload": 1_048_576, "proto": 1, **info})
        writer.write(f"INFO {document}\r\n".encode())
        with suppress(ConnectionResetError):
            while line := await reader.readline():
                if line.startswith(b"PING"):
                    writer.write(b"PONG\r\n")
        writer.close()
        left.set()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    with pytest.raises(ConfigurationError, match=complaint):
        await connect_nats(f"nats://127.0.0.1:{port}", timers=JetStreamTimers())
    async with asyncio.timeout(5):
        await left.wait()
    listener.close()
    await listener.wait_closed()


async def test_the_first_of_several_that_answers_is_used(nats_server: NatsServer) -> None:
    transport = await connect_nats(f"nats://127.0.0.1:1, {nats_server.url}", timers=JetStreamTimers())
    assert transport.server_version.startswith("2.")
    await transport.close()
    with pytest.raises(ConfigurationError, match="no server is named"):
        await connect_nats(" , ", timers=JetStreamTimers())


async def test_a_server_without_jetstream_is_refused(private_server: StartServer) -> None:
    server = private_server('accounts { A { users: [{ user: "a", password: "b" }] } }')
    with pytest.raises(ConfigurationError, match="JetStream"):
        await connect_nats(server.url, timers=JetStreamTimers(), user="a", password="b")


async def test_what_is_not_permitted_is_denied_at_once(private_server: StartServer) -> None:
    server = private_server(
        'authorization { users: [{ user: u, password: p, permissions: { publish: { deny: ["*.log.1.Secret.>"] } } }] }'
    )
    arena = await make_arena(server, JetStreamTimers(), user="u", password="p")
    denied, fine = await arena.send(arena.event("Secret"), arena.event("open"))
    assert isinstance(denied, PermissionDenied) and "log.1.secret" in str(denied)
    assert fine == Receipt(1)
    for batch in (["Secret", "open", "open"], ["open", "Secret", "open"], ["open", "open", "Secret"]):
        with pytest.raises(PermissionDenied):
            await arena.transport.commit(arena.stream, [arena.event(key) for key in batch])
    assert await arena.state() == (1, 1, 1)
    await arena.transport.close()


# Errors


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        (10210, 429, BusyError),
        (10176, 400, UnavailableError),
        (10008, 503, UnavailableError),
        (10039, 503, UnavailableError),
        (10052, 400, ConfigurationError),
    ],
)
def test_what_refusals_mean(code: int, status: int, kind: type[SojournError]) -> None:
    error = meaning(RefusedError(code, status, "why"), "STREAM")
    assert type(error) is kind and "STREAM" in str(error) and "why" in str(error)


async def test_too_many_open_batches_are_busy(arena: Arena, nats_server: NatsServer) -> None:
    client = await nats.connect(nats_server.url)
    for n in range(50):
        headers = {"Nats-Batch-Id": f"abandoned-{n}", "Nats-Batch-Sequence": "1"}
        # The answer says that the batch is open; a flush would only say that the server has read it.
        await client.request(f"{arena.ns}.log.1.k.evt.Seen", b"", timeout=10, headers=headers)
    with pytest.raises(BusyError):
        await arena.transport.commit(arena.stream, [arena.event("a"), arena.event("b"), arena.event("c")])
    assert await arena.transport.commit(arena.stream, [arena.event("a")]) == [1]
    await client.close()


async def test_a_silent_server_times_out(private_server: StartServer) -> None:
    server = private_server()
    arena = await make_arena(server, JetStreamTimers(), answer_timeout=0.5)
    server.pause()
    outcomes = await arena.send(arena.event("k"))
    assert isinstance(outcomes[0], TimedOutError)
    for asked in (
        arena.transport.commit(arena.stream, [arena.event("k"), arena.event("k")]),
        arena.transport.read(arena.stream, ">"),
        arena.transport.last(arena.stream, ">"),
    ):
        with pytest.raises(TimedOutError):
            await asked
    server.resume()
    assert (await arena.transport.commit(arena.stream, [arena.event("k")]))[0] in {4, 5}
    await arena.transport.close()


async def test_an_ack_subject_with_domain_and_account_is_understood(arena: Arena) -> None:
    taking = Taking(arena, "c")
    flow = taking.flow
    message = Msg(
        _client=Client(),
        subject="s.log.1.k",
        reply="$JS.ACK.hub.ACCHASH.STREAM.c.1.41.7.1700000000000000001.3.RANDOM",
        data=b"x",
    )
    flow._running, flow._requested = True, 1_000  # type: ignore[attr-defined]
    await flow._on_message(message)  # type: ignore[attr-defined]
    assert taking.deliveries[0][:5] == ("s.log.1.k", 41, b"x", 1_700_000_000_000_000_001, 7)
    await flow.close()


def test_times_have_nine_decimals_or_fewer() -> None:
    assert nanoseconds("1970-01-01T00:00:01Z") == 1_000_000_000
    assert nanoseconds("2026-11-23T06:03:59.6Z") % 1_000_000_000 == 600_000_000
    assert nanoseconds("2026-11-23T06:03:59.631744777Z") == 1_795_413_839_631_744_777


async def test_a_message_with_status_headers_of_its_own_is_read(arena: Arena, nats_server: NatsServer) -> None:
    client = await nats.connect(nats_server.url)
    await client.request(f"{arena.ns}.log.1.k.evt.Seen", b"x", headers={"Status": "204", "Description": "mine"})
    await arena.send(arena.event("k"))
    assert ascending(await arena.read("log.>")) == [1, 2]
    assert ascending(await gather(arena.transport.follow(arena.stream, f"{arena.ns}.log.>", end=2))) == [1, 2]
    await client.close()


# A consumer that others meddle with


async def test_somebody_else_being_served_breaks_the_flow(arena: Arena, nats_server: NatsServer) -> None:
    await arena.transport.ensure_consumer(arena.stream, "c", f"{arena.ns}.>", start=1, max_ack_pending=100)
    taking = Taking(arena, "c")
    client = await nats.connect(nats_server.url)
    inbox = client.new_inbox()
    thief = await client.subscribe(inbox)
    await taking.flow.restart()
    await client.publish(
        f"$JS.API.CONSUMER.MSG.NEXT.{arena.stream}.c", json.dumps({"batch": 100}).encode(), reply=inbox
    )
    await client.flush()
    await arena.send(*(arena.event("k") for _ in range(200)))
    # Either a gap shows in the sequences, which is the reader's to see, or the heartbeat tells.
    await eventually(lambda: taking.reasons or taking.counted != list(range(1, len(taking.counted) + 1)))
    await thief.unsubscribe()
    await client.close()
    await taking.flow.close()


async def test_a_deleted_consumer_breaks_the_flow(arena: Arena, nats_server: NatsServer) -> None:
    await arena.transport.ensure_consumer(arena.stream, "c", f"{arena.ns}.>", start=1, max_ack_pending=100)
    taking = Taking(arena, "c")
    await taking.flow.restart()
    client = await nats.connect(nats_server.url)
    await client.jetstream().delete_consumer(arena.stream, "c")
    await eventually(lambda: taking.reasons)
    assert taking.reasons == ["Consumer Deleted"]
    await client.close()
    await taking.flow.close()


async def test_a_follow_survives_the_loss_of_its_consumer(arena: Arena, nats_server: NatsServer) -> None:
    client = await nats.connect(nats_server.url)
    js = client.jetstream()
    await arena.send(*(arena.event("k") for _ in range(10)))
    found: list[Stored] = []
    async with asyncio.timeout(DEADLINE), aclosing(arena.transport.follow(arena.stream, f"{arena.ns}.>")) as batches:
        async for batch in batches:
            found += batch
            if len(found) >= 40:
                break
            for consumer in await js.consumers_info(arena.stream):
                await js.delete_consumer(arena.stream, consumer.name)
            await arena.send(*(arena.event("k") for _ in range(10)))
    assert ascending(found)[:40] == list(range(1, 41))
    await client.close()


async def test_a_follow_leaves_no_consumer_behind(arena: Arena, nats_server: NatsServer) -> None:
    await arena.send(arena.event("k"))
    assert len(await gather(arena.transport.follow(arena.stream, f"{arena.ns}.>", end=1))) == 1
    client = await nats.connect(nats_server.url)
    async with asyncio.timeout(DEADLINE):
        while await client.jetstream().consumers_info(arena.stream):  # noqa: ASYNC110 - the server drops it
            await asyncio.sleep(0.01)
    await client.close()


# Buckets


async def test_nats_py_reads_our_buckets(arena: Arena, nats_server: NatsServer) -> None:
    bucket = await arena.transport.bucket(f"{arena.stream}-B")
    revision = await bucket.put("a.b", b"1", expect=0, ttl=60)
    client = await nats.connect(nats_server.url)
    theirs = await client.jetstream().key_value(f"{arena.stream}-B")
    entry = await theirs.get("a.b")
    assert (entry.value, entry.revision) == (b"1", revision)
    changed = await theirs.put("c", b"2")
    assert await bucket.get("c") == Entry("c", b"2", changed)
    await theirs.delete("c")
    assert await bucket.get("c") is None
    assert [one.key for one in await bucket.entries()] == ["a.b"]
    await client.close()


async def test_a_value_expires_and_watchers_see_it(arena: Arena) -> None:
    bucket = await arena.transport.bucket(f"{arena.stream}-B")
    kept = await bucket.put("kept", b"")
    lease = await bucket.put("lease", b"mine", expect=0, ttl=1)
    renewed = await bucket.put("lease", b"mine", expect=lease, ttl=1)
    async with asyncio.timeout(DEADLINE), aclosing(bucket.watch()) as changes:
        assert await anext(changes) == Entry("kept", b"", kept)
        assert await anext(changes) == Entry("lease", b"mine", renewed)
        expired = await anext(changes)
        assert expired[:2] == ("lease", None) and expired.revision > renewed
        assert await bucket.get("lease") is None
        assert [entry.key for entry in await bucket.entries()] == ["kept"]
        taken = await bucket.put("lease", b"yours", expect=0, ttl=1)
        assert await anext(changes) == Entry("lease", b"yours", taken)


# The server goes away


async def restart_until_it_works(taking: Taking) -> None:
    async with asyncio.timeout(DEADLINE):
        while True:
            try:
                await taking.flow.restart()
            except TransientError:
                await asyncio.sleep(0.05)
            else:
                return


async def commit_until_it_works(arena: Arena, appends: list[Append]) -> list[int]:
    async with asyncio.timeout(DEADLINE):
        while True:
            try:
                return await arena.transport.commit(arena.stream, appends)
            except TransientError:
                await asyncio.sleep(0.05)


async def test_everything_works_again_after_a_kill(private_server: StartServer) -> None:
    server = private_server()
    states: list[str] = []
    arena = await make_arena(server, JetStreamTimers(), on_state=states.append)
    transport = arena.transport
    bucket = await transport.bucket("B")
    await transport.ensure_consumer(arena.stream, "c", f"{arena.ns}.log.>", start=1, max_ack_pending=1_000)
    taking = Taking(arena, "c")
    await taking.flow.restart()
    followed: list[Stored] = []
    watched: list[Entry] = []

    async def follow() -> None:
        async for batch in transport.follow(arena.stream, f"{arena.ns}.log.>"):
            followed.extend(batch)

    async def watch() -> None:
        async for entry in bucket.watch():
            watched.append(entry)  # noqa: PERF401 - watched while it grows

    async with asyncio.TaskGroup() as tasks:
        background = [tasks.create_task(follow()), tasks.create_task(watch())]
        stored: list[int] = []
        pending: list[Receipt | Exception] = []
        for round in range(3):
            stored.extend(await commit_until_it_works(arena, [arena.event("k"), arena.event("k")]))
            await bucket.put("k", b"%d" % round)
            await eventually(lambda: [one.sequence for one in followed] == stored and taking.deliveries)
            pending.clear()
            server.pause()
            transport.send(arena.stream, arena.action("never", 99), pending.append)
            asking = asyncio.create_task(transport.read(arena.stream, ">"))
            await asyncio.sleep(0)
            server.kill9()
            await eventually(lambda: pending)
            assert isinstance(pending[0], UnavailableError)
            with pytest.raises(UnavailableError):
                await asking
            for asked in (
                transport.commit(arena.stream, [arena.event("k")]),
                transport.last(arena.stream, ">"),
                transport.stream_state(arena.stream),
                bucket.get("k"),
                taking.flow.restart(),
            ):
                with pytest.raises(UnavailableError):
                    await asked
            transport.send(arena.stream, arena.event("k"), pending.append)
            await eventually(lambda: len(pending) == 2)
            assert isinstance(pending[1], UnavailableError)
            taking.flow.ack("$JS.ACK.lost.on.the.way.0.0.0")
            server.restart()
            await restart_until_it_works(taking)
            taking.deliveries.clear()
            stored.extend(await commit_until_it_works(arena, [arena.event("k"), arena.event("k")]))
            await eventually(lambda: [one.sequence for one in followed] == stored)
            await taking.got(2)
            assert await bucket.get("k") is not None
        await eventually(lambda: [entry.value for entry in watched] == [b"0", b"1", b"2"])
        for task in background:
            task.cancel()
    assert ascending(followed) == stored == ascending(await arena.read("log.>"))
    assert states == ["disconnected", "reconnected"] * 3
    await taking.flow.close()
    await transport.close()
    assert states[-1] == "closed"


async def test_a_flow_says_that_it_broke_when_the_server_restarts(private_server: StartServer) -> None:
    server = private_server()
    arena = await make_arena(server, JetStreamTimers())
    await arena.transport.ensure_consumer(arena.stream, "c", f"{arena.ns}.log.>", start=1, max_ack_pending=1_000)
    taking = Taking(arena, "c")
    await taking.flow.restart()
    await arena.send(*(arena.event("k") for _ in range(5)))
    await taking.got(5)
    server.kill9()
    server.restart()
    await eventually(lambda: taking.reasons)
    assert taking.reasons == ["reconnected"]
    taking.ack(1, 2)
    taking.deliveries.clear()
    await restart_until_it_works(taking)
    await taking.got(3)
    assert taking.counted[0] == 1 and taking.sequences[-1] == 5
    await taking.flow.close()
    await arena.transport.close()


async def test_closing_while_the_server_is_away_does_not_hang(private_server: StartServer) -> None:
    server = private_server()
    arena = await make_arena(server, JetStreamTimers())
    await arena.transport.ensure_consumer(arena.stream, "c", f"{arena.ns}.log.>", start=1, max_ack_pending=1_000)
    taking = Taking(arena, "c")
    await taking.flow.restart()
    following = asyncio.create_task(gather(arena.transport.follow(arena.stream, f"{arena.ns}.>")))
    await arena.send(arena.event("k"))
    server.kill9()
    async with asyncio.timeout(5):
        await taking.flow.close()
        await arena.transport.close()
        await following


async def test_two_transports_on_one_server_do_not_disturb_each_other(nats_server: NatsServer) -> None:
    one: NatsTransport = await connect_nats(nats_server.url, timers=JetStreamTimers())
    other: NatsTransport = await connect_nats([nats_server.url], timers=JetStreamTimers(), name="other")
    ns = f"n{next(_number)}"
    await asyncio.gather(*(transport.create_stream(StreamSpec(ns.upper(), (f"{ns}.>",))) for transport in (one, other)))
    results = await asyncio.gather(
        *(transport.commit(ns.upper(), [Append(f"{ns}.a", b""), Append(f"{ns}.b", b"")]) for transport in (one, other))
    )
    assert sorted(results) == [[1, 2], [3, 4]]
    await one.close()
    assert await other.get(ns.upper(), 4) is not None
    await other.close()
