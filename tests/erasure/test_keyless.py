"""Foreign documents where some workers have no master key: whoever can file a document does, and the others leave it to
them."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import nats
import pytest
import structlog

from sojourn.bus import ingress as module
from sojourn.bus.catalog import Catalog
from sojourn.bus.client import Bus
from sojourn.bus.deadletters import original
from sojourn.bus.delivery.lease import Lease
from sojourn.bus.ingress import Ingress
from sojourn.bus.personal.master import MasterKeys
from sojourn.bus.subjects import Namespace
from tests.erasure.shop import FormFilled, SurveyAnswered
from tests.erasure.world import dead, namespace, opened, story, until
from tests.nats_server import NatsServer

MASTER = MasterKeys.new()


class Taking(Lease):
    """Counts how often it was taken."""

    taken = 0

    async def acquire(self) -> bool:
        before = self.held
        held = await super().acquire()
        self.taken += held and not before
        return held


@contextlib.asynccontextmanager
async def relaying(bus: Bus, name: str, *types: type[FormFilled]) -> AsyncIterator[tuple[Ingress, Taking]]:
    leases = await bus.transport.bucket(bus.namespace.bucket("leases"))
    lease = Taking(leases, "ingress", name)
    relay = Ingress(bus, Catalog(types), lease)
    task = asyncio.create_task(relay.run())
    try:
        yield relay, lease
    finally:
        task.cancel()
        await asyncio.wait([task])


async def send(server: NatsServer, at: Namespace, id: str, type: str = "SurveyAnswered", **data: Any) -> None:
    client = await nats.connect(server.url)
    document = {"specversion": "1.0", "id": id, "source": "/foreign", "type": type, "data": data}
    try:
        await client.jetstream().publish(f"{at.name}.in.{type}", json.dumps(document).encode())
    finally:
        await client.close()


async def holder(bus: Bus) -> str | None:
    entry = await (await bus.transport.bucket(bus.namespace.bucket("leases"))).get("ingress")
    return entry.value.decode() if entry is not None and entry.value is not None else None


@pytest.mark.parametrize("known", [True, False])
async def test_a_worker_that_lacks_the_key_leaves_the_ingress_to_one_that_has_it(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    at, types = namespace(), [FormFilled] if known else []
    monkeypatch.setattr(module, "_LACKING", 0.5)
    async with opened(nats_server, at, None) as bus, opened(nats_server, at, MASTER) as able:
        await able.schemas.admit(SurveyAnswered)
        await able.schemas.admit(FormFilled)
        with structlog.testing.capture_logs() as told:
            async with relaying(bus, "without", *types) as (without, lease):
                await send(nats_server, at, "a", "FormFilled", customer_id="ada")
                await until(lambda: counted(without, 1))
                await send(nats_server, at, "b", "FormFilled", customer_id="ada", **{"e-mail": "ada@example.org"})
                await until(lambda: said(told, 1))
                await until(lambda: released(bus))
                # It goes on trying, and says nothing more of it.
                taken = lease.taken
                await until(lambda: retaken(lease, taken + 2))
                async with relaying(able, "with") as (relay, _):
                    await until(lambda: counted(relay, 1))
                    await send(nats_server, at, "c", "FormFilled", customer_id="ada", email="ada@example.com")
                    await until(lambda: counted(relay, 2))
                assert without.filed == 1
        assert [line["log_level"] for line in told if "reason" in line] == ["error"]
        [line] = [line for line in told if "reason" in line]
        assert "leaves the ingress to others" in line["event"] and "needs a master key" in line["reason"]
        envelopes = await story(able, "ada", FormFilled)
        emails = [envelope.event.email for envelope in envelopes]  # type: ignore[attr-defined]  # it is one
        assert emails == [None, "ada@example.org", "ada@example.com"]


async def counted(relay: Ingress, count: int) -> bool:
    return relay.filed == count


async def said(told: list[Any], count: int) -> bool:
    return sum("reason" in line for line in told) == count


async def released(bus: Bus) -> bool:
    return await holder(bus) is None


async def retaken(lease: Taking, count: int) -> bool:
    return lease.taken >= count and not lease.held


@pytest.mark.parametrize("known", [True, False])
async def test_what_holds_no_personal_value_is_filed_without_a_key(nats_server: NatsServer, known: bool) -> None:
    """Of a type that could hold some, by a worker without a master key; one that has it makes none for it either."""
    at, types = namespace(), [FormFilled] if known else []
    for master in (None, MASTER):
        async with opened(nats_server, at, MASTER) as able, opened(nats_server, at, master) as bus:
            await able.schemas.admit(FormFilled)
            async with relaying(bus, "any", *types) as (relay, _):
                await send(nats_server, at, f"{master} 1", "FormFilled", customer_id="ada", note="seen")
                await send(nats_server, at, f"{master} 2", "FormFilled", customer_id="ada", **{"e-mail": None})
                await until(lambda relay=relay: counted(relay, 2))  # type: ignore[misc]  # bound by the default
            assert await able.keys.load("ada") is None
            assert await bus.transport.streams(f"KV_{at.bucket('keys')}") == []
    assert len(await _filed(nats_server, at)) == 4


async def _filed(server: NatsServer, at: Namespace) -> list[Any]:
    async with opened(server, at, None) as bus:
        return await story(bus, "ada", FormFilled)


async def test_what_is_buried_of_a_personal_type_waits_for_a_key(nats_server: NatsServer) -> None:
    """Nobody can tell where in a document that does not fit the personal values are."""
    at = namespace()
    async with opened(nats_server, at, None) as bus, opened(nats_server, at, MASTER) as able:
        await able.schemas.admit(SurveyAnswered)
        with structlog.testing.capture_logs() as told:
            async with relaying(bus, "without") as (without, _):
                await send(nats_server, at, "a", customer_id="ada", note=["ada@example.org"])
                await until(lambda: said(told, 1))
                await until(lambda: released(bus))
                assert without.buried == 0
        async with relaying(able, "with") as (relay, _):
            await until(lambda: buried(relay))
        [letter] = await dead(able)
        document = await original(able, letter)
        assert document is not None and b"ada@example.org" in document
        await able.keys.erase("ada")
        assert await original(able, letter) is None


async def buried(relay: Ingress) -> bool:
    return relay.buried == 1
