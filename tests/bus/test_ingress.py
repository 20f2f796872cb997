"""Foreign documents: filed once, in order, with their time, or buried with the reason, over any crash."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Callable, Sequence
from datetime import datetime
from typing import Any

import pytest
from pydantic import AliasChoices, Field

from sojourn.bus.catalog import Catalog
from sojourn.bus.client import Bus
from sojourn.bus.deadletters import dead_letter, dead_letters, original
from sojourn.bus.delivery.lease import Lease
from sojourn.bus.delivery.worker import Worker
from sojourn.bus.errors import SojournError, UnavailableError
from sojourn.bus.event import Event, Key
from sojourn.bus.ingress import Ingress
from sojourn.bus.memory import MemoryTransport
from sojourn.bus.personal.field import Personal
from sojourn.bus.personal.master import MasterKeys
from sojourn.bus.ports import Append, Stored
from sojourn.bus.subjects import Namespace
from sojourn.bus.timers import VirtualTimers
from tests.bus.delivery.processors import CartAbandoned, Scripted, check_effects, log_of, memory_bus, turbo, until
from tests.bus.delivery.test_worker_nats import nats_bus
from tests.erasure.world import opened
from tests.nats_server import NatsServer

SPREAD = Namespace("test", 4, 4)


def document(n: int, key: str, **changes: Any) -> bytes:
    whole = {
        "specversion": "1.0",
        "id": f"d{n}",
        "source": "/till",
        "type": "CartAbandoned",
        "time": "2026-01-05T10:00:00Z",
        "data": {"customer_id": key, "n": n},
    }
    return json.dumps({name: value for name, value in (whole | changes).items() if value is not None}).encode()


async def send(bus: Bus, *payloads: bytes, subject: str = "CartAbandoned") -> list[int]:
    """What a producer in any language does."""
    found = []
    for payload in payloads:
        append = Append(f"{bus.namespace.name}.in.{subject}", payload)
        [sequence] = await bus.transport.commit(bus.namespace.ingress_stream, [append])
        found.append(sequence)
    return found


@contextlib.asynccontextmanager
async def ingress(bus: Bus, catalog: Catalog | None = None) -> AsyncGenerator[Ingress, None]:
    leases = await bus.transport.bucket(bus.namespace.bucket("leases"))
    relay = Ingress(bus, catalog if catalog is not None else Catalog([CartAbandoned]), Lease(leases, "ingress", "test"))
    task = asyncio.create_task(relay.run())
    try:
        yield relay
    finally:
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error


async def filed(bus: Bus) -> list[dict[str, Any]]:
    return [json.loads(message.payload) for message in await log_of(bus.transport, bus.namespace, "log.*.*.evt.*")]


async def waiting(bus: Bus) -> int:
    state = await bus.transport.stream_state(bus.namespace.ingress_stream)
    assert state is not None
    return state.messages


def check_order(documents: list[dict[str, Any]], count: int, keys: int) -> None:
    assert len(documents) == count
    for key in range(keys):
        mine = [d["data"]["n"] for d in documents if d["subject"] == f"c{key}"]
        assert mine == list(range(key, count, keys))


async def emptied(bus: Bus) -> bool:
    return await waiting(bus) == 0


def test_documents_are_filed_in_order_and_leave_the_stream_once_filed() -> None:
    async def main() -> None:
        async with memory_bus(namespace=SPREAD) as bus, ingress(bus) as relay:
            await send(bus, *(document(n, f"c{n % 7}") for n in range(500)))
            await until(lambda: emptied(bus), 60)
            check_order(await filed(bus), 500, 7)
            assert (relay.filed, relay.buried, relay.duplicates) == (500, 0, 0)

    turbo(main())


def test_the_time_of_the_document_or_of_its_receipt_is_kept() -> None:
    async def main() -> None:
        async with memory_bus(namespace=SPREAD) as bus, ingress(bus):
            await send(bus, document(1, "c1"), document(2, "c1", time=None))
            await until(lambda: emptied(bus), 60)
            first, second = await filed(bus)
            assert first["time"] == "2026-01-05T10:00:00Z" != first["receivedtime"]
            assert second["time"] == second["receivedtime"]
            assert datetime.fromisoformat(first["receivedtime"]) <= datetime.fromisoformat(second["receivedtime"])

    turbo(main())


BAD = {
    "not JSON": b"\xff\x00",
    "empty": b"",
    "a list": b"[]",
    "no CloudEvents": b"{}",
    "another type": document(1, "c1", type="OrderPlaced"),
    "unknown field type": document(1, "c1", data={"customer_id": "c1", "n": "many"}),
    "no key": document(1, "c1", data={"n": 1}),
    "empty key": document(1, ""),
    "long key": document(1, "k" * 600),
    "other subject": document(1, "c1", subject="c2"),
    "no time": document(1, "c1", time="yesterday"),
    "too large": document(1, "c1", padding="x" * 1_048_000),
    "infinite": document(1, "c1").replace(b'"n": 1', b'"n": 1e999'),
    "deep": b"[" * 50_000,
}


@pytest.mark.parametrize("name", BAD)
def test_bad_documents_become_dead_letters_that_keep_the_original(name: str) -> None:
    async def main() -> None:
        async with memory_bus(namespace=SPREAD) as bus, ingress(bus) as relay:
            await send(bus, document(0, "c1", id="before"), BAD[name], document(2, "c1", id="after"))
            await until(lambda: emptied(bus), 60)
            assert [d["id"] for d in await filed(bus)] == ["before", "after"]
            assert relay.buried == 1
            [letter] = [letter async for letter in dead_letters(bus)]
            assert letter.writer == "ingress" and letter.attempts == 0 and letter.reason and letter.cause == 2
            assert letter.cause_stream == "TEST_IN" and letter.subject == "test.in.CartAbandoned"
            assert await original(bus, letter) == BAD[name]
            assert await dead_letter(bus, letter.number) == letter

    turbo(main())


def test_unknown_types_are_buried_and_types_of_other_workers_filed() -> None:
    async def main() -> None:
        async with memory_bus(namespace=SPREAD) as bus, ingress(bus, Catalog()) as relay:
            await send(bus, document(1, "c1", type="NeverHeard"), subject="NeverHeard")
            await send(bus, document(2, "c1"))
            await until(lambda: emptied(bus), 60)
            assert relay.buried == 2
            await bus.schemas.admit(CartAbandoned)
            await send(bus, document(3, "c1"))
            await until(lambda: emptied(bus), 60)
            assert [d["data"]["n"] for d in await filed(bus)] == [3]

    turbo(main())


def test_a_producers_retry_is_filed_once() -> None:
    async def main() -> None:
        async with memory_bus(namespace=SPREAD) as bus, ingress(bus) as relay:
            once = [document(n, f"c{n % 5}") for n in range(100)]
            await send(bus, *once[:60], *once[40:], once[99], once[99])
            await until(lambda: emptied(bus), 60)
            check_order(await filed(bus), 100, 5)
            assert relay.duplicates == 22
            await send(bus, document(7, "c2", source="/other till"))
            await until(lambda: emptied(bus), 60)
            assert len(await filed(bus)) == 101, "another source is another document"

    turbo(main())


def test_cursors_of_idle_shards_follow_so_that_the_stream_gets_empty() -> None:
    async def main() -> None:
        async with memory_bus(namespace=SPREAD) as bus, ingress(bus):
            await send(bus, *(document(n, "c1") for n in range(30)))
            await until(lambda: emptied(bus), 60)
            positions = [
                json.loads(stored.payload)["position"]
                for shard, stream in enumerate(SPREAD.streams)
                if (stored := await bus.transport.last(stream, SPREAD.cursor("ingress", shard))) is not None
            ]
            assert positions == [30] * 4

    turbo(main())


def test_large_documents_are_filed_in_bounded_batches() -> None:
    largest = 0

    class Measuring(MemoryTransport):
        async def commit(self, stream: str, appends: Sequence[Append]) -> list[int]:
            nonlocal largest
            largest = max(largest, sum(len(append.payload) for append in appends))
            return await super().commit(stream, appends)

    async def main() -> None:
        async with memory_bus(Measuring(VirtualTimers()), SPREAD) as bus:
            await send(bus, *(document(n, "c1", padding="x" * 900_000) for n in range(20)))
            await send(bus, *(document(n, "c1", padding="x" * 1_048_000) for n in range(20, 40)))
            async with ingress(bus) as relay:
                await until(lambda: emptied(bus), 60)
                assert (relay.filed, relay.buried) == (20, 20)
            assert largest < 8 << 20

    turbo(main())


class Failing(MemoryTransport):
    """Fails at its n-th operation, before or after it took effect."""

    at = 0
    after = False
    count = -(10**9)

    def _step(self) -> bool:
        self.count += 1
        return self.count == self.at

    async def commit(self, stream: str, appends: Sequence[Append]) -> list[int]:
        if self._step():
            if self.after:
                await super().commit(stream, appends)
            raise UnavailableError("the network")
        return await super().commit(stream, appends)

    async def last(self, stream: str, filter: str) -> Stored | None:
        if self._step():
            raise UnavailableError("the network")
        return await super().last(stream, filter)

    async def stream_state(self, name: str) -> Any:
        if self._step():
            raise UnavailableError("the network")
        return await super().stream_state(name)

    async def delete_messages(self, stream: str, sequences: Sequence[int]) -> None:
        if self._step():
            if self.after:
                await super().delete_messages(stream, sequences[: len(sequences) // 2])
            raise UnavailableError("the network")
        await super().delete_messages(stream, sequences)

    async def follow(self, *arguments: Any, **rest: Any) -> AsyncGenerator[list[Stored], None]:
        async with contextlib.aclosing(super().follow(*arguments, **rest)) as batches:
            async for batch in batches:
                if self._step():
                    raise UnavailableError("the network")
                yield batch


@pytest.mark.parametrize("after", [False, True])
def test_a_failure_of_any_one_operation_neither_loses_nor_doubles(after: bool) -> None:
    async def attempt(at: int) -> int:
        transport = Failing(VirtualTimers())
        async with memory_bus(transport, SPREAD) as bus:
            await send(bus, *(document(n, f"c{n % 7}") for n in range(150)))
            await send(bus, *(document(n, f"c{n % 7}") for n in range(140, 150)))
            transport.count, transport.at, transport.after = 0, at, after
            async with ingress(bus):

                async def done() -> bool:
                    return len(await filed(bus)) >= 150 and not bus.committer.pending

                await until(done, 60)
                await send(bus, *(document(n, f"c{n % 7}") for n in range(150, 160)))
                await asyncio.sleep(5)
            # The next run removes what an interrupted one left.
            async with ingress(bus):
                await asyncio.sleep(5)
            check_order(await filed(bus), 160, 7)
            assert len(await filed(bus)) == 160
            remaining = transport._streams["TEST_IN"].state().messages
            assert remaining == 0
            return transport.count

    async def main() -> None:
        total = await attempt(-1)
        assert total > 20
        for at in range(1, 30):
            await attempt(at)

    turbo(main(), seconds=100_000)


@pytest.mark.parametrize("step", [1, 7])
def test_an_end_at_any_moment_neither_loses_nor_doubles(step: int) -> None:
    """Cancelled, as by the end of its worker; what it sent just before may still be stored."""

    async def main() -> None:
        for turns in range(step, 120, 4):
            async with memory_bus(namespace=SPREAD) as bus:
                await send(bus, *(document(n, f"c{n % 7}") for n in range(60)))
                for _ in range(3):
                    async with ingress(bus):
                        for _ in range(turns):
                            await asyncio.sleep(0)
                async with ingress(bus):
                    await until(lambda bus=bus: emptied(bus), 60)  # type: ignore[misc]  # bound by the default
                check_order(await filed(bus), 60, 7)

    turbo(main())


def test_two_relays_at_once_file_everything_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async def always(self: Lease) -> bool:
        return True

    monkeypatch.setattr(Lease, "acquire", always)

    async def main() -> None:
        async with memory_bus(namespace=SPREAD) as bus:
            async with ingress(bus), ingress(bus):
                for start in range(0, 500, 50):
                    await send(bus, *(document(n, f"c{n % 7}") for n in range(start, start + 50)))
                    await asyncio.sleep(0.3)
                await until(lambda: emptied(bus), 120)
            check_order(await filed(bus), 500, 7)

    turbo(main())


class MeterRead(Event):
    customer_id: Key
    n: int
    mail: Personal[str] | None = Field(None, validation_alias=AliasChoices("mail", "e-mail"))


async def test_on_a_server_only_what_is_registered_is_filed_and_sealed_under_any_name(nats_server: NatsServer) -> None:
    async with opened(nats_server, Namespace("held", 4, 1), MasterKeys.new()) as bus:
        data = [{"customer_id": "ann", "n": n, "e-mail": "eva@example.com"} for n in (1, "2", True, 4)]
        await send(bus, *(document(n, "", type="MeterRead", data=d) for n, d in enumerate(data)), subject="MeterRead")
        async with ingress(bus, Catalog([MeterRead])):
            await until(lambda: emptied(bus), 30)
        stored = [message.payload for message in await log_of(bus.transport, bus.namespace, "log.>")]
        assert not any(b"eva@example.com" in payload or b"ZXZhQ" in payload for payload in stored)
        assert [(one["data"]["n"], one["data"]["mail"][:9]) for one in await filed(bus)] == [
            (1, "sealed:1:"),
            (4, "sealed:1:"),
        ]
        reasons = [letter.reason async for letter in dead_letters(bus)]
        assert reasons == ["data does not fit MeterRead version 1: n: is not of type integer"] * 2


async def closed(worker: Worker) -> bool:
    """Whether the server has nothing left for the worker's groups."""
    lags = [
        await worker.bus.transport.consumer_lag(partition.stream, partition.consumer)
        for group in worker.groups
        for partition in group.partitions.values()
    ]
    return all(lag is not None and not lag.pending and not lag.in_flight for lag in lags)


