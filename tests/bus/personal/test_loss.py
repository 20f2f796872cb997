"""A master key that is lost is given up with all that it wraps, and nothing else. On a real server and on the twin."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import count

import pytest

from sojourn.bus.errors import ConfigurationError, NotFoundError
from sojourn.bus.memory import MemoryTransport
from sojourn.bus.nats import connect_nats
from sojourn.bus.personal.keyring import KeyRing
from sojourn.bus.personal.loss import forget, survey
from sojourn.bus.personal.master import MasterKeys
from sojourn.bus.ports import Transport
from sojourn.bus.subjects import Namespace
from sojourn.bus.timers import JetStreamTimers, VirtualTimers
from tests.bus.arena import eventually
from tests.nats_server import NatsServer

OLD, NEW = MasterKeys.new("old"), MasterKeys.new("new")

_number = count(1)

Ring = Callable[[MasterKeys | None], Awaitable[KeyRing]]


@pytest.fixture(params=["memory", "nats"])
async def transport(request: pytest.FixtureRequest, nats_server: NatsServer) -> AsyncIterator[Transport]:
    made: Transport
    if request.param == "nats":
        made = await connect_nats(nats_server.url, timers=JetStreamTimers())
    else:
        made = MemoryTransport(timers=VirtualTimers())
    yield made
    await made.close()


@pytest.fixture
def namespace() -> Namespace:
    return Namespace(f"loss{next(_number)}")


@pytest.fixture
async def ring(transport: Transport, namespace: Namespace) -> AsyncIterator[Ring]:
    made: list[KeyRing] = []

    async def make(master: MasterKeys | None) -> KeyRing:
        made.append(KeyRing(transport, namespace, master))
        return made[-1]

    yield make
    for one in made:
        await one.close()


async def test_what_a_lost_key_wraps_is_erased_and_work_goes_on(
    transport: Transport, namespace: Namespace, ring: Ring
) -> None:
    before = await ring(OLD)
    sealed = (await before.ensure("ada")).seal(b'"a@x.org"')
    for customer in map(str, range(70)):  # more than go at once
        await before.ensure(customer)
    after = await ring(NEW)
    told: list[str] = []
    watcher = await ring(None)
    watcher.on_erased.append(told.append)
    assert await watcher.load("nobody-yet") is None
    with pytest.raises(ConfigurationError, match="wrapped by old"):
        await after.verify()
    assert len((await survey(transport, namespace, NEW, "old")).customers) == 71
    assert await forget(after, transport, namespace, NEW, "old") == 71
    await after.verify()
    assert await after.load("ada") is None
    await eventually(lambda: len(told) == 71)
    bucket = await transport.bucket(namespace.bucket("keys"), erasable=True)
    names = [entry.key for entry in await bucket.entries()]
    assert len(names) == 71
    assert all(name.startswith("erased.") for name in names)
    # A new life, under the new master key.
    again = await after.ensure("ada")
    assert not sealed.startswith(again.seal(b"1")[: len("sealed:1:") + len(again.id)])
    await after.verify()


async def test_what_other_master_keys_wrap_stays(transport: Transport, namespace: Namespace, ring: Ring) -> None:
    both = MasterKeys({"new": NEW._keys["new"], "old": OLD._keys["old"]})
    await (await ring(OLD)).ensure("ada")
    bob = await (await ring(both)).ensure("bob")
    after = await ring(NEW)
    assert await forget(after, transport, namespace, NEW, "old") == 1
    found = await (await ring(NEW)).load("bob")
    assert found is not None
    assert found.id == bob.id
    await after.verify()


async def test_another_key_of_the_same_name_is_none(transport: Transport, namespace: Namespace, ring: Ring) -> None:
    twin = MasterKeys.new("old")
    await (await ring(OLD)).ensure("ada")
    after = await ring(twin)
    with pytest.raises(ConfigurationError, match="is not the one that wrapped"):
        await after.verify()
    assert await forget(after, transport, namespace, twin, "old") == 1
    await after.verify()
    await after.ensure("ada")
    await after.verify()


async def test_a_key_that_wraps_nothing_any_more_is_given_up_too(
    transport: Transport, namespace: Namespace, ring: Ring
) -> None:
    before = await ring(OLD)
    await before.ensure("ada")
    await before.erase("ada")
    after = await ring(NEW)
    with pytest.raises(ConfigurationError):
        await after.verify()
    assert await forget(after, transport, namespace, NEW, "old") == 0
    await after.verify()


async def test_a_key_that_is_at_hand_is_not_lost(transport: Transport, namespace: Namespace, ring: Ring) -> None:
    here = await ring(OLD)
    await here.ensure("ada")
    with pytest.raises(ConfigurationError, match=r"old is at hand.*keys rotate.*journeys erase"):
        await forget(here, transport, namespace, OLD, "old")
    assert await (await ring(OLD)).load("ada") is not None


async def test_no_master_key_is_needed(transport: Transport, namespace: Namespace, ring: Ring) -> None:
    await (await ring(OLD)).ensure("ada")
    assert await forget(await ring(None), transport, namespace, None, "old") == 1
    assert await (await ring(OLD)).load("ada") is None


async def test_a_name_that_nobody_knows_is_told_with_those_there_are(
    transport: Transport, namespace: Namespace, ring: Ring
) -> None:
    with pytest.raises(NotFoundError, match="has no keys of customers"):
        await survey(transport, namespace, NEW, "old")
    assert await transport.streams(f"KV_{namespace.prefix}") == []
    await (await ring(OLD)).ensure("ada")
    with pytest.raises(NotFoundError, match=r"'odl' \(known: old\); `sojourn keys status`"):
        await forget(await ring(NEW), transport, namespace, NEW, "odl")
    assert await (await ring(OLD)).load("ada") is not None


async def test_an_interruption_is_finished_by_calling_again(
    transport: Transport, namespace: Namespace, ring: Ring
) -> None:
    before = await ring(OLD)
    for customer in ("ada", "bob"):
        await before.ensure(customer)

    class Cut(KeyRing):
        async def erase(self, customer: str) -> bool:
            if customer == "bob":
                raise TimeoutError
            return await super().erase(customer)

    cut = Cut(transport, namespace, NEW)
    with pytest.raises(TimeoutError):
        await forget(cut, transport, namespace, NEW, "old")
    await cut.close()
    after = await ring(NEW)
    with pytest.raises(ConfigurationError, match="wrapped by old"):
        await after.verify()
    assert await forget(after, transport, namespace, NEW, "old") == 1
    await after.verify()
