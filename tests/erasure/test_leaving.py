"""How long a foreign document, which is in plain, stays in the stream it came by."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import nats
import pytest

from sojourn.bus.client import Bus
from sojourn.bus.delivery.worker import Worker
from sojourn.bus.ingress import Ingress
from sojourn.bus.nats import NatsTransport
from sojourn.bus.personal.master import MasterKeys
from sojourn.bus.subjects import Namespace
from tests.erasure.hunting import Haystack, core, files, token
from tests.erasure.shop import FormFilled
from tests.erasure.world import namespace, opened, until
from tests.nats_server import NatsServer

MASTER = MasterKeys.new()


async def send(server: NatsServer, at: Namespace, start: int, values: list[str]) -> None:
    client = await nats.connect(server.url, pending_size=64 << 20)
    try:
        stream = client.jetstream()
        for number, value in enumerate(values[:-1], start):
            await client.publish(f"{at.name}.in.FormFilled", document(number, value))
        await stream.publish(f"{at.name}.in.FormFilled", document(start + len(values), values[-1]), timeout=30)
    finally:
        await client.close()


def tidy_once_filed(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Has nothing removed before so many documents are filed everywhere, however slow that is."""
    tidy = Ingress._tidy

    async def later(self: Ingress) -> None:
        while min((cursor.position for cursor in self._cursors), default=0) < count:  # noqa: ASYNC110 - a cursor has no event
            await asyncio.sleep(0.01)
        await tidy(self)

    monkeypatch.setattr(Ingress, "_tidy", later)


def document(number: int, value: str) -> bytes:
    data = {"customer_id": f"c{number % 50}", "e-mail": value, "note": "x" * 300}
    head = {"specversion": "1.0", "id": str(number), "source": "/foreign", "type": "FormFilled"}
    return json.dumps(head | {"data": data}).encode()


async def empty(bus: Bus) -> bool:
    state = await bus.transport.stream_state(bus.namespace.ingress_stream)
    return state is not None and state.messages == 0 and state.last > 0


async def filed(bus: Bus, count: int) -> bool:
    filter = f"{bus.namespace.name}.log.*.*.evt.FormFilled"
    streams = [await bus.transport.read(stream, filter) for stream in bus.namespace.streams]
    return sum(map(len, streams)) == count


def left(folder: Path, at: Namespace, values: list[str]) -> list[str]:
    found = Haystack(path for path in files(folder) if at.ingress_stream in path.parts)
    return [value for value in values if found.holds(core(value))]


async def removed(folder: Path, at: Namespace, values: list[str]) -> bool:
    # The server unlinks the blocks of a purge a moment after it has answered.
    return not left(folder, at, values)


@pytest.mark.parametrize("count", [20, 5_000])
async def test_filed_documents_leave_one_by_one_where_few_come_and_at_once_where_many_wait(
    count: int, private_server: Callable[..., NatsServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which of both it is decides about the time that it takes, on any machine."""
    server, values = private_server(), [token() for _ in range(count)]
    at = Namespace("leaving", 4, 2)
    sample = values[:: max(1, count // 20)]
    single, purges = Counter[str](), list[int]()
    delete, purge = NatsTransport.delete_messages, NatsTransport.purge

    async def deleting(self: Any, stream: str, sequences: Sequence[int]) -> None:
        single[stream] += len(sequences)
        await delete(self, stream, sequences)

    async def purging(self: Any, stream: str, upto: int) -> None:
        purges.append(upto)
        await purge(self, stream, upto)

    monkeypatch.setattr(NatsTransport, "delete_messages", deleting)
    monkeypatch.setattr(NatsTransport, "purge", purging)
    tidy_once_filed(monkeypatch, count)
    async with opened(server, at, MASTER) as bus:
        await bus.schemas.admit(FormFilled)
        await send(server, at, 0, values)
        assert len(left(tmp_path, at, sample)) > len(sample) / 2
        async with Worker(bus, [], catalog=[FormFilled]):
            await until(partial(filed, bus, count))
            await until(partial(empty, bus))
            await until(partial(removed, tmp_path, at, sample))
    server.stop()
    assert left(tmp_path, at, sample) == []
    if count == 20:
        assert (single[at.ingress_stream], purges) == (20, [])
    else:
        assert purges == [count]


async def test_what_comes_during_a_purge_is_filed_and_leaves_as_well(
    private_server: Callable[..., NatsServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It keeps bytes of what was purged beside it: they go when it goes."""
    server, at = private_server(), namespace()
    first, late = [token() for _ in range(1_200)], [token() for _ in range(1_300)]
    purge = NatsTransport.purge
    kept: list[str] = []

    async def slow(self: Any, stream: str, upto: int) -> None:
        if not kept:
            await send(server, at, 10_000, late)
        await purge(self, stream, upto)
        if not kept:
            kept.extend(left(tmp_path, at, first[::50]) or ["none"])

    monkeypatch.setattr(NatsTransport, "purge", slow)
    tidy_once_filed(monkeypatch, len(first))
    async with opened(server, at, MASTER) as bus:
        await bus.schemas.admit(FormFilled)
        await send(server, at, 0, first)
        async with Worker(bus, [], catalog=[FormFilled]):
            await until(lambda: _told(kept))
            assert kept != ["none"], "the test is of a purge that leaves bytes"
            await until(partial(filed, bus, len(first) + len(late)))
            await until(partial(empty, bus))
            await until(partial(removed, tmp_path, at, [*first[::50], *late[::50]]))


async def _told(kept: list[str]) -> bool:
    await asyncio.sleep(0)
    return bool(kept)
