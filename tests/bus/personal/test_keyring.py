"""The key ring: one key for each customer whoever makes it, gone everywhere once erased, readable with its master key
alone. On a real server and on the twin."""

from __future__ import annotations

import asyncio
import gc
import json
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from itertools import count
from time import monotonic
from typing import Any

import pytest
import structlog

from sojourn.bus.errors import ClosedError, ConfigurationError, TransientError, UnavailableError
from sojourn.bus.memory import MemoryTransport
from sojourn.bus.nats import NatsTransport, connect_nats
from sojourn.bus.personal import keyring
from sojourn.bus.personal.key import CustomerKey
from sojourn.bus.personal.keyring import KeyRing
from sojourn.bus.personal.master import MasterKeys
from sojourn.bus.ports import Bucket, Entry, Transport
from sojourn.bus.subjects import Namespace
from sojourn.bus.timers import JetStreamTimers, VirtualTimers
from tests.bus.arena import DEADLINE, eventually
from tests.nats_server import NatsServer

MASTER = MasterKeys.new("one")
_number = count(1)


class Counting:
    """A bucket that counts what is asked of it, and lets a test come between a question and its answer."""

    def __init__(self, bucket: Bucket) -> None:
        self.bucket = bucket
        self.calls: Counter[str] = Counter()
        self.reading = self.most_reading = 0
        self.after_get: Callable[[str], Awaitable[None]] | None = None
        self.after_create: Callable[[], Awaitable[None]] | None = None

    async def get(self, key: str) -> Entry | None:
        self.calls["get"] += 1
        self.reading += 1
        self.most_reading = max(self.most_reading, self.reading)
        entry = await self.bucket.get(key)
        await asyncio.sleep(0)
        if self.after_get is not None:
            await self.after_get(key)
        self.reading -= 1
        return entry

    async def create(self, values: Mapping[str, bytes]) -> set[str]:
        self.calls["create"] += 1
        created = await self.bucket.create(values)
        if self.after_create is not None:
            await self.after_create()
        return created

    async def put(self, key: str, value: bytes, *, expect: int | None = None, ttl: int | None = None) -> int:
        self.calls["put"] += 1
        return await self.bucket.put(key, value, expect=expect, ttl=ttl)

    async def erase(self, key: str) -> bool:
        return await self.bucket.erase(key)

    async def delete(self, key: str, *, expect: int | None = None) -> None:
        await self.bucket.delete(key, expect=expect)

    async def entries(self, prefix: str = "") -> list[Entry]:
        self.calls["entries"] += 1
        return await self.bucket.entries(prefix)

    def watch(self, prefix: str = "") -> AsyncGenerator[Entry, None]:
        self.calls["watch"] += 1
        return self.bucket.watch(prefix)


class World:
    """A namespace of the test's own, and the processes that share it."""

    def __init__(self, open: Callable[[], Awaitable[Transport]]) -> None:
        self._open = open
        self.namespace = Namespace(f"k{next(_number)}")
        self.rings: list[KeyRing] = []

    async def ring(self, master: MasterKeys | None = MASTER, **options: Any) -> KeyRing:
        """A process."""
        ring = KeyRing(await self._open(), self.namespace, master, **options)
        self.rings.append(ring)
        return ring

    async def counted(self, ring: KeyRing) -> Counting:
        counting = Counting(await self.bucket())
        ring._bucket = counting
        return counting

    async def bucket(self) -> Bucket:
        return await (await self._open()).bucket(self.namespace.bucket("keys"), erasable=True)

    async def streams(self) -> list[str]:
        return await (await self._open()).streams(f"KV_{self.namespace.prefix}")


@pytest.fixture(params=["memory", "nats"])
async def world(request: pytest.FixtureRequest, nats_server: NatsServer) -> AsyncIterator[World]:
    transports: list[Transport] = []
    twin = MemoryTransport(timers=VirtualTimers())

    async def open() -> Transport:
        transport: MemoryTransport | NatsTransport = twin
        if request.param == "nats":
            transport = await connect_nats(nats_server.url, timers=JetStreamTimers())
        transports.append(transport)
        return transport

    world = World(open)
    yield world
    for ring in world.rings:
        await ring.close()
    for transport in transports:
        await transport.close()


async def test_a_key_is_made_once_and_found_again_by_everybody(world: World) -> None:
    here, there = await world.ring(), await world.ring()
    assert here.cached("ada") is None
    key = await here.ensure("ada")
    assert here.cached("ada") is await here.ensure("ada") is await here.load("ada") is key
    assert there.cached("ada") is None
    for again in (await there.load("ada"), await there.ensure("ada"), there.cached("ada")):
        assert again is not None
        assert again.unseal(key.seal(b"1")) == b"1"
    assert (await here.ensure("bob")).id != key.id


