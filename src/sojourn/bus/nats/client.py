"""nats-py's client, without the waits that a dead peer would make endless, and with a quicker parser of headers.

What is overridden here are methods of nats-py 2.16 that are not public. Should it no longer call one of them, then its
own way counts again: slower, or with a dead peer that is left late.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from nats.aio.client import Client, Srv

P = ParamSpec("P")
R = TypeVar("R")


class NatsClient(Client):
    """A connection that leaves a peer at once when it is to be left, whatever was written and not taken."""

    _telling: object = None

    def abort(self) -> None:
        """Leaves the server without a word, so that nothing waits for it any more: neither for it to take what was
        written, nor to write what is kept here. To be closed next."""
        self._pending = []
        self._pending_data_size = 0
        self._leave()

    async def _attempt_reconnect(self) -> None:
        # Otherwise it waits until a peer that is gone has taken what was written to it: for ever.
        self._leave()
        await super()._attempt_reconnect()

    async def _connect_to_server(self, s: Srv) -> None:
        # An attempt that failed half-way leaves its socket to the garbage collector, and perhaps tasks which would read
        # from the next connection together with that one's own.
        self._leave()
        await super()._connect_to_server(s)
        # uvloop raises a RuntimeError where a socket was closed meanwhile, which nats-py takes for the end of the loop:
        # what it was about to do, connecting anew for one, it would leave undone for ever.
        transport = self._transport
        if transport is not self._telling:
            self._telling = transport
            for name, telling in (("write", _told), ("writelines", _told), ("drain", _told_later)):
                setattr(transport, name, telling(getattr(transport, name)))

    async def _ping_interval(self) -> None:
        try:
            await super()._ping_interval()
        except OSError as error:
            await self._process_op_err(error)

    def _leave(self) -> None:
        for task in (self._reading_task, self._ping_interval_task, self._flusher_task):
            if task is not None:
                task.cancel()
        # There is none before the first connection, nor with websockets, where nats-py has another transport.
        writer = getattr(self._transport, "_io_writer", None)
        if writer is not None:
            writer.transport.abort()

    @staticmethod
    def _parse_header_lines(raw: bytes) -> dict[str, str]:
        # nats-py's own takes a third of the time of a whole delivery.
        headers: dict[str, str] = {}
        for line in raw.decode(errors="replace").split("\r\n"):
            name, colon, value = line.partition(":")
            if colon:
                headers[name.strip()] = value.strip()
        return headers


def _told(write: Callable[P, R]) -> Callable[P, R]:
    @wraps(write)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return write(*args, **kwargs)
        except RuntimeError as error:
            raise ConnectionResetError(str(error)) from error

    return call


def _told_later(drain: Callable[P, Awaitable[R]]) -> Callable[P, Awaitable[R]]:
    @wraps(drain)
    async def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return await drain(*args, **kwargs)
        except RuntimeError as error:
            raise ConnectionResetError(str(error)) from error

    return call
