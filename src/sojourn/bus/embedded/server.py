"""The embedded nats-server: started by the first command that needs it, shared by all, stopped with the last.

A store (the folder ``.sojourn``) has at most one server. Each user holds a share of a lock there for as long as it uses
the server; a supervisor process (`sojourn.bus.embedded.supervisor`, which explains the locks) keeps the server up as
long as somebody does, restarts it on the same port when it dies, and ends with the last user, however that one ends.
Linux and macOS.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from sojourn.bus.embedded.user import User


@dataclass(frozen=True, slots=True)
class ServerAddress:
    """Where a server is, and the credential for it. ``url`` holds no credential."""

    url: str
    user: str | None
    password: str | None


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")


@asynccontextmanager
async def embedded_server(
    store: Path, *, port: int = 0, say: Callable[[str], None] = _say
) -> AsyncIterator[ServerAddress]:
    """The address of the store's server, which answers when this is entered and stays until this is left.

    The server listens on the loopback interface, on ``port`` or a free one (0). ``say`` gets a line when it had to be
    restarted: address, credential and data stay the same, so that clients only have to reconnect.

    Raises `ConfigurationError` (nats-server is missing, broken or too old; the port is taken; the store cannot be used)
    and `UnavailableError` (the disk is full; the server does not come up).
    """
    user = User(store, port, say)
    try:
        record = await user.enter()
        # Not in a TaskGroup: that would wrap the errors of the caller's block in a group.
        watch = asyncio.create_task(user.watch())
        try:
            yield ServerAddress(record.url, record.user, record.password)
        finally:
            watch.cancel()
            await asyncio.wait([watch])
    finally:
        user.leave()