@pytest.mark.parametrize("customer", ["ada@example.org", "Å ß.*>", "x" * 512, "=", "a.b"])
async def test_any_customer_has_a_key(world: World, customer: str) -> None:
    here, there = await world.ring(), await world.ring()
    key = await here.ensure(customer)
    told: list[str] = []
    there.on_erased.append(told.append)
    found = await there.load(customer)
    assert found is not None
    assert found.id == key.id
    await here.erase(customer)
    await eventually(lambda: told)
    assert told == [customer]


async def test_nothing_is_created_before_the_first_key(world: World) -> None:
    ring = await world.ring()
    assert await ring.load("ada") is None
    await ring.verify()
    assert await ring.rotate() == 0
    assert await world.streams() == []
    await ring.ensure("ada")
    assert await world.streams() == [f"KV_{world.namespace.prefix}_keys"]


async def test_no_secret_is_in_the_bucket(world: World) -> None:
    ring = await world.ring()
    key = await ring.ensure("ada")
    [entry] = await (await world.bucket()).entries("key.")
    assert entry.value is not None
    record = json.loads(entry.value)
    assert (record["id"], record["master"]) == (key.id, "one")
    assert set(record) == {"id", "master", "wrapped", "created"}


async def test_makers_at_the_same_moment_agree(world: World) -> None:
    rings = [await world.ring() for _ in range(3)]
    customers = [f"c{n}" for n in range(40)]
    made = await asyncio.gather(*(ring.ensure(customer) for customer in customers for ring in rings))
    for place, customer in enumerate(customers):
        ids = {key.id for key in made[place * 3 : place * 3 + 3]}
        assert len(ids) == 1, customer
    assert len({key.id for key in made}) == 40


async def test_makings_that_wait_together_are_few_writes(world: World) -> None:
    ring = await world.ring()
    counting = await world.counted(ring)
    keys = await asyncio.gather(*(ring.ensure(f"c{n % 1000}") for n in range(3000)))
    assert len({key.id for key in keys}) == 1000
    assert counting.calls["create"] <= 4
    assert counting.calls["get"] <= 1004, "one read for each customer, however many ask"
    assert 1 < counting.most_reading <= 65


async def test_a_restarted_process_loads_without_writing(world: World) -> None:
    before = await world.ring()
    made = await asyncio.gather(*(before.ensure(f"c{n}") for n in range(50)))
    after = await world.ring()
    counting = await world.counted(after)
    found = await asyncio.gather(*(after.ensure(f"c{n}") for n in range(50)))
    assert [key.id for key in found] == [key.id for key in made]
    assert counting.calls["create"] == counting.calls["put"] == 0


async def test_the_cache_is_bounded_and_keeps_what_is_used(world: World) -> None:
    ring = await world.ring(size=3)
    for customer in ("a", "b", "c"):
        await ring.ensure(customer)
    assert ring.cached("a") is not None
    await ring.ensure("d")
    assert [ring.cached(customer) is not None for customer in "abcd"] == [True, False, True, True]


async def test_an_erased_key_is_gone_everywhere_within_a_second(world: World) -> None:
    here, there = await world.ring(), await world.ring()
    told: list[tuple[str, str]] = []
    here.on_erased.append(lambda customer: told.append(("here", customer)))
    there.on_erased.append(lambda customer: told.append(("there", customer)))
    sealed = (await here.ensure("ada")).seal(b"1")
    other = await here.ensure("bob")
    assert await there.load("ada") is not None
    assert await there.load("bob") is not None
    assert await here.erase("ada") is True
    erased = monotonic()
    assert here.cached("ada") is None, "at once where it was erased"
    await eventually(lambda: there.cached("ada") is None)
    assert monotonic() - erased < 1
    assert await here.load("ada") is await there.load("ada") is None
    assert there.cached("bob") is not None
    await eventually(lambda: len(told) == 2)
    assert sorted(told) == [("here", "ada"), ("there", "ada")]
    assert await here.erase("ada") is False, "there was none any more"
    fresh = await here.ensure("ada")
    assert not sealed.startswith(f"sealed:1:{fresh.id}:")
    assert other.id == (await here.ensure("bob")).id


