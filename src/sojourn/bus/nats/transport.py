"""Connecting to NATS, and the transport made of it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from itertools import count
from typing import Any

from nats.errors import Error as NatsError

from sojourn.bus.errors import ConfigurationError, PermissionDenied, SojournError, UnavailableError
from sojourn.bus.nats.bucket import NatsBucket, open_bucket
from sojourn.bus.nats.client import NatsClient
from sojourn.bus.nats.connection import Connection
from sojourn.bus.nats.faults import RefusedError
from sojourn.bus.nats.log import NatsLog
from sojourn.bus.nats.pull import NatsConsumers
from sojourn.bus.nats.streams import NatsStreams
from sojourn.bus.timers import Timers

OLDEST = (2, 14)
"""The oldest nats-server that has all it takes: atomic batches (2.12), schedules and consumer resets (2.14)."""

_CONNECT = 2
_RESETS = 3
"""Seconds for one attempt to connect to one server."""

_PING = 8
"""Seconds between pings. The third without an answer ends the connection: a dead peer is left within 24."""


class NatsTransport(NatsLog, NatsConsumers, NatsStreams):
    """`sojourn.bus.ports.Transport` on a NATS JetStream server or cluster; made by `connect_nats`."""

    def __init__(self, connection: Connection, timers: Timers) -> None:
        super().__init__(connection, timers)
        self._buckets: dict[str, NatsBucket] = {}

    @property
    def server_version(self) -> str:
        """The version of the server now connected to, such as "2.15.1"."""
        version = self._connection.client.connected_server_version
        return f"{version.major}.{version.minor}.{version.patch}"

    async def bucket(self, name: str, *, erasable: bool = False) -> NatsBucket:
        """The bucket of that name, created where it is missing. See `sojourn.bus.ports.Transport.bucket`."""
        bucket = self._buckets.get(name)
        if bucket is None or (erasable and not bucket.erasable):
            bucket = await open_bucket(self._connection, self, self, name, erasable=erasable)
            self._buckets[name] = bucket
        return bucket

    async def close(self) -> None:
        """Sends what is buffered and disconnects. See `sojourn.bus.ports.Transport.close`."""
        await self._connection.close()


async def connect_nats(
    servers: str | Sequence[str],
    *,
    timers: Timers,
    name: str = "sojourn",
    user: str | None = None,
    password: str | None = None,
    token: str | None = None,
    creds: str | None = None,
    answer_timeout: float = 10.0,
    on_state: Callable[[str], None] | None = None,
) -> NatsTransport:
    """Connects, and from then on reconnects for ever.

    ``servers``: one address or several, with commas or as a sequence. ``creds``: path of a credentials file.
    ``answer_timeout``: seconds until an answer counts as lost. ``on_state`` is told "disconnected", "reconnected",
    "lost" (thrown out for good) and "closed", for people to read.

    The first connection fails fast: `UnavailableError` where no server answers, `PermissionDenied` where it refuses
    the credentials, `ConfigurationError` where it is older than 2.14 or lacks JetStream.
    """
    if creds is not None and not os.path.isfile(creds):
        raise ConfigurationError(f"there is no credentials file {creds}; check --creds")
    if creds is not None and find_spec("nkeys") is None:
        raise ConfigurationError(
            f"the credentials file {creds} needs the package nkeys, which is missing: pip install 'nats-py[nkeys]'"
        )
    listed = servers.split(",") if isinstance(servers, str) else servers
    addresses = [address.strip() for address in listed if address.strip()]
    if not addresses:
        raise ConfigurationError("no server is named; give one such as nats://host:4222")
    guard = _Guard()
    options: dict[str, Any] = {
        "servers": addresses,
        "name": name,
        "user": user,
        "password": password,
        "token": token,
        "user_credentials": creds,
        # A second try for each server, then `connect` gives up; afterwards for ever.
        "max_reconnect_attempts": 1,
        "reconnect_time_wait": 0.2,
        "connect_timeout": _CONNECT,
        "ping_interval": _PING,
        "max_outstanding_pings": 2,
        "pending_size": 64 * 1024 * 1024,
        # Every subject is checked before it comes here (`sojourn.bus.grammar`).
        "skip_subject_validation": True,
        "error_cb": guard.on_error,
        "disconnected_cb": guard.on_disconnected,
        "reconnected_cb": guard.on_reconnected,
        "closed_cb": guard.on_closed,
    }
    client = await _connect(options, addresses, guard)
    client.options["max_reconnect_attempts"] = -1
    connection = guard.connection = Connection(client, timeout=answer_timeout)
    try:
        await connection.open()
        await _check_server(connection)
    except BaseException:
        await connection.close(flush=False)
        raise
    if on_state is not None:
        connection.watchers[on_state] = on_state
    return NatsTransport(connection, timers)


async def _connect(options: dict[str, Any], addresses: list[str], guard: _Guard) -> NatsClient:
    for resets in count(1):
        client = NatsClient()
        try:
            async with asyncio.timeout(2 * (_CONNECT + 1) * len(addresses)):
                await client.connect(**options)
        except (NatsError, OSError, TimeoutError, ValueError) as error:
            await client.close()
            # A server that refuses the credentials says why and closes; the reset may overtake what it said.
            if resets > _RESETS or not isinstance(guard.last, ConnectionResetError):
                raise _unreachable(addresses, guard.last or error) from error
        else:
            return client
    raise AssertionError  # count() has no end


class _Guard:
    """Takes nats-py's callbacks while there is no `Connection` yet, and hands them on once there is."""

    def __init__(self) -> None:
        self.connection: Connection | None = None
        self.last: Exception | None = None

    async def on_error(self, error: Exception) -> None:
        # While connecting: a reset says less than what came before it.
        if self.last is None or not isinstance(error, ConnectionResetError):
            self.last = error
        if self.connection is not None:
            await self.connection.on_error(error)

    async def on_disconnected(self) -> None:
        if self.connection is not None:
            await self.connection.on_disconnected()

    async def on_reconnected(self) -> None:
        if self.connection is not None:
            await self.connection.on_reconnected()

    async def on_closed(self) -> None:
        if self.connection is not None:
            await self.connection.on_closed()


