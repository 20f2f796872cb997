"""An open bus for a command, from its options."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeVar

from sojourn.bus.errors import ConfigurationError, NotFoundError
from sojourn.console.failures import note
from sojourn.console.options import Settings

if TYPE_CHECKING:
    from asyncio import TimerHandle

    from sojourn.bus.client import Bus
    from sojourn.bus.personal.master import MasterKeys

T = TypeVar("T")

_SHORT = 0.2
"""Seconds: whoever closes a connection loses it first, which is no news."""


def with_bus(settings: Settings, work: Callable[[Bus], Awaitable[T]], *, create: bool = False) -> T:
    """Runs ``work`` with the bus that a command's options name. Logs are quiet: what matters is said by the command.

    ``create``: for commands that put something into a namespace, which is made where it is missing. Whoever only reads,
    or acts on what is there, makes nothing and gets a `NotFoundError`.
    """
    from sojourn.console import logs
    from sojourn.console.running import run_async

    logs.configure(level="warning")

    async def main() -> T:
        async with open_session(settings, create=create) as bus:
            return await work(bus)

    return run_async(main())


@asynccontextmanager
async def open_session(
    settings: Settings, *, create: bool = True, say: Callable[[str], None] = note
) -> AsyncIterator[Bus]:
    """The bus that a command's options name; ``say`` is told when its server goes, comes back or is started anew.
    ``create`` as for `sojourn.bus.client.connect`."""
    from sojourn.bus.client import connect

    server = settings.server
    async with connect(
        server.url if server is not None else None,
        namespace=settings.namespace,
        store=settings.store,
        user=server.user if server is not None else None,
        password=server.password if server is not None else None,
        creds=settings.creds,
        master_keys=master_keys(settings),
        frozen=settings.frozen,
        create=create,
        say=in_words(say),
    ) as bus:
        yield bus


def master_keys(settings: Settings) -> MasterKeys | None:
    """The master keys that were given, None where none were.

    Raises `ConfigurationError`, and `NotFoundError` where there is no such file.
    """
    given = settings.master_key
    if given.file is None and given.text is None:
        return None
    from sojourn.bus.personal.master import KEY_VARIABLE, MasterKeys

    if given.file is not None:
        try:
            return MasterKeys.from_file(given.file)
        except ConfigurationError as error:
            if given.file.exists():
                raise
            raise NotFoundError(str(error)) from error
    return MasterKeys.from_environment({KEY_VARIABLE: given.text or ""})


def in_words(say: Callable[[str], None]) -> Callable[[str], None]:
    """Passes on what is told of a server, and says for people what a transport tells of its connection."""
    pending: list[TimerHandle] = []

    def lost() -> None:
        pending.clear()
        say("the connection to the server is lost; reconnecting")

    def tell(news: str) -> None:
        waiting = bool(pending)
        while pending:
            pending.pop().cancel()
        match news:
            case "disconnected":
                from asyncio import get_running_loop

                pending.append(get_running_loop().call_later(_SHORT, lost))
            case "closed":
                return
            case "reconnected":
                if waiting:
                    lost()
                say("connected to the server again")
            case "lost":
                say("the server has ended the connection for good")
            case _:
                say(news)

    return tell