async def test_keys_that_turn_out_to_be_gone_are_remembered(world: World) -> None:
    ring, other = await world.ring(), await world.ring()
    first = await other.ensure("ada")
    await other.erase("ada")
    assert first.id not in ring.gone
    assert await ring.seek("ada", first.id) is None
    assert first.id in ring.gone
    # Of a customer who came back the old key is as gone, and the new one is not.
    second = await other.ensure("ada")
    found = await ring.seek("ada", first.id)
    assert found is not None and found.id == second.id
    assert first.id in ring.gone and second.id not in ring.gone
    found = await ring.seek("ada", second.id)
    assert found is not None and second.id not in ring.gone
    await other.erase("ada")
    await eventually(lambda: ring.cached("ada") is None)
    assert await ring.seek("ada", second.id) is None
    assert first.id in ring.gone and second.id in ring.gone


async def test_a_key_that_could_not_be_read_is_not_gone(world: World) -> None:
    ring, stranger = await world.ring(), await world.ring(MasterKeys.new("two"))
    key = await ring.ensure("ada")
    with pytest.raises(ConfigurationError):
        await stranger.seek("ada", key.id)
    assert key.id not in stranger.gone


async def test_a_key_from_a_backup_is_no_longer_gone(world: World) -> None:
    ring, bucket = await world.ring(), await world.bucket()
    key = await ring.ensure("ada")
    entry = await bucket.get("key.ada")
    assert entry is not None and entry.value is not None
    await ring.erase("ada")
    assert await ring.seek("ada", key.id) is None
    await bucket.put("key.ada", entry.value)
    found = await ring.ensure("ada")
    assert found.id == key.id not in ring.gone


async def test_what_is_known_to_be_gone_is_bounded(world: World) -> None:
    ring = await world.ring(size=3)
    for number in range(5):
        assert await ring.seek("ada", f"id{number}") is None
    assert [f"id{number}" in ring.gone for number in range(5)] == [False, False, True, True, True]


async def test_who_comes_later_learns_of_erasures_before(world: World) -> None:
    here = await world.ring()
    await here.ensure("ada")
    await here.erase("ada")
    there = await world.ring()
    told: list[str] = []
    there.on_erased.append(told.append)
    assert await there.load("bob") is None
    await eventually(lambda: told == ["ada"])


async def test_one_callback_that_fails_does_not_keep_the_others_from_it(world: World) -> None:
    ring = await world.ring()
    told: list[str] = []

    def fail(customer: str) -> None:
        raise RuntimeError("no such cache")

    ring.on_erased += [fail, told.append]
    with structlog.testing.capture_logs() as logs:
        await ring.erase("ada")
    assert told == ["ada"]
    assert [line["event"] for line in logs] == ["what follows an erasure failed"]


async def test_a_load_that_races_with_an_erasure_does_not_put_the_key_back(world: World) -> None:
    here, there = await world.ring(), await world.ring()
    await here.ensure("ada")
    counting = await world.counted(there)
    assert await there.load("bob") is None, "and its watch runs"

    async def erase_meanwhile(key: str) -> None:
        counting.after_get = None
        forgotten = asyncio.Event()
        there.on_erased.append(lambda customer: forgotten.set())
        await here.erase("ada")
        await forgotten.wait()

    counting.after_get = erase_meanwhile
    async with asyncio.timeout(DEADLINE):
        assert await there.load("ada") is None
    assert there.cached("ada") is None


async def test_a_making_that_races_with_an_erasure_makes_another(world: World) -> None:
    ring = await world.ring()
    counting = await world.counted(ring)
    ids: list[str] = []

    async def erase_meanwhile() -> None:
        if ring._wanted.get("ada") is None or ids:
            return
        entry = await counting.bucket.get("key.ada")
        if entry is not None and entry.value is not None:
            ids.append(json.loads(entry.value)["id"])
            await ring.erase("ada")

    counting.after_create = erase_meanwhile
    key = await ring.ensure("ada")
    assert ids, "it was erased before the maker heard of it"
    assert key.id not in ids
    assert (await ring.load("ada")) is key


async def test_an_erasure_needs_no_master_key(world: World) -> None:
    await (await world.ring()).ensure("ada")
    without = await world.ring(None)
    assert await without.erase("ada") is True


async def test_without_a_master_key_the_ways_to_give_one_are_told(world: World) -> None:
    await (await world.ring()).ensure("ada")
    without = await world.ring(None)
    for attempt in (
        without.ensure("ada"),
        without.ensure("new"),
        without.load("ada"),
        without.verify(),
        without.rotate(),
    ):
        with pytest.raises(ConfigurationError) as caught:
            await attempt
        for way in ("--master-key FILE", "SOJOURN_MASTER_KEY_FILE", "connect(master_keys=…)"):
            assert way in str(caught.value)
    assert await without.load("nobody") is None, "who has no key needs none"