def _unreachable(addresses: list[str], error: Exception) -> SojournError:
    where = ", ".join(addresses)
    if isinstance(error, OSError) and error.errno is not None and error.errno > 0:
        reason = os.strerror(error.errno).lower()
    else:
        reason = str(error).removeprefix("nats: ") or "no answer in time"
    if "authorization" in reason.lower() or "authentication" in reason.lower():
        return PermissionDenied(
            f"the NATS server at {where} refused the credentials; check user, password, token or creds"
        )
    return UnavailableError(f"no NATS server answers at {where} ({reason}); start one, or name another with --server")


async def _check_server(connection: Connection) -> None:
    client = connection.client
    version = client.connected_server_version
    found = f"nats-server {version.major}.{version.minor}.{version.patch}"
    if (version.major, version.minor) < OLDEST:
        raise ConfigurationError(
            f"{found} is too old: Sojourn needs {OLDEST[0]}.{OLDEST[1]} or newer; upgrade the server"
        )
    # nats-py keeps what the server says of itself to itself; JetStream without headers would refuse every append.
    if not client._server_info.get("headers", False):  # noqa: SLF001
        raise ConfigurationError(
            f"{found} has message headers switched off; remove no_header_support from its settings"
        )
    try:
        await connection.request("INFO")
    except UnavailableError as error:
        connection.check_open()
        raise ConfigurationError(f"{found} runs without JetStream; start it with -js or a jetstream block") from error
    except RefusedError as error:
        raise ConfigurationError(
            f"{found} has no JetStream for this account ({error.description}); enable it"
        ) from error
