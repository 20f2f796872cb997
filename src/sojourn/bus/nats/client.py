"""nats-py's client, without the waits that a dead peer would make endless, and with a quicker parser of headers.

What is overridden here are methods of nats-py 2.16 that are not public. Should it no longer call one of them, then its
own way counts again: slower, or with a dead peer that is left late.
"""

from __future__ import annotations

from nats.aio.client import Client, Srv


class NatsClient(Client):
    """A connection that leaves a peer at once when it is to be left, whatever was written and not taken."""

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
