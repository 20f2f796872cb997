"""Deliveries of durable consumers: Sojourn's own pull loop on nats-py's core connection."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from sojourn.bus.delivery.budget import Budget
from sojourn.bus.errors import ClosedError, SojournError
from sojourn.bus.grammar import check_name
from sojourn.bus.nats.connection import Connection
from sojourn.bus.nats.faults import CONSUMER_EXISTS, NO_CONSUMER, NO_STREAM, RefusedError, meaning
from sojourn.bus.ports import ACK_WAIT, ConsumerLag, Delivery

BATCH = 64
"""Messages of one pull request; two are open at a time, so that the server never waits for the next one."""
EXPIRES = 30.0
"""Seconds that a pull request waits at the server."""
HEARTBEAT = 5.0
"""Seconds of idleness after which the server says that the request is still waiting."""
SILENCE = 2.2 * HEARTBEAT
"""Seconds without message or heartbeat after which the flow counts as broken: two heartbeats were missed."""

LEAST = 4 * 1024
START = 32 * 1024
MOST = 1024 * 1024
"""Bytes of one pull request: the smallest, where the budget is short; the first, before the flow knows the size of its
messages; and the largest, unless one message is larger. In between, two requests' worth of messages as large as the
last ones."""

_BRIEFEST = 0.25
"""Seconds that a request waits at least: with less time left nothing is asked for."""

PATIENCE = 1.0
"""Seconds before a flow that the server refused for a reason unknown here counts as broken, and is begun anew."""

_NANO = 1_000_000_000
_LUMP = 16 * 1024
"""Bytes of acked messages that a flow may keep to itself while nobody waits for room, so as not to count each ack."""
_ENVELOPE = 8 * 1024
"""Bytes that subject, reply and headers may add to the largest payload: a control line of the protocol has 4 KB."""

_ENDED = frozenset({"Batch Completed", "Message Size Exceeds MaxBytes"})
_AT_ONCE = frozenset({"Consumer Deleted", "Leadership Change", "Server Shutdown"})
"""What the server says with status 409 of a request that is done, and of a consumer that has to be begun anew."""


class NatsConsumers:
    """`sojourn.bus.ports.Consumers` over JetStream."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def ensure_consumer(self, stream: str, name: str, filter: str, *, start: int, max_ack_pending: int) -> None:
        """Creates the consumer or brings its filter up to date. See `sojourn.bus.ports.Consumers.ensure_consumer`."""
        config = {
            "durable_name": check_name(name),
            "name": name,
            "ack_policy": "explicit",
            "ack_wait": int(ACK_WAIT * _NANO),
            "max_deliver": -1,
            "max_ack_pending": max_ack_pending,
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": max(start, 1),
            "filter_subject": filter,
        }
        try:
            if (info := await self._info(stream, name)) is None:
                try:
                    await self._create(stream, name, "create", config)
                    return
                except RefusedError as error:
                    # Somebody else was faster, perhaps with another filter.
                    if error.code != CONSUMER_EXISTS or (info := await self._info(stream, name)) is None:
                        raise
            there = info["config"]
            if there.get("filter_subject") != filter or there.get("filter_subjects"):
                there.pop("filter_subjects", None)
                await self._create(stream, name, "update", there | {"filter_subject": filter})
        except RefusedError as error:
            raise meaning(error, f"consumer {name} of {stream}") from error

    async def consumer_lag(self, stream: str, name: str) -> ConsumerLag | None:
        """Position and lag as the server sees them, or None."""
        try:
            info = await self._info(stream, name)
        except RefusedError as error:
            raise meaning(error, f"consumer {name} of {stream}") from error
        if info is None:
            return None
        return ConsumerLag(
            info["ack_floor"]["stream_seq"],
            info["delivered"]["stream_seq"],
            info["num_pending"],
            info["num_ack_pending"],
        )

    def consume(
        self,
        stream: str,
        name: str,
        receive: Callable[[Delivery], None],
        broken: Callable[[str], None],
        budget: Budget | None = None,
        left: Callable[[], float] | None = None,
    ) -> Pull:
        """Opens the flow of a durable consumer. See `sojourn.bus.ports.Consumers.consume`."""
        flow = (check_name(stream), check_name(name), receive, broken, budget or Budget(), left)
        return Pull(self._connection, *flow)

    async def _info(self, stream: str, name: str) -> dict[str, Any] | None:
        try:
            return await self._connection.request(f"CONSUMER.INFO.{check_name(stream)}.{check_name(name)}")
        except RefusedError as error:
            if error.code in {NO_CONSUMER, NO_STREAM}:
                return None
            raise

    async def _create(self, stream: str, name: str, action: str, config: dict[str, Any]) -> None:
        document = {"stream_name": stream, "action": action, "config": config}
        await self._connection.request(f"CONSUMER.CREATE.{stream}.{name}", document)


