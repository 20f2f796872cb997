"""The registry: names belong to one code, newer versions stay, groups begin once, and nobody overwrites unseen."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal

import pytest

from sojourn.bus.errors import ConfigurationError, NotFoundError
from sojourn.bus.event import Event, Key
from sojourn.bus.memory import MemoryTransport
from sojourn.bus.ports import Bucket, Entry
from sojourn.bus.processor import Resident, Retry
from sojourn.bus.registry import GroupRecord, NamespaceRecord, Registry
from sojourn.bus.timers import VirtualTimers


class OrderPlaced(Event):
    customer_id: Key


class DiscountOffered(Event):
    customer_id: Key


@dataclass
class Described:
    """A processor as far as the registry looks at it."""

    writer: str = "win-back"
    group: str = "win-back"
    version: int = 1
    kind: Literal["agent", "saga", "projection"] = "agent"
    start: Literal["now", "beginning"] = "now"
    description: Mapping[str, Any] = field(
        default_factory=lambda: {"reference": "shop:WinBack", "doc": "Wins.", "extra": [1]}
    )
    handles: Mapping[str, type[Event]] = field(default_factory=lambda: {"OrderPlaced": OrderPlaced})
    folds: Mapping[str, type[Event]] = field(default_factory=dict)
    publishes: Mapping[str, type[Event]] = field(default_factory=lambda: {"DiscountOffered": DiscountOffered})
    retry: Retry = Retry()  # noqa: RUF009 - frozen
    timeout: timedelta = timedelta(seconds=1)
    on_poison: Literal["dead", "park"] = "dead"

    def open(self, key: str) -> Resident:
        raise NotImplementedError


class Contested:
    """A bucket in which somebody else writes just before each of the first writes here."""

    def __init__(self, bucket: Bucket, before: list[tuple[str, bytes]]) -> None:
        self.bucket = bucket
        self.before = before

    async def get(self, key: str) -> Entry | None:
        entry = await self.bucket.get(key)
        # After the read, so that what was read is old.
        if self.before:
            await self.bucket.put(*self.before.pop(0))
        return entry

    async def put(self, key: str, value: bytes, *, expect: int | None = None, ttl: int | None = None) -> int:
        return await self.bucket.put(key, value, expect=expect, ttl=ttl)

    async def create(self, values: Mapping[str, bytes]) -> set[str]:
        return await self.bucket.create(values)

    async def delete(self, key: str, *, expect: int | None = None) -> None:
        await self.bucket.delete(key, expect=expect)

    async def erase(self, key: str) -> bool:
        return await self.bucket.erase(key)

    async def entries(self, prefix: str = "") -> list[Entry]:
        return await self.bucket.entries(prefix)

    def watch(self, prefix: str = "") -> AsyncGenerator[Entry, None]:
        return self.bucket.watch(prefix)


@pytest.fixture
async def registry() -> Registry:
    return Registry(await MemoryTransport(VirtualTimers()).bucket("TEST_registry"))


def by(version: int = 1, **changes: Any) -> Described:
    return Described(version=version, **changes)


def moved(reference: str = "other:Code", **changes: Any) -> Described:
    return Described(description={"reference": reference}, **changes)


async def test_what_is_registered_can_be_read(registry: Registry) -> None:
    made = await registry.register(by(2))
    assert (made.name, made.version, made.reference, made.doc, made.mode) == (
        "win-back",
        2,
        "shop:WinBack",
        "Wins.",
        "live",
    )
    assert (made.handles, made.folds, made.publishes) == (["OrderPlaced"], [], ["DiscountOffered"])
    assert made.description == {"extra": [1]} and made.reads == {"OrderPlaced"}
    assert await registry.agents() == [made] == await registry.writers()
    assert await registry.agent("win-back") == made == await registry.require_agent("win-back")
    await registry.register(by(writer="win", group="win", kind="saga"))
    assert [writer.name for writer in await registry.writers()] == ["win", "win-back"]
    assert await registry.agents() == [made]
    assert await registry.agent("win") is None


async def test_the_same_again_writes_nothing(registry: Registry) -> None:
    first = await registry.register(by())
    entry = await registry.bucket.get("writer.win-back")
    assert await registry.register(by()) == first
    assert await registry.bucket.get("writer.win-back") == entry
    assert (await registry.register(by(2))).version == 2


async def test_a_mode_that_was_changed_stays(registry: Registry) -> None:
    made = await registry.register(by())
    paused = made.model_copy(update={"mode": "paused"})
    await registry.bucket.put("writer.win-back", paused.model_dump_json().encode())
    assert (await registry.register(by(2))).mode == "paused"
    assert (await registry.register(moved(), replace=True)).mode == "paused"


async def test_a_name_belongs_to_its_code(registry: Registry) -> None:
    await registry.register(by(3))
    with pytest.raises(ConfigurationError, match=r"'win-back' is taken by shop:WinBack \(version 3\)") as caught:
        await registry.register(moved(version=4))
    assert "`sojourn agents register other:Code --replace`" in str(caught.value)
    with pytest.raises(ConfigurationError, match="is registered for code of kind agent, this is of kind saga"):
        await registry.register(by(3, kind="saga"))
    with pytest.raises(ConfigurationError, match="runs in group 'win-back', this code says 'shop'"):
        await registry.register(by(3, group="shop"))
    assert (await registry.require_agent("win-back")).reference == "shop:WinBack"
    assert (await registry.register(moved(version=4), replace=True)).reference == "other:Code"


async def test_an_older_version_does_not_displace_a_newer_one(registry: Registry) -> None:
    await registry.register(by(3))
    with pytest.raises(ConfigurationError, match="registered in version 3, this code is version 2") as caught:
        await registry.register(by(2))
    assert "`sojourn agents register shop:WinBack --replace`" in str(caught.value)
    assert (await registry.require_agent("win-back")).version == 3
    # A roll-back is said, and then the older code runs as ever.
    assert (await registry.register(by(2), replace=True)).version == 2
    assert (await registry.register(by(2))).version == 2


async def test_of_two_at_once_the_newer_stays(registry: Registry) -> None:
    results = await asyncio.gather(*(registry.register(by(number)) for number in (1, 4, 2, 3)), return_exceptions=True)
    assert (await registry.require_agent("win-back")).version == 4
    for result in results:
        assert not isinstance(result, BaseException) or isinstance(result, ConfigurationError)


async def test_who_is_overtaken_looks_again(registry: Registry) -> None:
    other = (await registry.register(by(9, writer="nudge", group="nudge"))).model_copy(
        update={"name": "win-back", "group": "win-back"}
    )
    contested = Registry(Contested(registry.bucket, [("writer.win-back", other.model_dump_json().encode())]))
    with pytest.raises(ConfigurationError, match="registered in version 9"):
        await contested.register(by(2))
    assert (await registry.require_agent("win-back")).version == 9


async def test_who_is_missing_is_named_with_those_there_are(registry: Registry) -> None:
    with pytest.raises(NotFoundError, match=r"no agent named 'x' is registered \(registered: none yet\)"):
        await registry.require_agent("x")
    await registry.register(by())
    with pytest.raises(NotFoundError, match=r"\(registered: win-back\)"):
        await registry.require_agent("x")


# Groups.


async def test_a_group_begins_once(registry: Registry) -> None:
    made = await registry.settle_group("g", present={"T_0": 5, "T_1": 0}, start="now", actions=False)
    assert made == GroupRecord(name="g", start={"T_0": 5, "T_1": 0}, actions=False) == await registry.group("g")
    again = await registry.settle_group("g", present={"T_0": 50, "T_1": 70}, start="beginning", actions=False)
    assert again == made
    first = await registry.settle_group("old", present={"T_0": 5, "T_1": 9}, start="beginning", actions=True)
    assert first.start == {"T_0": 0, "T_1": 0}
    assert await registry.group("none") is None


async def test_a_group_is_widened_and_never_narrowed(registry: Registry) -> None:
    await registry.settle_group("g", present={"T_0": 5}, start="now", actions=False)
    wide = await registry.settle_group("g", present={"T_0": 50}, start="now", actions=True)
    assert wide == GroupRecord(name="g", start={"T_0": 5}, actions=True)
    assert await registry.settle_group("g", present={"T_0": 60}, start="now", actions=False) == wide


async def test_of_two_that_settle_a_group_at_once_both_get_the_same(registry: Registry) -> None:
    records = await asyncio.gather(
        *(registry.settle_group("g", present={"T_0": number}, start="now", actions=number == 3) for number in range(5))
    )
    assert len({record.start["T_0"] for record in records}) == 1
    settled = await registry.group("g")
    assert settled is not None and settled.actions
    theirs = GroupRecord(name="h", start={"T_0": 7}, actions=False).model_dump_json().encode()
    contested = Registry(Contested(registry.bucket, [("group.h", theirs)]))
    widened = await contested.settle_group("h", present={"T_0": 99}, start="now", actions=True)
    assert widened == GroupRecord(name="h", start={"T_0": 7}, actions=True) == await registry.group("h")


# Everything.


@pytest.mark.parametrize("value", [b"", b"{", b"[]", b"{}", b'{"name":5}', b"\xff"])
async def test_an_entry_that_cannot_be_read_says_so(registry: Registry, value: bytes) -> None:
    for key in ("writer.win-back", "group.g", "namespace"):
        await registry.bucket.put(key, value)
    for key, reading in (
        ("writer.win-back", registry.register(by())),
        ("writer.win-back", registry.agents()),
        ("writer.win-back", registry.modes()),
        ("group.g", registry.group("g")),
        ("group.g", registry.settle_group("g", present={}, start="now", actions=True)),
        ("namespace", registry.settle_namespace(NamespaceRecord(partitions=4, shards=2, purpose="bus"))),
    ):
        with pytest.raises(ConfigurationError) as caught:
            await reading
        said = str(caught.value)
        assert said.startswith(f"the registry holds an entry, {key}, that this version of Sojourn cannot read: ")
        assert said.endswith("; run the version of Sojourn that wrote it, or a newer one")


async def test_what_was_deleted_can_be_made_again(registry: Registry) -> None:
    fresh = NamespaceRecord(partitions=4, shards=2, purpose="bus")
    for _ in range(2):
        await registry.register(by())
        await registry.settle_group("g", present={"T_0": 1}, start="now", actions=False)
        assert await registry.settle_namespace(fresh) == fresh
        for key in ("writer.win-back", "group.g", "namespace"):
            await registry.bucket.delete(key)
        assert await registry.writers() == [] and await registry.group("g") is None
