"""Storing and reading messages of streams over NATS: pipelined publishes, atomic batches, direct reads."""

from __future__ import annotations

import asyncio
import base64
import json
import uuid
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from datetime import datetime
from functools import partial
from typing import Any

from nats.aio.msg import Msg

from sojourn.bus.appends import check_append, check_batch
from sojourn.bus.errors import DuplicateError, PermissionDenied, SojournError, TimedOutError, UnavailableError
from sojourn.bus.grammar import check_name
from sojourn.bus.nats.connection import Connection, resolving
from sojourn.bus.nats.faults import NO_MESSAGE, RefusedError, answer, meaning
from sojourn.bus.nats.follow import follow
from sojourn.bus.nats.sizes import check_size
from sojourn.bus.nats.times import nanoseconds
from sojourn.bus.ports import Ahead, Append, Receipt, Stored
from sojourn.bus.timers import Timers

Done = Callable[[Receipt | Exception], None]

_PAGE = 1_000
"""Messages asked for by one direct read."""
_BATCH_HEADERS = 120
"""Bytes that the three headers of a batch's member take at most."""


class NatsLog:
    """`sojourn.bus.ports.Log` over JetStream."""

    def __init__(self, connection: Connection, timers: Timers) -> None:
        self._connection = connection
        self._timers = timers

    @property
    def max_payload(self) -> int:
        """The largest message (payload and headers together) that the server takes, in bytes."""
        return self._connection.client.max_payload

    def send(self, stream: str, append: Append, done: Done) -> None:
        """Stores one message, pipelined. See `sojourn.bus.ports.Log.send`."""
        connection = self._connection
        try:
            connection.check_open()
            headers = self._headers(append)
        except SojournError as error:
            asyncio.get_running_loop().call_soon(done, error)
            return
        inbox = connection.expect(partial(self._sent, stream, append, done), (append.subject,))
        connection.post(append.subject, append.payload, inbox, headers or None)

    def _sent(self, stream: str, append: Append, done: Done, outcome: Msg | SojournError) -> None:
        if isinstance(outcome, SojournError):
            done(outcome)
            return
        try:
            ack = answer(outcome)
            receipt = Receipt(ack["seq"], ack.get("duplicate", False))
            if not receipt.duplicate:
                self._timers.stored(stream, (append,))
        except RefusedError as error:
            done(meaning(error, stream, (append,)))
        except SojournError as error:
            done(error)
        else:
            done(receipt)

    async def commit(self, stream: str, appends: Sequence[Append]) -> list[int]:
        """Stores all messages or none. See `sojourn.bus.ports.Log.commit`."""
        check_batch(appends)
        self._connection.check_open()
        if len(appends) == 1:
            return [await self._commit_one(stream, appends[0])]
        members = [self._headers(append, _BATCH_HEADERS) for append in appends]
        batch = uuid.uuid4().hex
        # The first answer says whether the batch could be opened (too many open ones: 10210), the last one the rest.
        # Neither is waited for before the next member leaves.
        future: asyncio.Future[Msg] = asyncio.get_running_loop().create_future()
        subjects = {append.subject for append in appends}
        opened = self._connection.expect(partial(_opened, future), subjects)
        closed = self._connection.expect(resolving(future))
        last = len(appends)
        for number, (append, headers) in enumerate(zip(appends, members, strict=True), 1):
            headers["Nats-Batch-Id"] = batch
            headers["Nats-Batch-Sequence"] = str(number)
            if number == last:
                headers["Nats-Batch-Commit"] = "1"
            inbox = opened if number == 1 else closed if number == last else ""
            self._connection.post(append.subject, append.payload, inbox, headers)
        try:
            ack = answer(await future)
        except RefusedError as error:
            raise meaning(error, stream, appends) from error
        except (UnavailableError, PermissionDenied):
            self._abandon(appends[0].subject, batch)
            raise
        finally:
            self._connection.forget(opened)
            self._connection.forget(closed)
        self._timers.stored(stream, appends)
        return list(range(ack["seq"] - last + 1, ack["seq"] + 1))

    async def _commit_one(self, stream: str, append: Append) -> int:
        future: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()

        def done(outcome: Receipt | Exception) -> None:
            if future.done():
                return
            if isinstance(outcome, Exception):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)

        self.send(stream, append, done)
        receipt = await future
        if receipt.duplicate:
            raise DuplicateError(
                f"{stream}: message id {append.message_id} is stored at {receipt.sequence}", sequence=receipt.sequence
            )
        return receipt.sequence

    def _abandon(self, subject: str, batch: str) -> None:
        """Closes a batch whose last member reached no stream: a number out of turn makes the server drop it, where it
        would otherwise count as open for 10 s. Source: nats-server 2.15.1, error 10176."""
        if self._connection.client.is_connected:
            headers = {"Nats-Batch-Id": batch, "Nats-Batch-Sequence": "1001", "Nats-Batch-Commit": "1"}
            self._connection.post(subject, b"", "", headers)

    def _headers(self, append: Append, room: int = 0) -> dict[str, str]:
        check_append(append)
        headers = self._timers.headers(append)
        if append.message_id is not None:
            headers["Nats-Msg-Id"] = append.message_id
        if append.expect is not None:
            headers["Nats-Expected-Last-Subject-Sequence"] = str(append.expect.sequence)
            headers["Nats-Expected-Last-Subject-Sequence-Subject"] = append.expect.filter
        check_size(append.subject, append.payload, headers, self.max_payload - room)
        return headers

    async def last(self, stream: str, filter: str) -> Stored | None:
        """The newest message matching ``filter``, from the leader. See `sojourn.bus.ports.Log.last`."""
        return await self._message(stream, {"last_by_subj": filter})

    async def get(self, stream: str, sequence: int) -> Stored | None:
        """The message with that sequence, from the leader, or None."""
        return await self._message(stream, {"seq": sequence}) if sequence > 0 else None

    async def _message(self, stream: str, query: dict[str, Any]) -> Stored | None:
        try:
            found = (await self._connection.request(f"STREAM.MSG.GET.{check_name(stream)}", query))["message"]
        except RefusedError as error:
            if error.code == NO_MESSAGE:
                return None
            raise meaning(error, stream) from error
        return Stored(
            found["subject"], found["seq"], base64.b64decode(found.get("data", "")), nanoseconds(found["time"])
        )

    async def read(self, stream: str, filter: str, start: int = 1, limit: int = 0, size: int = 0) -> list[Stored]:
        """Messages matching ``filter`` from ``start`` on, page by page. See `sojourn.bus.ports.Log.read`.

        On a replicated stream any replica may answer; `last` and `get` ask the leader."""
        found: list[Stored] = []
        start = max(start, 1)
        left = size
        while True:
            page = min(_PAGE, limit - len(found)) if limit else _PAGE
            messages, pending = await self._page(stream, filter, start, page, left)
            found += messages
            if size:
                # The server ends with the message that reaches the size, too, but counts subjects and headers.
                left -= sum(len(message.payload) for message in messages)
            # A page may end early (the server also bounds its bytes): only what is pending tells the end.
            if pending == 0 or not messages or (limit and len(found) >= limit) or (size and left <= 0):
                return found
            start = messages[-1].sequence + 1

    async def ahead(self, stream: str, filter: str, start: int = 1) -> Ahead:
        """How many messages match ``filter`` from ``start`` on, and the first. See `sojourn.bus.ports.Log.ahead`."""
        messages, pending = await self._page(stream, filter, max(start, 1), 1)
        return Ahead(len(messages) + pending, messages[0] if messages else None)

    async def _page(self, stream: str, filter: str, start: int, limit: int, size: int = 0) -> tuple[list[Stored], int]:
        connection = self._connection
        connection.check_open()
        messages: list[Stored] = []
        future: asyncio.Future[Msg] = asyncio.get_running_loop().create_future()

        def reply(outcome: Msg | SojournError) -> None:
            # Not by "Status": a stored message may carry a header of that name.
            if isinstance(outcome, SojournError) or "Nats-Sequence" not in (headers := outcome.headers or {}):
                resolving(future)(outcome)
                return
            messages.append(
                Stored(
                    headers["Nats-Subject"],
                    int(headers["Nats-Sequence"]),
                    outcome.data,
                    nanoseconds(headers["Nats-Time-Stamp"]),
                )
            )

        subject = f"$JS.API.DIRECT.GET.{check_name(stream)}"
        inbox = connection.expect(reply, (subject,), many=True)
        query = {"seq": start, "batch": limit, "next_by_subj": filter}
        if size:
            query["max_bytes"] = size
        connection.post(subject, json.dumps(query).encode(), inbox)
        try:
            end = (await future).headers or {}
        finally:
            connection.forget(inbox)
        status = end.get("Status")
        if status == "204":
            return messages, int(end.get("Nats-Num-Pending", 0))
        if status == "404":
            return messages, 0
        if status == "503":
            await self._find(stream)
            raise UnavailableError(f"nobody answers for stream {stream}: not started yet")
        raise TimedOutError(f"reading {filter} of stream {stream}: {status} {end.get('Description', '')}")

    async def _find(self, stream: str) -> None:
        try:
            await self._connection.request(f"STREAM.INFO.{stream}")
        except RefusedError as error:
            raise meaning(error, stream) from error

    async def follow(
        self, stream: str, filter: str, *, start: int | datetime = 1, end: int | None = None
    ) -> AsyncGenerator[list[Stored], None]:
        """Messages as they come, without gaps or repetition. See `sojourn.bus.ports.Log.follow`."""
        async with aclosing(follow(self._connection, stream, filter, start=start, end=end)) as batches:
            async for batch in batches:
                yield [received.stored for received in batch]


def _opened(future: asyncio.Future[Msg], outcome: Msg | SojournError) -> None:
    """Takes the answer to a batch's first member: an empty one is good, any other says why the batch failed."""
    if isinstance(outcome, SojournError) or outcome.data or outcome.headers:
        resolving(future)(outcome)