class Pull:
    """The open flow of one durable consumer (`sojourn.bus.ports.Consumption`).

    Each `restart` has an inbox of its own, so nothing pulled before it can arrive after it.

    What it asks for is bounded in messages and, by ``budget``, in bytes. The server tells of every request what is left
    of it when it ends (408, or 409 where the batch is complete or the next message too large for the rest), and counts
    subject, reply, headers and payload of each message (nats-server 2.15.1), as is done here. So what is still to come
    is known to the byte; and wherever a flow has nothing to come, it is either asking or waiting for room.
    """

    def __init__(
        self,
        connection: Connection,
        stream: str,
        name: str,
        receive: Callable[[Delivery], None],
        broken: Callable[[str], None],
        budget: Budget,
        left: Callable[[], float] | None = None,
    ) -> None:
        self._connection = connection
        self._left = left
        self._held_up = False
        self._stream = stream
        self._name = name
        self._receive = receive
        self._broken = broken
        self._next = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{name}"
        self._inbox = ""
        self._subscription: Subscription | None = None
        self._budget = budget
        self._share = budget.join(self._refill)
        self._held: dict[str, int] = {}
        self._freed = 0
        self._requested = 0
        self._promised = 0
        self._least = LEAST
        self._most = START
        self._size = 0
        self._fed = 0
        self._fed_bytes = 0
        self._delivered = 0
        self._heard = True
        self._running = False
        self._closed = False
        self._restarting = asyncio.Lock()
        self._silence: asyncio.TimerHandle | None = None
        connection.watchers[self] = self._on_state

    async def restart(self) -> None:
        """Resets the consumer to its ack floor and pulls anew. See `sojourn.bus.ports.Consumption.restart`.

        Raises `UnavailableError` or `TimedOutError` (try again), `NotFoundError` where the consumer is gone,
        `ClosedError` after `close`."""
        if self._closed:
            raise ClosedError(f"the flow of consumer {self._name} was closed")
        async with self._restarting:
            await self._restart()

    async def _restart(self) -> None:
        await self._stop()
        connection = self._connection
        address = f"{self._stream}.{self._name}"
        try:
            # Asked first, because nobody answers the reset of a consumer that is not there (nats-server 2.15.1).
            await connection.request(f"CONSUMER.INFO.{address}")
            await connection.request(f"CONSUMER.RESET.{address}")
        except RefusedError as error:
            raise meaning(error, f"consumer {self._name} of {self._stream}") from error
        inbox = connection.client.new_inbox()
        subscription = await connection.subscribe(inbox, self._on_message)
        if self._closed:
            await connection.unsubscribe(subscription)
            raise ClosedError(f"the flow of consumer {self._name} was closed")
        self._inbox, self._subscription = inbox, subscription
        self._requested = self._promised = self._delivered = 0
        self._size = self._fed = self._fed_bytes = 0
        self._least, self._most = LEAST, START
        self._running = True
        self._refill()
        self._listen()

    def ack(self, token: str) -> None:
        """Closes one delivery; fire and forget."""
        self._connection.post(token, b"+ACK")
        self._freed += self._held.pop(token, 0)
        if self._freed > _LUMP or self._budget.waiting:
            self._give_back()

    def progress(self, token: str) -> None:
        """Restarts the delivery's ack_wait; fire and forget."""
        self._connection.post(token, b"+WPI")

    async def close(self) -> None:
        """Stops pulling and waits until acks sent before have left, or the connection is gone."""
        if self._closed:
            return
        self._closed = True
        self._connection.watchers.pop(self, None)
        await self._stop()
        self._budget.leave(self._share)
        with suppress(SojournError):  # acks that did not leave mean redeliveries, as after any crash
            await self._connection.flush()

    async def _stop(self) -> None:
        self._running = False
        if self._silence is not None:
            self._silence.cancel()
            self._silence = None
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            await self._connection.unsubscribe(subscription)
        # Whoever restarts or closes has dropped what was delivered, and what was asked for arrives nowhere.
        self._held.clear()
        self._freed = 0
        self._budget.give(self._share, self._share.taken)

    def _give_back(self) -> None:
        freed, self._freed = self._freed, 0
        self._budget.give(self._share, freed)

    def _refill(self) -> None:
        """Asks for more where less than a request is open. Where there is no room for it, the budget calls again."""
        self._give_back()
        while self._running and self._requested <= BATCH:
            expires = EXPIRES if self._left is None else min(self._left(), EXPIRES)
            if expires < _BRIEFEST:
                self._wait_for_time()
                return
            size = self._budget.take(self._share, self._least, max(self._most, self._least))
            if not size:
                return
            if self._requested <= 0:
                self._heard = True
            self._requested += BATCH
            self._promised += size
            self._size = max(self._size, size)
            self._connection.post(self._next, pull_request(BATCH, size, expires), self._inbox)

    def _wait_for_time(self) -> None:
        # A request must not outlive the right to ask. Whether that is renewed or lost is known soon.
        if not self._held_up:
            self._held_up = True
            asyncio.get_running_loop().call_later(_BRIEFEST, self._go_on)

    def _go_on(self) -> None:
        self._held_up = False
        self._heard = True
        self._refill()

    async def _on_message(self, message: Msg) -> None:
        if not self._running:
            return
        self._heard = True
        token = message.reply
        if not token:
            self._on_status(message.headers or {})
            return
        size = len(message.subject) + len(token) + len(message.data)
        if message.headers:
            size += _length(message.headers)
        parts = token.split(".")
        # $JS.ACK.stream.consumer.delivered.sequence.consumer sequence.time.pending; with a domain and an account hash
        # after ACK, and a random token at the end, since 2.12 where the server is configured so. Source: NATS ADR-15.
        sequence, consumer_sequence, timestamp = parts[5:8] if len(parts) == 9 else parts[7:10]
        self._delivered = int(consumer_sequence)
        self._held[token] = size
        self._promised -= size
        self._fed += 1
        self._fed_bytes += size
        self._least = size if size > LEAST else LEAST  # noqa: FURB136 - max() costs three times as much, for each message
        self._requested -= 1
        if self._requested <= BATCH:
            self._settle()
        self._receive(Delivery(message.subject, int(sequence), message.data, int(timestamp), self._delivered, token))

    def _settle(self) -> None:
        """Puts right what is still to come, now that less than a request is open, and asks for more."""
        # Headers written otherwise than nats-py writes them have other lengths: what that adds up to is bounded here.
        limit = 2 * self._size if self._requested > 0 else 0
        if self._promised > limit:
            self._budget.give(self._share, self._promised - limit)
            self._promised = limit
        elif self._promised < 0:
            self._promised = 0
        if self._fed:
            self._most = min(max(2 * BATCH * self._fed_bytes // self._fed, START), MOST)
            if self._fed >= BATCH:
                self._fed = self._fed_bytes = 0
        self._refill()

    def _on_status(self, headers: dict[str, str]) -> None:
        status = headers.get("Status")
        description = (headers.get("Description") or "").strip()
        if status == "100":
            # Deliveries of this consumer that did not come here went to somebody else.
            if int(headers.get("Nats-Last-Consumer", self._delivered)) != self._delivered:
                self._break("somebody else was served")
        elif "Nats-Pending-Messages" in headers and (status in {"404", "408"} or description in _ENDED):
            left = int(headers.get("Nats-Pending-Bytes", 0))
            self._requested -= int(headers["Nats-Pending-Messages"])
            self._promised -= left
            if status == "409" and description.startswith("Message Size"):
                # Larger than what was left; where that was a whole request, a larger one is needed.
                largest = self._connection.client.max_payload + _ENVELOPE
                self._least = max(self._least, min(2 * left, largest) if left < largest else 2 * left)
            elif status == "408":
                self._most = START
                self._fed = self._fed_bytes = 0
            self._budget.give(self._share, left)
            self._settle()
        else:
            self._end(status, description)

    def _end(self, status: str | None, description: str) -> None:
        reason = description or f"status {status}"
        if status == "503" or description in _AT_ONCE:
            self._break(reason)
            return
        # Refused, as where too many requests wait: asked anew at once it would be refused again, over and over.
        self._running = False
        if self._silence is not None:
            self._silence.cancel()
        self._silence = asyncio.get_running_loop().call_later(PATIENCE, self._break, reason)

    def _listen(self) -> None:
        # While it waits for room it has asked for nothing, and the server has no reason to say anything.
        if not self._heard and self._requested > 0:
            self._break("silence")
            return
        self._heard = False
        self._silence = asyncio.get_running_loop().call_later(SILENCE, self._listen)

    def _on_state(self, state: str) -> None:
        # On "disconnected" nothing can be done yet: the flow is broken, and said to be so once a restart can succeed.
        if state == "disconnected":
            self._running = False
        elif state in {"reconnected", "lost"} and self._subscription is not None:
            self._break(state)

    def _break(self, reason: str) -> None:
        self._running = False
        if self._silence is not None:
            self._silence.cancel()
            self._silence = None
        self._broken(reason)


def pull_request(batch: int, size: int = 0, expires: float = EXPIRES) -> bytes:
    """The body of a pull request for so many messages, and so many bytes of them at most (0: any)."""
    return b'{"batch":%d,"max_bytes":%d,"expires":%d,"idle_heartbeat":%d}' % (
        batch,
        size,
        int(expires * _NANO),
        # The server wants less than half of the other.
        int(min(HEARTBEAT, expires * 0.45) * _NANO),
    )


def _length(headers: Mapping[str, str]) -> int:
    """Bytes of the headers as nats-py and the server write them."""
    return 12 + sum(len(name) + len(value) + 4 for name, value in headers.items())