async def test_another_master_key_is_told_by_its_name(world: World) -> None:
    await (await world.ring()).ensure("ada")
    other = await world.ring(MasterKeys.new("two"))
    for attempt in (other.ensure("ada"), other.load("ada")):
        with pytest.raises(ConfigurationError, match=r"master key one, which is not among.*\(two\).*unreadable until"):
            await attempt
    with pytest.raises(ConfigurationError, match="wrapped by one, which is not among"):
        await other.verify()
    assert (await other.ensure("bob")) is not None, "whose key it wraps itself"


async def test_another_master_key_of_the_same_name_is_told(world: World) -> None:
    await (await world.ring()).ensure("ada")
    other = await world.ring(MasterKeys.new("one"))
    with pytest.raises(ConfigurationError, match=r"key\.ada .*does not open with the master key one"):
        await other.load("ada")
    for attempt in (other.verify(), other.ensure("bob"), other.rotate()):
        with pytest.raises(ConfigurationError, match="one is not the one that wrapped"):
            await attempt


@pytest.mark.parametrize("value", [b"", b"{", b"[]", b'{"id":"x"}', "swapped", "no base64", "short"], ids=range(7))
async def test_a_damaged_entry_is_told_by_its_name(world: World, value: bytes | str) -> None:
    ring = await world.ring()
    await ring.ensure("ada")
    await ring.ensure("bob")
    bucket = await world.bucket()
    if isinstance(value, str):
        entry = await bucket.get("key.bob")
        assert entry is not None
        assert entry.value is not None
        record = json.loads(entry.value)
        if value != "swapped":
            record["wrapped"] = {"no base64": "§", "short": "AAAA"}[value]
        value = json.dumps(record).encode()
    await bucket.put("key.ada", value)
    fresh = await world.ring()
    found = await asyncio.gather(fresh.ensure("ada"), fresh.ensure("bob"), return_exceptions=True)
    assert isinstance(found[0], ConfigurationError)
    assert f"the entry key.ada of the bucket {world.namespace.prefix}_keys" in str(found[0])
    assert isinstance(found[1], CustomerKey), "one customer's damage is nobody else's"


async def test_rotation_wraps_every_key_anew_and_is_finished_when_repeated(world: World) -> None:
    ring = await world.ring()
    keys = await asyncio.gather(*(ring.ensure(f"c{n}") for n in range(40)))
    sealed = keys[7].seal(b'"x"')
    both = await world.ring(MasterKeys({"two": bytes(32), "one": MASTER._keys["one"]}))
    await both.verify()
    counting = await world.counted(both)
    broken = count()

    async def put(key: str, value: bytes, *, expect: int | None = None, ttl: int | None = None) -> int:
        if next(broken) >= 15:
            raise UnavailableError("gone")
        return await counting.bucket.put(key, value, expect=expect, ttl=ttl)

    counting.put = put  # type: ignore[method-assign]  # this server breaks down
    with pytest.raises(UnavailableError):
        await both.rotate()
    again = await world.ring(MasterKeys({"two": bytes(32), "one": MASTER._keys["one"]}))
    assert await again.rotate() == 25
    assert await again.rotate() == 0
    alone = await world.ring(MasterKeys({"two": bytes(32)}))
    await alone.verify()
    found = await asyncio.gather(*(alone.load(f"c{n}") for n in range(40)))
    assert [key.id for key in found if key is not None] == [key.id for key in keys]
    assert found[7] is not None
    assert found[7].unseal(sealed) == b'"x"'
    assert {entry.key for entry in await (await world.bucket()).entries("master.")} == {"master.two"}
    with pytest.raises(ConfigurationError, match="wrapped by two"):
        await ring.verify()


async def test_rotation_leaves_no_predecessor_even_where_one_was_left_before(world: World) -> None:
    ring = await world.ring()
    await ring.ensure("ada")
    both = await world.ring(MasterKeys({"two": bytes(32), "one": MASTER._keys["one"]}))
    await both.rotate()
    bucket = await world.bucket()
    if not hasattr(bucket, "_publish"):
        return  # The twin keeps no predecessors.
    entry = await bucket.get("key.ada")
    assert entry is not None
    assert entry.value is not None
    await bucket._publish("key.ada", entry.value, entry.revision, {})  # a write that was killed before it cleaned up
    transport: Transport = ring._transport
    state = await transport.stream_state(f"KV_{world.namespace.prefix}_keys")
    assert state is not None
    assert state.messages == 3
    await both.rotate()
    state = await transport.stream_state(f"KV_{world.namespace.prefix}_keys")
    assert state is not None
    assert state.messages == 2, "the key and the check value"


