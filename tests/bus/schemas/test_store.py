"""A process's view of the registry: written once, seen everywhere within a second, and never a wrong clearance."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from sojourn.bus.clock import VirtualClock
from sojourn.bus.errors import ClosedError, ConfigurationError, SchemaError, UnavailableError
from sojourn.bus.memory import MemoryTransport
from sojourn.bus.nats import connect_nats
from sojourn.bus.ports import Bucket, Entry, Transport
from sojourn.bus.schemas import store
from sojourn.bus.schemas.records import SchemaRecord
from sojourn.bus.schemas.schema import fingerprint, schema_of
from sojourn.bus.schemas.store import Schemas
from sojourn.bus.timers import JetStreamTimers, VirtualTimers
from tests.bus.arena import eventually
from tests.bus.schemas.contracts import cart
from tests.nats_server import NatsServer

AT = datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC)
INT = (int, ...)
ROOT = Path(__file__).resolve().parents[3]


@dataclass
class Probe:
    """A bucket that counts, and does first what a test wants done: before a read is answered, or a watch begins."""

    bucket: Bucket
    reads: int = 0
    writes: int = 0
    watches: int = 0
    listings: int = 0
    after_read: list[Callable[[], Any]] = field(default_factory=list)
    silent: bool = False
    """The watch never begins."""

    async def get(self, key: str) -> Entry | None:
        self.reads += 1
        entry = await self.bucket.get(key)
        await asyncio.sleep(0)
        if self.after_read:
            await self.after_read.pop(0)()
        return entry

    async def put(self, key: str, value: bytes, *, expect: int | None = None, ttl: int | None = None) -> int:
        self.writes += 1
        return await self.bucket.put(key, value, expect=expect, ttl=ttl)

    async def entries(self, prefix: str = "") -> list[Entry]:
        self.listings += 1
        if self.silent:
            raise UnavailableError("the server is away")
        return await self.bucket.entries(prefix)

    async def watch(self, prefix: str = "") -> AsyncGenerator[Entry, None]:
        self.watches += 1
        if self.silent:
            raise UnavailableError("the server is away")
        async for entry in self.bucket.watch(prefix):
            yield entry
            if self.silent:
                raise UnavailableError("the server went away")


@dataclass
class Town:
    """Processes that share one bucket, each with a view of its own."""

    bucket: Bucket
    open: list[Schemas] = field(default_factory=list)
    clock: VirtualClock = field(default_factory=lambda: VirtualClock(AT))

    def process(self, bucket: Any = None, **rest: Any) -> Schemas:
        schemas = Schemas(bucket or self.bucket, clock=self.clock, **rest)
        self.open.append(schemas)
        return schemas

    async def revision(self, type: str = "CartAbandoned") -> int:
        entry = await self.bucket.get(f"type.{type}")
        assert entry is not None
        return entry.revision


@asynccontextmanager
async def town_on(transport: Transport) -> AsyncIterator[Town]:
    town = Town(await transport.bucket(f"T{uuid.uuid4().hex}_registry"))
    yield town
    for schemas in town.open:
        await schemas.close()
    await transport.close()


@pytest.fixture
async def town() -> AsyncIterator[Town]:
    async with town_on(MemoryTransport(VirtualTimers())) as town:
        yield town


@pytest.fixture(params=["memory", "nats"])
async def any_town(request: pytest.FixtureRequest) -> AsyncIterator[Town]:
    if request.param == "memory":
        transport: Transport = MemoryTransport(VirtualTimers())
    else:
        transport = await connect_nats(request.getfixturevalue("nats_server").url, timers=JetStreamTimers())
    async with town_on(transport) as town:
        yield town


# Registering.


async def test_what_is_admitted_is_registered_and_cleared(any_town: Town) -> None:
    schemas, cls = any_town.process(), cart(value=INT, doc="Left.")
    assert await schemas.record("CartAbandoned") is None and schemas.cached("CartAbandoned") is None
    await schemas.admit(cls)
    assert schemas.cleared == {cls}
    record = schemas.cached("CartAbandoned")
    assert record is not None and record == await schemas.record("CartAbandoned") == await schemas.refresh(
        "CartAbandoned"
    )
    assert (record.description, [(one.version, one.registered) for one in record.versions]) == ("Left.", [(1, AT)])
    assert await schemas.records() == [record] == await any_town.process().records()
    assert await any_town.process().register(cls) == record


async def test_the_same_again_writes_nothing(any_town: Town) -> None:
    await any_town.process().admit(cart(value=INT, doc="Left."))
    before = await any_town.revision()
    any_town.clock.advance_to(AT + timedelta(days=1))
    later, cls = any_town.process(), cart(value=INT, doc="Left.")
    await later.admit(cls)
    await later.register(cls, push=True)
    assert await any_town.revision() == before and cls in later.cleared
    await later.admit(cart(value=INT, doc="Left the shop."))
    record = await later.refresh("CartAbandoned")
    assert record is not None and record.description == "Left the shop." and record.versions[0].registered == AT


async def test_what_is_refused_is_not_cleared_and_changes_nothing(any_town: Town) -> None:
    schemas = any_town.process()
    await schemas.admit(cart(value=INT))
    before = await any_town.revision()
    for cls in (cart(value=(str, ...)), cart(2, value=(str, ...))):
        for _ in range(2):
            with pytest.raises(SchemaError, match="value"):
                await schemas.admit(cls)
        with pytest.raises(SchemaError, match="value"):
            await schemas.register(cls)
        assert cls not in schemas.cleared
    assert await any_town.revision() == before


async def test_what_was_cleared_is_not_asked_for_again(town: Town) -> None:
    probe, cls = Probe(town.bucket), cart()
    schemas = town.process(probe)
    await schemas.admit(cls)
    reads = probe.reads
    await schemas.admit(cls)
    assert await schemas.record("CartAbandoned") is not None
    assert probe.reads == reads


async def test_those_who_ask_together_wait_together(town: Town) -> None:
    probe, cls = Probe(town.bucket), cart()
    schemas = town.process(probe)
    waiting = [asyncio.create_task(schemas.admit(cls)) for _ in range(50)]
    await asyncio.sleep(0)
    waiting[0].cancel()  # the first of them leaves
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(outcomes[0], asyncio.CancelledError) and outcomes[1:] == [None] * 49
    assert (probe.reads, probe.writes) == (1, 1)
    wrong = cart(value=INT)
    outcomes = await asyncio.gather(*(schemas.admit(wrong) for _ in range(50)), return_exceptions=True)
    assert all(isinstance(outcome, SchemaError) for outcome in outcomes) and probe.reads == 2


async def test_who_is_overtaken_looks_again(town: Town) -> None:
    other = town.process()
    probe = Probe(town.bucket, after_read=[lambda: other.admit(cart(note=(str, "")))])
    schemas, cls = town.process(probe), cart(note=(int, 0))
    with pytest.raises(SchemaError, match="note"):
        await schemas.admit(cls)
    # One that has nothing against it comes second, and both are there.
    probe.after_read = [lambda: other.admit(cart(2, note=(str, ""), more=(str, "")))]
    await schemas.admit(cart(3, note=(str, "")))
    record = await other.refresh("CartAbandoned")
    assert record is not None and [one.version for one in record.versions] == [1, 2, 3]
    assert probe.writes == 3


async def test_a_clearance_that_came_too_late_is_none(town: Town) -> None:
    # Between the read and the clearance somebody replaces the entry, and the watch has seen it already.
    other, cls = town.process(), cart(value=INT)
    elsewhere = town.process(await MemoryTransport(VirtualTimers()).bucket("B"))
    theirs = await elsewhere.register(cart(value=(str, ...)))
    await other.admit(cls)
    schemas = town.process()
    await schemas.record("CartAbandoned")

    async def replace() -> None:
        await town.bucket.put("type.CartAbandoned", theirs.model_dump_json(by_alias=True).encode())
        await eventually(lambda: schemas.cached("CartAbandoned") == theirs)

    probe = Probe(town.bucket, after_read=[replace])
    schemas._bucket = probe  # type: ignore[assignment]  # what the registry uses of a bucket
    with pytest.raises(SchemaError, match="registered with another schema"):
        await schemas.admit(cls)
    assert cls not in schemas.cleared and probe.reads == 2


async def test_an_entry_from_before_versions_were_kept_is_completed(any_town: Town) -> None:
    old = b'{"type":"CartAbandoned","version":3,"key_field":"customer_id"}'
    await any_town.bucket.put("type.CartAbandoned", old)
    schemas = any_town.process()
    assert await schemas.record("CartAbandoned") == SchemaRecord(type="CartAbandoned", key_field="customer_id")
    await schemas.check_reading(cart(3))
    await schemas.admit(cart(3, compatibility="FULL"))
    record = await any_town.process().record("CartAbandoned")
    assert record is not None and [one.version for one in record.versions] == [3] and record.compatibility == "FULL"


async def test_an_entry_that_cannot_be_read_says_so(town: Town) -> None:
    await town.bucket.put("type.CartAbandoned", b"{")
    schemas = town.process()
    for asking in (
        schemas.admit(cart()),
        schemas.record("CartAbandoned"),
        schemas.records(),
        schemas.check_reading(cart()),
    ):
        with pytest.raises(
            ConfigurationError, match="an entry, CartAbandoned, that this version of Sojourn cannot read"
        ):
            await asking
    await schemas.admit(cart(event="OrderPlaced"))
    assert schemas.cached("OrderPlaced") is not None


async def test_what_cannot_be_a_type_is_none(any_town: Town) -> None:
    schemas = any_town.process()
    for name in ("", "a b", "*", ">", "Ö", "A.B", "9"):
        assert await schemas.record(name) is None and await schemas.refresh(name) is None


async def test_records_come_by_name(any_town: Town) -> None:
    schemas = any_town.process()
    for name in ("OrderPlaced", "CartAbandoned", "OrderPaid"):
        await schemas.admit(cart(event=name))
    await any_town.bucket.put("typewriter", b"{}")
    assert [record.type for record in await schemas.records()] == ["CartAbandoned", "OrderPaid", "OrderPlaced"]


async def test_what_was_deleted_can_be_registered_again(any_town: Town) -> None:
    schemas, cls = any_town.process(), cart()
    for _ in range(2):
        await schemas.admit(cls)
        await any_town.bucket.delete("type.CartAbandoned")
        await eventually(lambda: cls not in schemas.cleared)
        assert schemas.cached("CartAbandoned") is None


# Frozen.


async def test_frozen_only_checks(any_town: Town) -> None:
    frozen, cls = any_town.process(frozen=True), cart(value=INT)
    with pytest.raises(SchemaError, match=r"version 1 is not registered, .*run `sojourn schemas push shop`"):
        await frozen.admit(cls)
    assert await any_town.bucket.entries() == []
    await any_town.process().admit(cls)
    before = await any_town.revision()
    # Registered, so cleared; what else would be written of it is left.
    await frozen.admit(cls)
    again = cart(value=INT, owner="shop", doc="Left.")
    await frozen.admit(again)
    assert frozen.cleared == {cls, again}
    with pytest.raises(SchemaError, match=r"version 2 is not registered \(registered: version 1\).*push shop`"):
        await frozen.admit(cart(2, value=INT, note=(str, "")))
    with pytest.raises(SchemaError, match=r"registered with another schema") as caught:
        await frozen.admit(cart(value=(str, ...)))
    assert "value" in str(caught.value)
    with pytest.raises(SchemaError, match="not registered"):
        await frozen.register(cart(2, value=INT), push=True)
    assert await any_town.revision() == before


# Watching.


async def test_a_change_made_elsewhere_is_seen_within_a_second(any_town: Town) -> None:
    one, other = any_town.process(), any_town.process()
    await one.admit(cart(value=INT))
    assert await other.record("CartAbandoned") is not None
    await one.admit(cart(2, value=INT, note=(str, "")))
    began = time.monotonic()
    await eventually(lambda: other.cached("CartAbandoned") == one.cached("CartAbandoned"))
    assert time.monotonic() - began < 1.0
    # Also of a type that it never asked for.
    await one.admit(cart(event="OrderPlaced"))
    await eventually(lambda: other.cached("OrderPlaced"))


async def test_who_no_longer_fits_loses_the_clearance(any_town: Town) -> None:
    one, other = any_town.process(), any_town.process()
    first, second, else_ = cart(value=INT), cart(2, value=INT), cart(event="OrderPlaced")
    for cls in (first, second, else_):
        await one.admit(cls)
    record = await other.record("CartAbandoned")
    assert record is not None
    # Version 1 is replaced, version 2 stays.
    other_schema = schema_of(cart(value=(str, ...)))
    changed = record.versions[0].model_copy(update={"schema_": other_schema, "hash": fingerprint(other_schema)})
    forged = record.model_copy(update={"versions": [changed, record.versions[1]]})
    await any_town.bucket.put("type.CartAbandoned", forged.model_dump_json(by_alias=True).encode())
    await eventually(lambda: first not in one.cleared)
    assert one.cleared == {second, else_}
    with pytest.raises(SchemaError, match="CartAbandoned version 1 is registered with another schema"):
        await one.admit(first)
    # Version 2 disappears.
    forged = record.model_copy(update={"versions": [record.versions[0]]})
    await any_town.bucket.put("type.CartAbandoned", forged.model_dump_json(by_alias=True).encode())
    await eventually(lambda: second not in one.cleared)
    assert one.cleared == {else_}


async def test_a_schema_that_is_only_written_in_another_way_still_fits(town: Town) -> None:
    """As after an update of pydantic, which may write the same contract differently."""
    one = town.process()
    cls = cart(value=INT)
    await one.admit(cls)
    record = await one.record("CartAbandoned")
    assert record is not None
    schema = record.versions[0].schema_
    wrapped = schema | {"properties": {name: {"allOf": [part]} for name, part in schema["properties"].items()}}
    written = record.versions[0].model_copy(update={"schema_": wrapped, "hash": fingerprint(wrapped)})
    assert written.hash != record.versions[0].hash
    forged = record.model_copy(update={"versions": [written]})
    await town.bucket.put("type.CartAbandoned", forged.model_dump_json(by_alias=True).encode())
    other = town.process()
    await other.admit(cls)
    await eventually(lambda: one.cached("CartAbandoned") == forged)
    assert one.cleared == other.cleared == {cls}


async def test_there_is_one_watch_and_it_begins_with_the_first_question(town: Town) -> None:
    probe = Probe(town.bucket)
    schemas = town.process(probe)
    assert schemas.cached("CartAbandoned") is None
    await asyncio.sleep(0)
    assert probe.watches == 0
    await asyncio.gather(schemas.record("CartAbandoned"), schemas.admit(cart()), schemas.register(cart()))
    await eventually(lambda: probe.watches)
    assert probe.watches == 1


async def test_an_outage_is_told_once_and_changes_no_clearance(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_RETRY", 0.001)
    probe, cls, gone = Probe(town.bucket), cart(), cart(event="OrderPlaced")
    schemas = town.process(probe)
    await schemas.admit(cls)
    await schemas.admit(gone)
    await eventually(lambda: probe.watches)

    async def outage(newest: int) -> None:
        with capture_logs() as logs:
            probe.silent = True
            await town.bucket.put("type.OrderPlaced", b"{")  # ends the watch: the probe looks after each entry
            await eventually(lambda: logs)
            began = probe.watches
            assert cls in schemas.cleared and schemas.cached("CartAbandoned") is not None
            await town.bucket.delete("type.OrderPlaced")
            await town.process().admit(cart(newest))
            tried = probe.listings
            await eventually(lambda: probe.listings > tried + 3)  # attempts, of which none is told
            probe.silent = False
            await eventually(lambda: (found := schemas.cached("CartAbandoned")) and len(found.versions) == newest)
            await eventually(lambda: probe.watches > began)
        (line,) = logs
        assert line["event"] == "changes of schemas are not seen for now" and line["log_level"] == "warning"
        assert "the server went away" in line["reason"]

    await outage(2)
    await outage(3)
    # What was deleted while nobody looked is gone.
    assert schemas.cleared == {cls} and schemas.cached("OrderPlaced") is None


async def test_a_bucket_made_anew_counts_from_one_again(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_RETRY", 0.001)
    probe, cls = Probe(town.bucket), cart(value=INT)
    schemas = town.process(probe)
    for number in range(5):
        await schemas.admit(cart(1 + number))
    await eventually(lambda: probe.watches)
    probe.silent = True
    await town.bucket.put("type.OrderPlaced", b"{")
    await eventually(lambda: probe.listings)
    probe.bucket = await MemoryTransport(VirtualTimers()).bucket("R")
    await town.process(probe.bucket).register(cls)
    probe.silent = False
    await eventually(lambda: not schemas.cleared)
    assert [record.versions[0].hash for record in await schemas.records()] == [fingerprint(schema_of(cls))]
    assert schemas.cached("CartAbandoned") == (await schemas.records())[0]


async def test_a_server_that_comes_back_is_watched_again(private_server: Callable[..., NatsServer]) -> None:
    server = private_server()
    async with town_on(await connect_nats(server.url, timers=JetStreamTimers())) as town:
        schemas, cls = town.process(), cart()
        await schemas.admit(cls)
        server.kill9()
        waiting = asyncio.create_task(schemas.admit(cart(2)))
        with pytest.raises(UnavailableError):
            await waiting
        assert cls in schemas.cleared
        server.restart()
        other = await connect_nats(server.url, timers=JetStreamTimers())
        there = Schemas(await other.bucket(_name(town.bucket)), clock=town.clock)
        await there.admit(cart(2))
        await eventually(
            lambda: (record := schemas.cached("CartAbandoned")) and record.latest and record.latest.version == 2
        )
        await there.close()
        await other.close()


def _name(bucket: Any) -> str:
    name: str = bucket._name
    return name


async def test_closing_ends_everything(town: Town) -> None:
    held = asyncio.Event()
    probe = Probe(town.bucket, after_read=[held.wait])
    schemas = town.process(probe)
    waiting = asyncio.create_task(schemas.admit(cart()))
    await eventually(lambda: not probe.after_read)
    watching = schemas._watching
    await schemas.close()
    with pytest.raises(ClosedError):
        await waiting
    for asking in (schemas.admit(cart()), schemas.register(cart()), schemas.record("X")):
        with pytest.raises(ClosedError):
            await asking
    assert watching is not None and watching.done()
    await schemas.close()


async def test_a_closed_transport_ends_the_watch(town: Town) -> None:
    schemas = town.process()
    await schemas.admit(cart())
    watching = schemas._watching
    assert watching is not None
    town.bucket.close()  # type: ignore[attr-defined]  # the twin's own
    await asyncio.wait_for(watching, 5)


# Reading.


async def test_reading_is_checked_against_what_the_server_holds(any_town: Town) -> None:
    one, other = any_town.process(), any_town.process()
    reader = cart(3, value=INT, compatibility="NONE")
    await other.check_reading(reader)  # nothing is registered
    await one.register(cart(1, compatibility="NONE"))
    with pytest.raises(
        SchemaError, match=r"cannot read version 1: .*\n.*value.*\n.*@upcast\(CartAbandoned, from_version=1\)"
    ):
        await other.check_reading(reader)
    await other.check_reading(cart(3, value=INT, upcasts=(1,)))


async def test_a_newer_version_is_read_where_it_can_be(any_town: Town) -> None:
    schemas, mine = any_town.process(), cart(1, value=INT, compatibility="NONE")
    with pytest.raises(LookupError, match="CartAbandoned version 2 is not known here"):
        schemas.newer(mine, 2)
    other = any_town.process()
    for cls in (mine, cart(2, value=INT, note=(str, ...)), cart(3, value=(str, ...))):
        await other.admit(cls)
    await schemas.refresh("CartAbandoned")
    for _ in range(2):
        assert schemas.newer(mine, 2) is None
        assert schemas.newer(mine, 3) == "value: type changed from integer to string"
    with pytest.raises(LookupError, match="version 4"):
        schemas.newer(mine, 4)


# Several at once.


async def test_of_two_that_contradict_each_other_one_wins_in_memory() -> None:
    for number in range(200):
        # Each read lets the other go on, so that both have read before one writes.
        bucket: Any = Probe(await MemoryTransport(VirtualTimers()).bucket("R"))
        one, other = Schemas(bucket, clock=VirtualClock(AT)), Schemas(bucket, clock=VirtualClock(AT))
        if number % 2:
            await asyncio.gather(one.admit(cart()), other.admit(cart()))
            pair = cart(2, red=(int, 0)), cart(2, blue=(int, 0))
        else:
            pair = cart(red=INT), cart(blue=INT)
        before = bucket.writes
        outcomes = await asyncio.gather(one.admit(pair[0]), other.admit(pair[1]), return_exceptions=True)
        assert bucket.writes == before + 2  # one of them in vain
        assert [type(outcome) for outcome in outcomes if outcome is not None] == [SchemaError]
        _check_difference(str(next(filter(None, outcomes))))
        assert (pair[0] in one.cleared) != (pair[1] in other.cleared)
        await one.close()
        await other.close()


def test_of_two_processes_that_contradict_each_other_one_wins(nats_server: NatsServer) -> None:
    rounds, name = 200, f"T{uuid.uuid4().hex}"
    script = Path(__file__).with_name("contender.py")
    began = time.monotonic()
    contenders = [
        subprocess.Popen(
            [sys.executable, str(script), nats_server.url, name, mine, str(rounds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        for mine in ("red", "blue")
    ]
    try:
        winners = []
        for _ in range(rounds):
            assert [_line(one) for one in contenders] == ["ready", "ready"]
            for one in contenders:
                assert one.stdin is not None
                one.stdin.write("go\n")
                one.stdin.flush()
            outcomes = [json.loads(_line(one)) for one in contenders]
            assert sorted(map(list, outcomes)) == [["lost"], ["won"]]
            winners.append(next(index for index, outcome in enumerate(outcomes) if outcome.get("won")))
            _check_difference(next(outcome["lost"] for outcome in outcomes if "lost" in outcome))
        overtaken = sum(json.loads(_line(one))["overtaken"] for one in contenders)
        assert [one.wait(10) for one in contenders] == [0, 0]
    finally:
        for one in contenders:
            one.kill()
            one.wait()
            for pipe in (one.stdin, one.stdout):
                assert pipe is not None
                pipe.close()
    assert time.monotonic() - began < 30
    # They did meet: without an expectation on the write, both would have won there.
    assert overtaken > 0 and set(winners) == {0, 1}


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def _check_difference(message: str) -> None:
    assert "is registered with another schema" in message
    assert "red" in message and "blue" in message
