"""One connection to NATS: ordered writes from synchronous code, numbered replies, one sweeper for all deadlines."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import Any, NamedTuple

import structlog
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError

from sojourn.bus.errors import (
    ClosedError,
    PermanentError,
    PermissionDenied,
    SojournError,
    TimedOutError,
    UnavailableError,
)
from sojourn.bus.nats.client import NatsClient
from sojourn.bus.nats.faults import RefusedError, answer

Reply = Callable[[Msg | SojournError], None]
"""Takes the answer, or why there is none."""

_log = structlog.get_logger(__name__)

_YIELD_EVERY = 256
"""Messages written before the writer lets the loop go on, so that the socket drains while more is encoded."""

_FLUSH = 2.0
"""Seconds that a flush waits at most: it stands between a signal and the end of the process."""


class _Expected(NamedTuple):
    deadline: float
    subjects: Iterable[str]
    reply: Reply
    many: bool


class Connection:
    """Carries messages; knows nothing of streams. Made by `sojourn.bus.nats.connect_nats`.

    Writes leave in the order of `post`. Every reply asked for comes, or an error does: `TimedOutError` after
    ``timeout`` seconds, `UnavailableError` at once when the connection breaks, `ClosedError` when it is closed.
    """

    def __init__(self, client: NatsClient, *, timeout: float) -> None:
        self.client = client
        self.timeout = timeout
        self.watchers: dict[object, Callable[[str], None]] = {}
        """Called with "disconnected", "reconnected", "lost" (for good) or "closed" (by us); keys are their owners'."""
        self._loop = asyncio.get_running_loop()
        self._outbound: deque[tuple[str, bytes, str, dict[str, str] | None]] = deque()
        self._wake = asyncio.Event()
        self._expected: dict[int, _Expected] = {}
        self._next = 0
        self._inbox = client.new_inbox()
        self._inbox_length = len(self._inbox) + 1
        self._sweep: asyncio.TimerHandle | None = None
        self._writer: asyncio.Task[None] | None = None
        self._closed = False

    async def open(self) -> None:
        """Starts the writer and the shared inbox; called once, on a connected client."""
        await self.subscribe(f"{self._inbox}.*", self._on_reply)
        self._writer = self._loop.create_task(self._write(), name="sojourn-nats-writer")

    async def close(self, *, flush: bool = True) -> None:
        """Sends what was posted, then disconnects. Replies still expected get a `ClosedError`."""
        if self._closed:
            return
        if flush:
            with suppress(SojournError):
                await self.flush()
        self._closed = True
        self._fail_all(lambda: ClosedError("the transport was closed before the answer came"))
        if self._sweep is not None:
            self._sweep.cancel()
        if self._writer is not None:
            self._writer.cancel()
            await asyncio.gather(self._writer, return_exceptions=True)
        # What was posted has arrived or never will. Whatever else is kept there would be written to a peer that may be
        # dead (for ever), or to a socket that is closed: an OSError, with uvloop a RuntimeError.
        self.client.abort()
        await self.client.close()
        self._tell("closed")

    @property
    def closed(self) -> bool:
        """True once `close` has begun its end, or the server has thrown the client out for good."""
        return self._closed or self.client.is_closed

    def check_open(self) -> None:
        """Raises `ClosedError` after `close`, `UnavailableError` while there is no connection."""
        if self._closed:
            raise ClosedError("the transport is closed")
        if self.client.is_closed:
            raise UnavailableError(
                f"the NATS server ended the connection for good: {self.client.last_error}; connect anew"
            )
        if not self.client.is_connected:
            raise UnavailableError("not connected to the NATS server; reconnecting")

    def post(self, subject: str, payload: bytes, reply: str = "", headers: dict[str, str] | None = None) -> None:
        """Sends one message, after all posted before. Dropped silently where the connection breaks first."""
        self._outbound.append((subject, payload, reply, headers))
        self._wake.set()

    def expect(self, reply: Reply, subjects: Iterable[str] = (), *, many: bool = False) -> str:
        """The reply subject for one answer (with ``many``: any number, until `forget`), which ``reply`` will be given.

        ``subjects``: what is published with it, so that a permission violation finds its caller."""
        self._next += 1
        self._expected[self._next] = _Expected(self._loop.time() + self.timeout, subjects, reply, many)
        if self._sweep is None:
            self._sweep = self._loop.call_later(min(1.0, self.timeout / 4), self._expire)
        return f"{self._inbox}.{self._next}"

    def forget(self, inbox: str) -> None:
        """Expects no more replies at ``inbox``."""
        self._expected.pop(int(inbox[self._inbox_length :]), None)

    async def request(self, subject: str, document: object = None) -> dict[str, Any]:
        """One question to the JetStream API (``subject`` without its prefix) and its answer.

        Raises `RefusedError`, `TimedOutError`, `UnavailableError`, `PermissionDenied`, `ClosedError`."""
        self.check_open()
        future: asyncio.Future[Msg] = self._loop.create_future()
        subject = f"$JS.API.{subject}"
        inbox = self.expect(resolving(future), (subject,))
        try:
            self.post(subject, b"" if document is None else json.dumps(document).encode(), inbox)
            return answer(await future)
        finally:
            self.forget(inbox)

    async def subscribe(self, subject: str, callback: Callable[[Msg], Awaitable[None]]) -> Subscription:
        """A subscription without limits: what fills it is bounded by what was asked for. Raises as `check_open`."""
        self.check_open()
        try:
            return await self.client.subscribe(subject, cb=callback, pending_msgs_limit=0, pending_bytes_limit=0)
        except (NatsError, OSError) as error:
            raise UnavailableError(f"cannot subscribe: {error}") from error

    async def unsubscribe(self, subscription: Subscription) -> None:
        """Ends a subscription; what it received but did not handle yet is dropped."""
        with suppress(NatsError, OSError):  # closed already, here or there
            await subscription.unsubscribe()

    async def flush(self) -> None:
        """Waits until all that was posted has reached the server. Raises `UnavailableError` or `TimedOutError`."""
        # A question, and not nats-py's flush: its PING overtakes what is buffered, and its answer is never given up
        # when the connection breaks (2.16).
        try:
            async with asyncio.timeout(min(_FLUSH, self.timeout)):
                await self.request("INFO")
        except RefusedError:
            return
        except TimeoutError as error:
            raise TimedOutError("the server did not confirm in time what was sent") from error

    # What nats-py tells us.

    async def on_disconnected(self) -> None:
        self._outbound.clear()
        self._fail_all(
            lambda: UnavailableError(
                "the connection to the NATS server broke before the answer; it may be stored or not"
            )
        )
        self._tell("disconnected")

    async def on_reconnected(self) -> None:
        self._tell("reconnected")

    async def on_closed(self) -> None:
        if self._closed:
            return
        reason = self.client.last_error
        self._outbound.clear()
        self._fail_all(lambda: UnavailableError(f"the NATS server ended the connection for good: {reason}"))
        self._tell("lost")

    async def on_error(self, error: Exception) -> None:
        text = str(error)
        if not isinstance(error, NatsError | OSError):
            _log.error("a callback of the transport failed; this is a bug in its owner", exc_info=error)
            return
        if "permissions violation" not in text:
            _log.debug("nats", error=text)
            return
        # nats-py hands the server's text on in small letters: 'permissions violation for publish to "subject"'.
        subject = text.partition('"')[2].rpartition('"')[0]
        for number, expected in list(self._expected.items()):
            if any(one.lower() == subject for one in expected.subjects):
                self._expected.pop(number, None)
                expected.reply(
                    PermissionDenied(
                        f"the server does not allow publishing to {subject}; give the user that permission"
                    )
                )

    # Its own parts.

    async def _write(self) -> None:
        written = 0
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._outbound:
                subject, payload, reply, headers = self._outbound.popleft()
                try:
                    await self.client.publish(subject, payload, reply, headers)
                except (NatsError, OSError) as error:
                    self._lost(reply, UnavailableError(f"not sent: {error}"))
                except ValueError as error:
                    self._lost(reply, PermanentError(f"{subject!r} or a header cannot be encoded: {error}"))
                written += 1
                if written % _YIELD_EVERY == 0:
                    await asyncio.sleep(0)

    def _lost(self, reply: str, error: SojournError) -> None:
        if reply.startswith(self._inbox) and (expected := self._expected.pop(int(reply[self._inbox_length :]), None)):
            expected.reply(error)

    async def _on_reply(self, message: Msg) -> None:
        number = int(message.subject[self._inbox_length :])
        expected = self._expected.get(number)
        if expected is None:
            return
        if not expected.many:
            del self._expected[number]
        expected.reply(message)

    def _expire(self) -> None:
        self._sweep = None
        now = self._loop.time()
        # All deadlines are equally long, so the oldest come first.
        while self._expected and (first := next(iter(self._expected.items())))[1].deadline <= now:
            del self._expected[first[0]]
            first[1].reply(TimedOutError(f"no answer within {self.timeout:g} s; it may be stored or not"))
        if self._expected:
            self._sweep = self._loop.call_later(min(1.0, self.timeout / 4), self._expire)

    def _fail_all(self, error: Callable[[], SojournError]) -> None:
        expected, self._expected = self._expected, {}
        for one in expected.values():
            one.reply(error())

    def _tell(self, state: str) -> None:
        for watcher in list(self.watchers.values()):
            watcher(state)


def resolving(future: asyncio.Future[Msg]) -> Reply:
    """A reply callback that resolves ``future``."""

    def reply(outcome: Msg | SojournError) -> None:
        if future.done():
            return
        if isinstance(outcome, SojournError):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)

    return reply
