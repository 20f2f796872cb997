"""Following a stream: an ephemeral consumer without acks, made anew whenever anything may be missing."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator
from contextlib import suppress
from datetime import datetime
from typing import Any, NamedTuple

from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from sojourn.bus.errors import ClosedError, TransientError
from sojourn.bus.grammar import check_name
from sojourn.bus.nats.connection import Connection
from sojourn.bus.nats.faults import NO_CONSUMER, RefusedError, meaning
from sojourn.bus.nats.pull import SILENCE, pull_request
from sojourn.bus.nats.times import rfc3339
from sojourn.bus.ports import Stored

_BATCH = 256
_INACTIVE = 30 * 1_000_000_000
"""Nanoseconds after which the server drops a consumer that nobody pulls from."""
_RETRY = 0.2
"""Seconds between attempts to make the consumer anew."""
_LOOK = 0.25
"""Seconds between looks at a stream whose end is not reached yet."""


class Received(NamedTuple):
    """A followed message and its headers."""

    stored: Stored
    headers: dict[str, str] | None


async def follow(
    connection: Connection, stream: str, filter: str, *, start: int | datetime = 1, end: int | None = None
) -> AsyncGenerator[list[Received], None]:
    """Messages matching ``filter`` in order, without gaps or repetition; ends after ``end`` was passed or on `close`.

    Raises `NotFoundError` where the stream is not there, `PermissionDenied`, and `UnavailableError` where the server
    has ended the connection for good; everything else that is transient is retried."""
    check_name(stream)
    position = start
    while not (end is not None and isinstance(position, int) and position > end):
        if connection.closed:
            with suppress(ClosedError):  # ended by its owner, not thrown out by the server
                connection.check_open()
            return
        leg = _Leg(connection, stream, filter)
        try:
            await leg.open(position)
            while batch := await leg.take(end):
                received = batch if end is None else [one for one in batch if one.stored.sequence <= end]
                if received:
                    yield received
                position = batch[-1].stored.sequence + 1
                if end is not None and position > end:
                    return
            if leg.finished:
                return
        except ClosedError:
            return
        except TransientError:
            await asyncio.sleep(_RETRY)
        finally:
            await leg.close()


class _Leg:
    """One ephemeral consumer, from its making until a gap, a reconnect or silence ends it."""

    def __init__(self, connection: Connection, stream: str, filter: str) -> None:
        self.finished = False
        self._connection = connection
        self._stream = stream
        self._filter = filter
        self._name = f"follow-{uuid.uuid4().hex}"
        self._inbox = connection.client.new_inbox()
        self._subscription: Subscription | None = None
        self._buffer: list[Received] = []
        self._wake = asyncio.Event()
        self._broken = False
        self._heard = True
        self._requested = 0
        self._delivered = 0
        self._caught_up = False

    async def open(self, position: int | datetime) -> None:
        config: dict[str, Any] = {
            "name": self._name,
            "ack_policy": "none",
            "filter_subject": self._filter,
            "inactive_threshold": _INACTIVE,
            "mem_storage": True,
            "num_replicas": 1,
        }
        if isinstance(position, datetime):
            config |= {"deliver_policy": "by_start_time", "opt_start_time": rfc3339(position)}
        else:
            config |= {"deliver_policy": "by_start_sequence", "opt_start_seq": max(position, 1)}
        connection = self._connection
        connection.watchers[self] = self._on_state
        self._subscription = await connection.subscribe(self._inbox, self._on_message)
        document = {"stream_name": self._stream, "action": "create", "config": config}
        try:
            info = await connection.request(f"CONSUMER.CREATE.{self._stream}.{self._name}", document)
        except RefusedError as error:
            raise meaning(error, self._stream) from error
        self._caught_up = info["num_pending"] == 0
        self._ask()

    async def take(self, end: int | None) -> list[Received]:
        """What has come since the last call, waiting for it; empty where the leg is over."""
        while not self._buffer and not self._broken:
            if end is not None and self._caught_up and await self._passed(end):
                self.finished = True
                break
            try:
                async with asyncio.timeout(SILENCE if end is None or not self._caught_up else _LOOK):
                    await self._wake.wait()
                self._wake.clear()
            except TimeoutError:
                if end is None or not self._caught_up:
                    # With an end, more was promised than came: a new consumer counts anew what is pending.
                    self._broken = end is not None or not self._heard
                    self._heard = False
        batch, self._buffer = self._buffer, []
        if not self._broken:
            self._ask()
        return batch

    async def close(self) -> None:
        connection = self._connection
        connection.watchers.pop(self, None)
        if self._subscription is not None:
            await connection.unsubscribe(self._subscription)
            # Nobody waits for the answer: without it the server drops the consumer by itself.
            connection.post(f"$JS.API.CONSUMER.DELETE.{self._stream}.{self._name}", b"")

    async def _passed(self, end: int) -> bool:
        """True once the stream is beyond ``end`` and this consumer has brought all of it: asked in that order, so that
        nothing pending means nothing up to ``end``."""
        connection = self._connection
        try:
            if (await connection.request(f"STREAM.INFO.{self._stream}"))["state"]["last_seq"] < end:
                return False
            info = await connection.request(f"CONSUMER.INFO.{self._stream}.{self._name}")
        except RefusedError as error:
            if error.code == NO_CONSUMER:
                self._broken = True
                return False
            raise meaning(error, self._stream) from error
        if info["num_pending"] or info["delivered"]["consumer_seq"] != self._delivered:
            self._caught_up = False
            return False
        return not self._buffer

    def _ask(self) -> None:
        while self._requested <= _BATCH:
            self._requested += _BATCH
            self._connection.post(
                f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{self._name}", pull_request(_BATCH), self._inbox
            )

    async def _on_message(self, message: Msg) -> None:
        if self._broken:
            return
        self._heard = True
        if not message.reply:
            self._on_status(message.headers or {})
            return
        parts = message.reply.split(".")
        sequence, consumer_sequence, timestamp, pending = parts[5:9] if len(parts) == 9 else parts[7:11]
        if int(consumer_sequence) != self._delivered + 1:
            self._end()
            return
        self._delivered += 1
        self._requested -= 1
        self._caught_up = pending == "0"
        stored = Stored(message.subject, int(sequence), message.data, int(timestamp))
        self._buffer.append(Received(stored, message.headers))
        self._wake.set()

    def _on_status(self, headers: dict[str, str]) -> None:
        status = headers.get("Status")
        if status == "100":
            if int(headers.get("Nats-Last-Consumer", self._delivered)) != self._delivered:
                self._end()
        elif status in {"404", "408"}:
            self._requested -= int(headers.get("Nats-Pending-Messages", 0))
            self._ask()
        else:
            self._end()

    def _on_state(self, state: str) -> None:
        self._end()

    def _end(self) -> None:
        self._broken = True
        self._wake.set()
