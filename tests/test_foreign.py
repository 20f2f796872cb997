"""Producers and readers that know nothing of Sojourn: nats-py, hand-written documents and the CloudEvents SDK."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import nats
import pytest
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent

from sojourn import Agent, Event, Journey, Key, agent, evolve, on
from sojourn.agents.processor import AgentProcessor
from sojourn.bus.client import connect
from sojourn.bus.delivery.worker import Worker
from tests.nats_server import NatsServer

ROOT = Path(__file__).parents[1]


class CartUpdated(Event):
    customer_id: Key
    value: int


class OfferMade(Event):
    customer_id: Key
    value: int
    carts: int
    offers: int


class Basket(Journey):
    carts: int = 0
    offers: int = 0

    @evolve(CartUpdated)
    def updated(self, event: CartUpdated) -> None:
        self.carts += 1

    @evolve(OfferMade)
    def offered(self, event: OfferMade) -> None:
        self.offers += 1


@agent("offers")
class Offers(Agent[Basket]):
    @on(CartUpdated)
    def offer(self, event: CartUpdated, basket: Basket) -> OfferMade | None:
        if event.value < 50:
            return None
        return OfferMade(customer_id=event.customer_id, value=event.value, carts=basket.carts, offers=basket.offers)


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[NatsServer]:
    server = NatsServer(tmp_path).start()
    yield server
    server.stop()


@pytest.fixture
async def url(own_server: NatsServer) -> AsyncIterator[str]:
    """A server on which the agent runs."""
    async with connect(own_server.url) as bus, Worker(bus, [AgentProcessor(Offers)]):
        yield own_server.url


def document(number: int, customer: str, value: object, **more: object) -> dict[str, Any]:
    return {
        "specversion": "1.0",
        "id": f"order-{number}",
        "source": "/shop",
        "type": "CartUpdated",
        "time": "2026-03-01T10:00:00+02:00",
        "data": {"customer_id": customer, "value": value},
    } | more


async def actions_of(client: Any, count: int, publish: Any) -> list[tuple[str, dict[str, Any]]]:
    """What appears under the actions' subjects while ``publish`` runs, until ``count`` of them are there."""
    subscription = await client.subscribe("sojourn.log.*.*.act.>")
    await publish
    async with asyncio.timeout(30):
        found = [await subscription.next_msg(timeout=30) for _ in range(count)]
    return [(message.subject, json.loads(message.data)) for message in found]


async def test_documents_go_in_and_actions_come_out(url: str) -> None:
    client = await nats.connect(url)
    jetstream = client.jetstream()

    async def publish() -> None:
        for number, value in enumerate((60, 10, 70)):
            await jetstream.publish("sojourn.in.CartUpdated", json.dumps(document(number, "c.1 ☂", value)).encode())

    actions = await actions_of(client, 2, publish())
    first, second = (action for _, action in actions)
    assert [action["causationid"] for _, action in actions] == ["order-0", "order-2"]
    assert [action["correlationid"] for _, action in actions] == ["order-0", "order-2"]
    # The state is that of the moment: the third cart sees all three, and the offer made before it.
    assert first["data"] == {"customer_id": "c.1 ☂", "value": 60, "carts": 1, "offers": 0}
    assert second["data"] == {"customer_id": "c.1 ☂", "value": 70, "carts": 3, "offers": 1}
    assert all("c=2E1=20=E2=98=82.act.offers.OfferMade" in subject for subject, _ in actions)
    for subject, action in actions:
        partition = int(subject.split(".")[2])
        cause = await jetstream.get_msg(f"SOJOURN_{partition % 4}", action["causeseq"])
        filed = json.loads(cause.data or b"")
        assert filed["id"] == action["causationid"]
        assert filed["time"] == "2026-03-01T10:00:00+02:00"
    await client.close()


