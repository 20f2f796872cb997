"""Redriving foreign documents that the ingress refused: filed once, however often it is tried or interrupted."""

from __future__ import annotations

from typing import Any

import pytest

from sojourn.bus.catalog import Catalog
from sojourn.bus.client import Bus, open_bus
from sojourn.bus.clock import VirtualClock
from sojourn.bus.deadletters import DeadLetter
from sojourn.bus.errors import UnavailableError
from sojourn.bus.event import Event, Key
from sojourn.bus.intake import NOBODY
from sojourn.bus.personal.field import Personal
from sojourn.bus.personal.key import SEALED
from sojourn.bus.personal.master import MasterKeys
from sojourn.bus.subjects import NO_KEY, Namespace
from tests.bus.delivery.processors import START, CartAbandoned, log_of, memory_bus, turbo, until
from tests.bus.delivery.test_worker_nats import nats_bus
from tests.bus.test_ingress import SPREAD, document, filed, ingress, send, waiting
from tests.bus.test_redrive import OPEN, Breaking, dropped, letters, put_back, redriven, results
from tests.nats_server import NatsServer


class EmailGiven(Event):
    customer_id: Key
    email: Personal[str] | None = None


async def refused(bus: Bus, *payloads: bytes, subject: str = "CartAbandoned") -> list[DeadLetter]:
    """The letters of documents that a worker took which knows no event."""
    async with ingress(bus, Catalog()):
        await send(bus, *payloads, subject=subject)

        async def done() -> bool:
            return await waiting(bus) == 0

        await until(done)
    found = await letters(bus)
    assert len(found) == len(payloads)
    return found


async def round_trip(bus: Bus, keys: int) -> None:
    found = await refused(bus, *(document(n, f"c{n % keys}") for n in range(20)))
    assert {letter.customer for letter in found} == {None}, "nobody knew where the key is"
    assert {(o.result, o.reason[:42]) for o in await redriven(bus)} == {
        ("failed", "no worker of this namespace has registered")
    }
    await bus.schemas.admit(CartAbandoned)
    assert results(await redriven(bus, dry_run=True)) == ["filed"] * 20
    assert await filed(bus) == []
    assert results(await redriven(bus, OPEN)) == ["filed"] * 20
    assert results(await redriven(bus)) == ["already"] * 20
    assert {letter.status for letter in await letters(bus)} == {"redriven"}
    documents = await filed(bus)
    assert sorted(d["data"]["n"] for d in documents) == list(range(20))
    assert all(d["receivedtime"] and d["kind"] == "event" for d in documents)
    assert results(await dropped(bus)) == ["excluded"] * 20


def test_they_are_filed_once_what_they_lacked_is_there() -> None:
    async def main() -> None:
        async with memory_bus(namespace=SPREAD) as bus:
            await round_trip(bus, 7)

    turbo(main())


async def test_they_are_filed_once_on_a_server(nats_server: NatsServer) -> None:
    async with nats_bus(nats_server) as bus:
        await round_trip(bus, 5)


def test_one_that_still_does_not_fit_says_why_and_stays_open() -> None:
    async def main() -> None:
        async with memory_bus(namespace=SPREAD) as bus:
            await refused(bus, document(1, "c1", data={"customer_id": "c1"}), b"no json")
            await bus.schemas.admit(CartAbandoned)
            reasons = {outcome.result: outcome.reason for outcome in await redriven(bus)}
            assert reasons.keys() == {"failed"} and len(await letters(bus, OPEN)) == 2
            assert await put_back(bus) == [] == await filed(bus)
            assert results(await dropped(bus)) == ["dropped"] * 2

    turbo(main())


