"""One user of an embedded server: takes its share of the store, finds or starts the server, watches over it."""

from __future__ import annotations

import asyncio
import fcntl
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from sojourn.bus.embedded.port import who_listens
from sojourn.bus.embedded.process import HOST, parse_info
from sojourn.bus.embedded.start import find_server, start_supervisor
from sojourn.bus.embedded.store import (
    RECORD,
    SUPERVISOR_LOCK,
    SUPERVISOR_LOG,
    USERS_LOCK,
    Failure,
    OtherSchema,
    Record,
    explain,
    open_lock,
    read_record,
    same_file,
    stamp,
    take,
    try_lock,
)
from sojourn.bus.errors import ConfigurationError, SojournError, UnavailableError

_WATCH_EVERY = 0.25
_PATIENCE = 330.0
"""Seconds to wait for a server that somebody else starts: a little more than the supervisor's own patience."""
_STOP_PATIENCE = 30.0
"""Seconds to wait for a server that is stopping."""
_SCHEMA_PATIENCE = 5.0
"""Seconds in which a supervisor that is starting replaces what another version of Sojourn left."""
_MAX_STARTS = 5
"""Supervisors that one user starts anew within a minute, before it leaves a broken machine alone."""


class User:
    """Holds its share of users.lock from `enter` to `leave`."""

    def __init__(self, store: Path, port: int, say: Callable[[str], None]) -> None:
        self._store = store
        self._port = port
        self._say = say
        self._share: int | None = None
        self._record: Record | None = None
        self._stamp: tuple[int, int] | None = None
        self._starts: list[float] = []

    async def enter(self) -> Record:
        """Takes the share, then finds or starts the server. Raises `ConfigurationError` and `UnavailableError`."""
        try:
            self._prepare()
            await self._take_share()
            record = self._record = await self._server()
        except Failure as failure:
            raise self._error(failure) from failure
        except OSError as error:
            raise self._error(explain(error, str(self._store))) from error
        except ValueError as error:
            raise ConfigurationError(f"{str(self._store)!r} cannot be the path of a store: {error}") from error
        if self._port not in (0, record.port):
            raise ConfigurationError(
                f"the server of the store {self._store} runs on port {record.port} already, not on {self._port}: "
                "leave out the port, or end the commands that use it"
            )
        return record

    def leave(self) -> None:
        """Gives the share back; the server ends shortly after the last one was given back."""
        if self._share is not None:
            os.close(self._share)
            self._share = None

    async def watch(self) -> None:
        """Says when the server was restarted; starts a supervisor where it was killed. Ends where that is hopeless."""
        trouble = ""
        while True:
            await asyncio.sleep(_WATCH_EVERY)
            try:
                await self._look()
            except (Failure, SojournError) as error:
                self._say(f"the embedded server is gone: {error}; start this command again once that is mended")
                return
            except OSError as error:
                if trouble != (trouble := str(explain(error, str(self._store)))):
                    self._say(f"the embedded server cannot be watched: {trouble}")

    def _prepare(self) -> None:
        self._store = self._store.absolute()
        self._store.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = self._store.stat()
        if status.st_uid == os.geteuid() and status.st_mode & 0o077:
            self._store.chmod(0o700)
        # The store holds a password and customers' data, which nobody means to commit.
        with suppress(FileExistsError):
            ignore = os.open(self._store / ".gitignore", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(ignore, "w", encoding="utf-8") as file:
                file.write("*\n")

    async def _take_share(self) -> None:
        """Waits while a supervisor, which holds the lock exclusively, stops its server."""
        begun = time.monotonic()
        while True:
            self._share = open_lock(self._store / USERS_LOCK)
            while not take(self._share, fcntl.LOCK_SH):
                if time.monotonic() - begun > _STOP_PATIENCE:
                    message = f"the last server of {self._store} does not stop: see {SUPERVISOR_LOG} there"
                    raise UnavailableError(message)
                await asyncio.sleep(0.01)
            if same_file(self._share, self._store / USERS_LOCK):
                return
            self.leave()
            self._prepare()

    async def _server(self) -> Record:
        """The record of a server that answers; starts one where nobody else does. Raises as `enter`, and `OSError`."""
        begun = told = time.monotonic()
        while True:
            lock = try_lock(self._store / SUPERVISOR_LOCK)
            if lock is not None:
                await self._start(lock, self._port)
            waited = time.monotonic() - begun
            try:
                record = read_record(self._store / RECORD)
            except OtherSchema as error:
                # Or one that is left over, and that the supervisor which is starting replaces in a moment.
                if waited > _SCHEMA_PATIENCE:
                    message = f"another version of Sojourn runs the server of {self._store} ({error}): end its commands"
                    raise ConfigurationError(message) from error
                record = None
            if record is not None and record.failed is None and await _answers(record):
                return record
            if waited > _PATIENCE:
                raise UnavailableError(
                    f"the server of {self._store} does not come up: see {SUPERVISOR_LOG} there, and end the process "
                    f"that holds {SUPERVISOR_LOCK}"
                )
            if time.monotonic() - told > 5:
                told = time.monotonic()
                self._say(f"waiting for the server of {self._store} to come up ({waited:.0f} s)")
            await asyncio.sleep(0.01)

    async def _start(self, lock: int, port: int) -> None:
        def waiting(seconds: float) -> None:
            self._say(f"waiting for nats-server to recover {self._store} ({seconds:.0f} s)")

        try:
            binary = find_server()
        except BaseException:
            os.close(lock)
            raise
        await start_supervisor(self._store, binary, port, lock, waiting)

    def _error(self, failure: Failure) -> SojournError:
        if failure.kind == "port" and self._port:
            return ConfigurationError(
                f"port {self._port} of {HOST} is in use by {who_listens(self._port)}: choose another port, or use that "
                "server with --server URL if it is the right one"
            )
        return ConfigurationError(str(failure)) if failure.kind == "configuration" else UnavailableError(str(failure))

    async def _look(self) -> None:
        known = self._record
        if known is None or self._share is None:
            return
        if not same_file(self._share, self._store / USERS_LOCK):
            raise UnavailableError(f"its store {self._store} was deleted or replaced")
        lock = try_lock(self._store / SUPERVISOR_LOCK)
        if lock is not None:
            await self._replace_supervisor(lock)
        current = stamp(self._store / RECORD)
        if current == self._stamp:
            return
        with suppress(OtherSchema):
            record = read_record(self._store / RECORD)
            if record is None or record.failed is not None:
                # Damaged: its supervisor writes it anew. Given up: its lock becomes free in a moment.
                return
            self._stamp, self._record = current, record
            if record.server_pid != known.server_pid:
                old, new = known.server_pid, record.server_pid
                self._say(f"the embedded server (pid {old}) died; restarted as pid {new}")
            if record.url != known.url:
                self._say(f"the embedded server had to move from {known.url} to {record.url}; start this command again")

    async def _replace_supervisor(self, lock: int) -> None:
        """Starts a supervisor in place of one that was killed, unless it, or a machine that kills, has given up."""
        try:
            record = read_record(self._store / RECORD)
        except OtherSchema:
            record = None
        now = time.monotonic()
        self._starts = [moment for moment in self._starts if now - moment < 60] + [now]
        reason = record.failed if record is not None else None
        if reason is None and len(self._starts) > _MAX_STARTS:
            reason = f"its supervisor was killed {len(self._starts)} times within a minute"
        if reason is not None:
            os.close(lock)
            raise UnavailableError(reason)
        await self._start(lock, port=0)


async def _answers(record: Record) -> bool:
    """Whether the recorded server, and not somebody else, answers at its address."""
    try:
        async with asyncio.timeout(1):
            reader, writer = await asyncio.open_connection(HOST, record.port)
            try:
                info = parse_info(await reader.readline())
            finally:
                writer.close()
                with suppress(OSError):
                    await writer.wait_closed()
    except (OSError, TimeoutError, ValueError):
        return False
    return info is not None and info.get("server_name") == record.name