async def test_rotation_meets_erasures_and_other_rotations(world: World) -> None:
    ring = await world.ring()
    await asyncio.gather(*(ring.ensure(f"c{n}") for n in range(60)))
    keys = {"two": bytes(32), "one": MASTER._keys["one"]}
    first, second = await world.ring(MasterKeys(keys)), await world.ring(MasterKeys(keys))
    counts = await asyncio.gather(first.rotate(), second.rotate(), *(ring.erase(f"c{n}") for n in range(0, 60, 2)))
    assert 30 <= sum(counts[:2]) <= 60, "each key once, those erased before it not at all"
    left = await (await world.bucket()).entries("key.")
    assert len(left) == 30
    assert all(json.loads(entry.value or b"")["master"] == "two" for entry in left)


async def test_a_closed_ring_gives_nothing_any_more(world: World) -> None:
    ring = await world.ring()
    await ring.ensure("ada")
    await ring.close()
    await ring.close()
    assert ring.cached("ada") is None
    for attempt in (ring.load("ada"), ring.ensure("bob"), ring.erase("ada"), ring.verify()):
        with pytest.raises(ClosedError):
            await attempt
    gc.collect()
    names = {task.get_coro().__qualname__ for task in asyncio.all_tasks() if task is not asyncio.current_task()}  # type: ignore[union-attr]  # all are coroutines
    assert not [name for name in names if "KeyRing" in name]


async def test_who_waits_for_a_key_is_told_of_the_end(world: World) -> None:
    ring = await world.ring()
    counting = await world.counted(ring)
    reading = asyncio.Event()

    async def for_ever(key: str) -> None:
        reading.set()
        await asyncio.Event().wait()

    counting.after_get = for_ever
    waiting = asyncio.create_task(ring.ensure("ada"))
    await reading.wait()
    await ring.close()
    with pytest.raises(ClosedError):
        await waiting


async def test_an_outage_is_told_to_those_who_wait_and_over_afterwards(world: World) -> None:
    ring = await world.ring()
    counting = await world.counted(ring)

    async def fail(key: str) -> None:
        raise UnavailableError("gone")

    counting.after_get = fail
    found = await asyncio.gather(*(ring.ensure(f"c{n}") for n in range(3)), return_exceptions=True)
    assert all(isinstance(one, TransientError) for one in found)
    counting.after_get = None
    assert (await ring.ensure("c0")) is not None


async def test_whoever_gives_up_does_not_take_the_key_from_others(world: World) -> None:
    ring = await world.ring()
    first = asyncio.create_task(ring.ensure("ada"))
    second = asyncio.create_task(ring.ensure("ada"))
    await asyncio.sleep(0)
    first.cancel()
    assert (await second) is ring.cached("ada")
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_a_watch_that_breaks_is_taken_up_again_and_told_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keyring, "PAUSE", 0.01)
    here, there = await world.ring(), await world.ring()
    counting = await world.counted(there)
    breaks = count()

    def watch(prefix: str = "") -> AsyncGenerator[Entry, None]:
        if next(breaks) < 3:
            raise UnavailableError("gone")
        return counting.bucket.watch(prefix)

    counting.watch = watch  # type: ignore[method-assign]  # this server breaks down
    with structlog.testing.capture_logs() as logs:
        await here.ensure("ada")
        assert await there.load("ada") is not None
        await here.erase("ada")
        await eventually(lambda: there.cached("ada") is None)
    assert [line["event"] for line in logs] == ["erasures by other processes are not seen for now"]


async def test_rotation_finds_what_was_wrapped_by_an_older_key_meanwhile(world: World) -> None:
    old = await world.ring()
    await old.ensure("ada")
    both = await world.ring(MasterKeys({"two": bytes(32), "one": MASTER._keys["one"]}))
    counting = await world.counted(both)
    entries = counting.entries
    late = iter(["late"])

    async def and_another_is_made(prefix: str = "") -> list[Entry]:
        found = await entries(prefix)
        if prefix == "key.":
            for customer in late:
                await old.ensure(customer)
        return found

    counting.entries = and_another_is_made  # type: ignore[method-assign]  # somebody else is at work
    assert await both.rotate() == 2