@pytest.mark.parametrize("left", range(4))
def test_killed_at_any_write_it_is_finished_by_the_next_run(left: int) -> None:
    async def main() -> None:
        transport = Breaking()
        async with memory_bus(transport, SPREAD) as bus:
            keys = [
                next(key for n in range(99) if SPREAD.locate(key := f"c{n}").stream == stream)
                for stream in SPREAD.streams
            ]
            await refused(bus, *(document(n, key) for n, key in enumerate(keys)))
            await bus.schemas.admit(CartAbandoned)
            transport.left = left
            with pytest.raises(UnavailableError):
                await redriven(bus)
            transport.left = None
            done = await filed(bus)
            assert len(done) < 4
            assert len(await letters(bus, OPEN)) == 4 - len(done), "what has not arrived is open"
            assert results(await redriven(bus, OPEN)) == ["filed"] * (4 - len(done))
            assert sorted(d["data"]["n"] for d in await filed(bus)) == [0, 1, 2, 3]
            assert await letters(bus, OPEN) == []
            assert results(await redriven(bus)) == ["already"] * 4

    turbo(main(), seconds=3_000)


def test_on_its_way_into_another_shard_it_is_not_dropped() -> None:
    async def main() -> None:
        transport = Breaking()
        async with memory_bus(transport, SPREAD) as bus:
            home = SPREAD.locate_token("", NO_KEY).stream
            key = next(key for n in range(99) if SPREAD.locate(key := f"c{n}").stream != home)
            await refused(bus, document(1, key))
            await bus.schemas.admit(CartAbandoned)
            transport.left = 1
            with pytest.raises(UnavailableError):
                await redriven(bus)
            transport.left = None
            [outcome] = await dropped(bus)
            assert outcome.result == "excluded" and "redrive it again" in outcome.reason
            assert results(await redriven(bus)) == ["filed"]

    turbo(main(), seconds=3_000)


def test_one_that_its_producer_sent_again_is_filed_once() -> None:
    async def main() -> None:
        async with memory_bus(namespace=SPREAD) as bus:
            await refused(bus, document(1, "c1"))
            await bus.schemas.admit(CartAbandoned)
            async with ingress(bus):
                await send(bus, document(1, "c1"))

                async def done() -> bool:
                    return len(await filed(bus)) == 1

                await until(done)
            assert results(await redriven(bus)) == ["filed"]
            assert len(await filed(bus)) == 1
            assert (await letters(bus))[0].status == "redriven"

    turbo(main())


def test_personal_values_are_sealed_when_they_are_filed() -> None:
    payload = document(1, "c1", type="EmailGiven", data={"customer_id": "c1", "email": "ann@example.org"})

    async def main() -> None:
        master = MasterKeys.new("m")
        async with memory_bus(namespace=SPREAD) as plain:
            transport: Any = plain.transport
            async with open_bus(transport, SPREAD, clock=VirtualClock(START), master_keys=master) as bus:
                await refused(bus, payload, subject="EmailGiven")
                await bus.schemas.admit(EmailGiven)
                [told] = await redriven(plain)
                assert told.result == "failed" and "master key" in told.reason
                assert results(await redriven(bus, dry_run=True)) == ["filed"]
                assert await bus.keys.load("c1") is None, "a dry run makes no key"
                assert results(await redriven(bus)) == ["filed"]
                [written] = await filed(bus)
                assert written["data"]["email"].startswith(SEALED)
                everything = await log_of(transport, Namespace("test", 4, 4))
                assert not any(b"ann@example.org" in message.payload for message in everything)

    turbo(main())


def test_one_of_nobody_that_was_erased_is_gone() -> None:
    async def main() -> None:
        master = MasterKeys.new("m")
        async with (
            memory_bus(namespace=SPREAD) as plain,
            open_bus(plain.transport, SPREAD, clock=VirtualClock(START), master_keys=master) as bus,
        ):
            await refused(bus, document(1, "c1"))
            await bus.schemas.admit(CartAbandoned)
            await bus.keys.erase(NOBODY)
            assert results(await redriven(bus)) == ["gone"]
            assert await filed(bus) == []

    turbo(main())
