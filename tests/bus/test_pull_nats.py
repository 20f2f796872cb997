"""The pull loop and what the server says about its requests: whatever it is, no flow stands still in silence."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from sojourn.bus.delivery.budget import Budget
from sojourn.bus.nats import pull
from sojourn.bus.nats.pull import BATCH, MOST, START, Pull
from sojourn.bus.ports import Delivery

LIMIT = 1_000_000


class Wire:
    """A pull whose server is the test."""

    def __init__(self, budget: Budget | None = None) -> None:
        self.asked: list[dict[str, int]] = []
        self.deliveries: list[Delivery] = []
        self.reasons: list[str] = []
        self.budget = budget or Budget(LIMIT)
        connection: Any = SimpleNamespace(watchers={}, post=self._post, client=SimpleNamespace(max_payload=1_048_576))
        self.flow = Pull(connection, "S", "c", self.deliveries.append, self.reasons.append, self.budget)
        self.flow._running = True
        self.flow._refill()

    def _post(self, subject: str, payload: bytes, reply: str = "") -> None:
        if "MSG.NEXT" in subject:
            self.asked.append(json.loads(payload))

    async def deliver(self, size: int, headers: dict[str, str] | None = None) -> int:
        """One message of that many bytes; what the server would have counted for it."""
        count = len(self.deliveries) + 1
        token = f"$JS.ACK.S.c.1.{count}.{count}.1700000000000000000.0"
        message = Msg(Client(), subject="s.log.1.k.evt.Seen", reply=token, data=b"x" * size, headers=headers)
        await self.flow._on_message(message)
        return len(message.subject) + len(token) + size

    async def say(self, status: str, description: str = "", **left: int) -> None:
        headers = {"Status": status, "Description": description}
        headers |= {f"Nats-Pending-{name.capitalize()}": str(value) for name, value in left.items()}
        await self.flow._on_message(Msg(Client(), subject="_INBOX.x", reply="", data=b"", headers=headers))

    @property
    def sizes(self) -> list[int]:
        return [request["max_bytes"] for request in self.asked]


async def test_two_requests_are_open_at_a_time() -> None:
    wire = Wire()
    assert [request["batch"] for request in wire.asked] == [BATCH, BATCH]
    assert wire.sizes == [START, START]
    for _ in range(BATCH - 1):
        await wire.deliver(10)
    assert len(wire.asked) == 2
    await wire.deliver(10)
    assert len(wire.asked) == 3


async def test_every_byte_that_was_asked_for_is_accounted_for() -> None:
    wire = Wire()
    sizes = [await wire.deliver(100) for _ in range(BATCH)]
    await wire.say("409", "Batch Completed", messages=0, bytes=START - sum(sizes))
    assert wire.budget.used == sum(sizes) + wire.sizes[1] + wire.sizes[2]
    for delivery in wire.deliveries:
        wire.flow.ack(delivery.token)
    await wire.say("408", "Request Timeout", messages=BATCH, bytes=wire.sizes[1])
    await wire.say("408", "Request Timeout", messages=BATCH, bytes=wire.sizes[2])
    # Both were replaced, and nothing is held.
    assert wire.budget.used == sum(wire.sizes[3:]) == 2 * START


async def test_headers_count_as_they_are_written() -> None:
    wire = Wire()
    written = b"NATS/1.0\r\nNats-Msg-Id: e-1\r\nA: b\r\n\r\n"
    size = await wire.deliver(100, {"Nats-Msg-Id": "e-1", "A": "b"})
    wire.flow.ack(wire.deliveries[0].token)
    wire.flow._give_back()
    assert wire.budget.used == 2 * START - size - len(written)


async def test_what_was_counted_wrongly_does_not_add_up() -> None:
    wire = Wire()
    for _ in range(200):
        size = 0
        for _ in range(BATCH):
            size = await wire.deliver(300)
            wire.flow.ack(wire.deliveries[-1].token)
        # Fifty bytes a message more than were counted here, as of headers in a form that nobody expects.
        await wire.say("409", "Batch Completed", messages=0, bytes=wire.sizes[-1] - BATCH * (size + 50))
    assert wire.budget.used <= 4 * max(wire.sizes)
    assert wire.reasons == []


async def test_larger_messages_are_asked_for_with_more_room() -> None:
    wire = Wire()
    for _ in range(BATCH):
        await wire.deliver(2_000)
    assert wire.sizes[-1] > START
    for _ in range(10):
        await wire.deliver(100_000)
        wire.flow.ack(wire.deliveries[-1].token)
        await wire.say("409", "Message Size Exceeds MaxBytes", messages=BATCH - 1, bytes=50)
    assert 100_000 < wire.sizes[-1] <= min(MOST, LIMIT)


async def test_a_request_too_small_for_the_next_message_is_doubled_until_it_fits() -> None:
    wire = Wire()
    for _ in range(20):
        await wire.say("409", "Message Size Exceeds MaxBytes", messages=BATCH, bytes=wire.sizes[-2])
        if wire.sizes[-1] > 600_000:
            break
    # With a limit of 1 MB that takes a slot, and nothing else is asked for meanwhile.
    assert wire.sizes[-1] == 32 * START
    assert len(wire.asked) < 20
    assert wire.reasons == []


async def test_a_flow_without_room_is_not_silent_but_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pull, "SILENCE", 0.01)
    budget = Budget(4 * START)
    greedy, hungry = Wire(budget), Wire(budget)
    for wire in (greedy, hungry):
        while wire.flow._requested > 0:
            await wire.deliver(10_000)
            await wire.say("409", "Message Size Exceeds MaxBytes", messages=wire.flow._requested, bytes=0)
        wire.flow._heard = False
        wire.flow._listen()
    await asyncio.sleep(0.05)
    assert (greedy.reasons, hungry.reasons) == ([], [])
    asked = len(hungry.asked)
    for delivery in greedy.deliveries + hungry.deliveries:
        hungry.flow.ack(delivery.token)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert len(hungry.asked) > asked
    await asyncio.sleep(0.05)
    assert hungry.reasons == ["silence"], "it has asked, and nobody says anything"


@pytest.mark.parametrize(
    ("status", "description"),
    [("409", "Consumer Deleted"), ("409", "Leadership Change"), ("409", "Server Shutdown"), ("503", "")],
)
async def test_a_consumer_that_has_to_be_begun_anew_breaks_the_flow_at_once(status: str, description: str) -> None:
    wire = Wire()
    await wire.say(status, description)
    assert wire.reasons == [description or "status 503"]


@pytest.mark.parametrize(
    ("status", "description"),
    [("409", "Exceeded MaxWaiting"), ("400", "Bad Request"), ("423", "Nats-Wrong-Pin-Id"), ("404", "No Messages")],
)
async def test_a_refusal_breaks_the_flow_after_a_while_and_not_over_and_over(
    status: str, description: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pull, "PATIENCE", 0.02)
    wire = Wire()
    await wire.say(status, description)
    assert wire.reasons == []
    async with asyncio.timeout(5):
        while not wire.reasons:  # noqa: ASYNC110 - a timer sets no event
            await asyncio.sleep(0.005)
    assert wire.reasons == [description]


@pytest.mark.parametrize("status", ["404", "408"])
async def test_a_request_that_ends_is_replaced(status: str) -> None:
    wire = Wire()
    await wire.say(status, "Request Timeout", messages=BATCH, bytes=START)
    assert len(wire.asked) == 3
    assert wire.reasons == []