async def test_the_cloudevents_sdk_reads_and_writes_them(url: str) -> None:
    client = await nats.connect(url)
    sdk = JSONFormat()
    attributes = {"specversion": "1.0", "type": "CartUpdated", "source": "/sdk", "id": "sdk-1", "shop": "berlin"}
    body = sdk.write(CloudEvent(attributes, {"customer_id": "c2", "value": 99}))
    actions = await actions_of(client, 1, client.publish("sojourn.in.CartUpdated", body))
    subject, action = actions[0]
    read = sdk.read(CloudEvent, json.dumps(action))
    assert (read.get_type(), read.get_subject(), read.get_extension("causationid")) == ("OfferMade", "c2", "sdk-1")
    assert read.get_data() == {"customer_id": "c2", "value": 99, "carts": 1, "offers": 0}
    partition = int(subject.split(".")[2])
    cause = await client.jetstream().get_msg(f"SOJOURN_{partition % 4}", action["causeseq"])
    filed = sdk.read(CloudEvent, cause.data or b"")
    # What the producer added stays; what Sojourn adds are extension attributes.
    added = {name: filed.get_extension(name) for name in ("shop", "hops", "correlationid", "kind")}
    assert filed.get_id() == "sdk-1"
    assert added == {"shop": "berlin", "hops": 0, "correlationid": "sdk-1", "kind": "event"}
    await client.close()


async def test_what_cannot_be_filed_is_a_dead_letter_and_the_rest_goes_on(url: str) -> None:
    client = await nats.connect(url)
    jetstream = client.jetstream()
    bad: list[tuple[str, bytes]] = [
        ("CartUpdated", b"{not json"),
        ("CartUpdated", b"[]"),
        ("CartUpdated", json.dumps({"customer_id": "c1", "value": 60}).encode()),
        ("CartUpdated", json.dumps(document(1, "c1", "many")).encode()),
        ("CartUpdated", json.dumps(document(2, "", 60)).encode()),
        ("CartUpdated", json.dumps(document(3, "x" * 1024, 60)).encode()),
        ("CartUpdated", json.dumps(document(4, "c1", 60, subject="c2")).encode()),
        ("CartUpdated", json.dumps(document(5, "c1", 60, type="OrderPlaced")).encode()),
        ("CartUpdated", json.dumps(document(6, "c1", 60, schemaversion=9)).encode()),
        ("CartUpdated", json.dumps(document(7, "c1", 60, time="yesterday")).encode()),
        ("Unheard", json.dumps(document(8, "c1", 60, type="Unheard")).encode()),
    ]

    async def publish() -> None:
        for type, payload in bad:
            await jetstream.publish(f"sojourn.in.{type}", payload)
        await jetstream.publish("sojourn.in.CartUpdated", json.dumps(document(99, "c9", 60)).encode())

    actions = await actions_of(client, 1, publish())
    assert actions[0][1]["causationid"] == "order-99"
    dead = []
    for shard in range(4):
        names = (await jetstream.stream_info(f"SOJOURN_{shard}", subjects_filter="sojourn.lane.>")).state.subjects or {}
        dead += [name for name in names if name.endswith(".act.ingress.dead") for _ in range(names[name])]
    assert len(dead) == len(bad)
    await client.close()


def test_the_example_runs_beside_a_worker(own_server: NatsServer, tmp_path: Path) -> None:
    sojourn = str(Path(sys.executable).with_name("sojourn"))
    with (tmp_path / "worker.log").open("wb") as log:
        worker = subprocess.Popen(
            [sojourn, "run", "examples.quickstart", "--server", own_server.url], cwd=ROOT, stdout=log, stderr=log
        )
        try:
            # The first start of an agent begins at the present: the worker has to be there first.
            while b"running" not in (tmp_path / "worker.log").read_bytes():
                assert worker.poll() is None
            ran = subprocess.run(
                [sys.executable, "examples/foreign.py", own_server.url],
                cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
            )  # fmt: skip
        finally:
            worker.terminate()
            worker.wait(15)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count("c-17 DiscountOffered {'customer_id': 'c-17', 'percent': 10} because of") == 2