async def test_on_a_server_that_is_killed(private_server: Callable[..., NatsServer]) -> None:
    server = private_server()
    async with nats_bus(server, Namespace("shop", 4, 2)) as bus, Worker(bus, [Scripted()]) as worker:

        async def produce(numbers: range) -> None:
            for n in numbers:
                while True:
                    try:
                        await send(bus, document(n, f"c{n % 9}"))
                    except SojournError:
                        await asyncio.sleep(0.05)
                    else:
                        break

        producing = asyncio.create_task(produce(range(600)))
        for part in (100, 300):
            await until(lambda part=part: worker.groups[0].counters.closed >= part)  # type: ignore[misc]  # bound
            server.kill9()
            await asyncio.to_thread(server.restart)
        await producing

        async def done() -> bool:
            with contextlib.suppress(SojournError):
                return len(await filed(bus)) >= 600 and await waiting(bus) == 0
            return False

        await until(done, 30)
        check_order(await filed(bus), 600, 9)
        # What the ingress stored, but had no answer to, is known to the server alone.
        await until(lambda: closed(worker))
        assert await check_effects(bus) == 600


async def test_thousands_of_documents_take_seconds(nats_server: NatsServer) -> None:
    async with nats_bus(nats_server) as bus:
        answers: list[object] = []
        for n in range(4000):
            append = Append(f"{bus.namespace.name}.in.CartAbandoned", document(n, f"c{n % 50}"))
            bus.transport.send(bus.namespace.ingress_stream, append, answers.append)
        await until(lambda: len(answers) == 4000)
        async with ingress(bus) as relay:
            await until(lambda: relay.filed == 4000, 10)
        check_order(await filed(bus), 4000, 50)
