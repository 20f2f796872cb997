"""Keeps one nats-server running for a store, for as long as the store has users. A program of its own.

It uses the standard library only and is run without site packages, so that it starts within some 50 ms and the caller's
``PYTHON*`` settings do not reach it; in a session of its own, so that Ctrl-C at the terminal does not either.

Locks (flock) decide everything, process ids nothing, because ids are reused:

users.lock        shared by every user. The supervisor takes it exclusively, which succeeds only when nobody is left,
                  and keeps it until the server has stopped: whoever holds a share has a server that stays.
supervisor.lock   held by the supervisor for life. The user who starts it takes the lock and bequeaths it, so a start
                  is serialised, and belongs to somebody even if that user is killed in the middle of it.
server.lock       held by the supervisor and, inherited, by nats-server itself: while a server lives, even one whose
                  supervisor was killed, no second one touches the store. Holds the server's process id.

On Linux the kernel kills nats-server together with its supervisor. macOS has nothing like it: there the server of a
killed supervisor goes on until a user notices (within a second, if there is one) or the next one comes; the supervisor
that they start ends it first.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from sojourn.bus.embedded.process import (
    HOST,
    STOP_PATIENCE,
    ServerProcess,
    check_binary,
    check_store,
    is_free,
    is_server,
    server_info,
    write_config,
)
from sojourn.bus.embedded.store import (
    RECORD,
    SCHEMA,
    SERVER_LOCK,
    STORE_FACTS,
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
    write_atomically,
)

GRACE = 0.5
"""Seconds without users before the server stops, so that a series of commands finds it running."""
START_PATIENCE = 300.0
"""Seconds that a server may take to recover its store."""
MAX_CRASHES = 10
CRASH_WINDOW = 60.0
"""More than ``MAX_CRASHES`` within this many seconds, and the supervisor gives up."""
_MAX_KILLED_STARTS = 3
"""How often a server is started that somebody kills before it answers; one that ends by itself is not tried again."""


class _Deserted(Exception):
    """Nobody uses the store any more; users.lock is held exclusively."""


class Supervisor:
    """One supervisor's life, from the start of the server to its end. The store is the working folder."""

    def __init__(self, binary: str, port: int, ready: Callable[[], None]) -> None:
        self._binary = binary
        self._given_port = port
        self._ready = ready
        self._record: Record | None = None
        self._record_stamp: tuple[int, int] | None = None
        self._crashes: list[float] = []
        self._idle_since: float | None = None
        self._told_to_stop = False
        self._users = open_lock(USERS_LOCK)
        self._server_lock = open_lock(SERVER_LOCK)
        self._server = ServerProcess(binary, self._server_lock)
        self._wakeup, wake = os.pipe()
        os.set_blocking(self._wakeup, False)
        os.set_blocking(wake, False)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._signalled)

    def run(self) -> None:
        """Returns when the store has no users any more and the server has stopped. Raises `Failure` and `OSError`."""
        try:
            version = check_binary(self._binary)
            if remark := check_store(version):
                log(remark)
            self._end_orphan()
            self._start_first()
            write_atomically(STORE_FACTS, {"schema": SCHEMA, "server_version": ".".join(map(str, version))})
            self._ready()
            while not self._finished():
                self._keep_alive()
                self._pause(0.25 if self._idle_since is None else 0.05)
        except _Deserted:
            log("the users left while the server was starting")
        finally:
            if self._server.stop():
                log("nats-server did not stop by itself and was killed")
        if same_file(self._users, USERS_LOCK):
            try:
                RECORD.unlink()
            except OSError as error:
                log(f"{RECORD} stays behind: {error}")
        log("stopped")

    def give_up(self, reason: str) -> None:
        """Leaves the reason in server.json for the users who are still there, and the address for the next start."""
        if self._record is not None:
            self._write_record(self._record._replace(failed=reason))

    def _signalled(self, number: int, frame: object) -> None:
        # Where a whole group or service is told to end, the users still have to drain, and need the server for that.
        self._told_to_stop = True
        log(f"{signal.Signals(number).name}: stopping as soon as the last user has left")

    def _pause(self, seconds: float) -> None:
        """Waits, but not beyond the next signal; the end of the server is one."""
        select.select([self._wakeup], [], [], seconds)
        with suppress(BlockingIOError):
            os.read(self._wakeup, 512)

    def _finished(self) -> bool:
        """Whether the server has nobody to serve; if so, users.lock is held, and nobody new comes to rely on it."""
        if not same_file(self._users, USERS_LOCK):
            log("the store was deleted or replaced; stopping its server")
            return True
        if not take(self._users):
            self._idle_since = None
            return False
        now = time.monotonic()
        if self._idle_since is None:
            self._idle_since = now
        if self._told_to_stop or now - self._idle_since >= GRACE:
            return True
        fcntl.flock(self._users, fcntl.LOCK_UN)
        return False

    def _end_orphan(self) -> None:
        """Waits for the server of a killed supervisor to end, and ends it where nobody else does (macOS)."""
        begun = time.monotonic()
        told: signal.Signals | None = None
        while not take(self._server_lock):
            waited = time.monotonic() - begun
            pid = int(os.pread(self._server_lock, 20, 0) or b"0")
            wanted = None if waited < 0.3 else signal.SIGTERM if waited < STOP_PATIENCE else signal.SIGKILL
            if wanted is not None and wanted != told and is_server(pid):
                log(f"nats-server (pid {pid}) has lost its supervisor; ending it with {wanted.name}")
                os.kill(pid, wanted)
                told = wanted
            if waited > 2 * STOP_PATIENCE:
                message = f"process {pid}, the server of an earlier run, holds the store {Path.cwd()}: end it first"
                raise Failure("unavailable", message)
            self._pause(0.01)

    def _start_first(self) -> None:
        try:
            stale = read_record(RECORD)
        except OtherSchema:
            stale = None
        for port in self._ports(stale):
            if not is_free(port):
                continue
            # The users of a killed supervisor come back to the same address with the same credential.
            record = (stale or _new_record())._replace(
                url=f"nats://{HOST}:{port}", supervisor_pid=os.getpid(), failed=None
            )
            write_config(record)
            try:
                record = self._start(record)
            except Failure:
                if is_free(port):
                    raise
                log(f"somebody else took port {port}")
                continue
            self._write_record(record)
            return
        raise Failure("port", f"port {self._given_port} is in use" if self._given_port else "no port is free")

    def _ports(self, stale: Record | None) -> Iterator[int]:
        if self._given_port:
            yield self._given_port
            return
        if stale:
            yield stale.port
        # Below the ports that Linux and macOS give to outgoing connections: a client that keeps trying a dead port of
        # that range can end up connected to itself, and the server would not get its port back.
        for _ in range(100):
            yield 20000 + int.from_bytes(os.urandom(2), "big") % 10000

    def _start(self, record: Record) -> Record:
        """Starts the server, waits until it answers, and returns the record completed.

        Raises `Failure`, `OSError` and `_Deserted`.
        """
        self._server.start()
        begun = time.monotonic()
        starts = 1
        # By the name: somebody else's server may have taken the port in this very moment.
        while (info := server_info(record.port)) is None or info.get("server_name") != record.name:
            self._pause(0.005 if time.monotonic() - begun < 1 else 0.1)
            if end := self._server.end:
                if self._server.killed and starts < _MAX_KILLED_STARTS:
                    log(f"nats-server {end} while it started; starting it again")
                    self._server.start()
                    starts += 1
                    continue
                raise Failure("unavailable", f"nats-server {end} instead of starting{self._server.last_errors()}")
            if take(self._users):
                raise _Deserted
            if time.monotonic() - begun > START_PATIENCE:
                self._server.stop()
                message = f"nats-server did not come up within {START_PATIENCE:.0f} s{self._server.last_errors()}"
                raise Failure("unavailable", message)
        log(f"nats-server {info.get('version')} runs as pid {self._server.pid} at {record.url}")
        return record._replace(
            server_pid=self._server.pid,
            version=str(info.get("version")),
            started=_now(),
        )

    def _write_record(self, record: Record) -> None:
        write_atomically(RECORD, {"schema": SCHEMA, **record._asdict()})
        self._record, self._record_stamp = record, stamp(RECORD)

    def _keep_alive(self) -> None:
        """Restarts a server that has died; repairs a server.json that was damaged."""
        if (record := self._record) is None:
            return
        if end := self._server.end:
            log(f"nats-server (pid {self._server.pid}) {end}")
            record = self._restart(record)
        elif stamp(RECORD) == self._record_stamp:
            return
        else:
            log(f"{RECORD} was changed or removed; writing it anew")
        try:
            self._write_record(record)
        except OSError as error:
            # A full disk is no reason to end a server that runs; the users' connections find it as it is.
            log(f"{RECORD} cannot be written: {error}")
            self._record, self._record_stamp = record, stamp(RECORD)

    def _restart(self, record: Record) -> Record:
        """Starts the server again on the same port, ever more slowly. Raises `Failure` and `_Deserted`."""
        while True:
            now = time.monotonic()
            self._crashes = [moment for moment in self._crashes if now - moment < CRASH_WINDOW] + [now]
            count = len(self._crashes)
            if count > MAX_CRASHES:
                message = f"nats-server died {count} times within a minute{self._server.last_errors()}"
                raise Failure("unavailable", message)
            until = now + (min(1.0, 0.05 * 2 ** (count - 2)) if count > 1 else 0.0)
            while (left := until - time.monotonic()) > 0:
                self._pause(left)
                if take(self._users):
                    raise _Deserted
            try:
                return self._start(record)
            except (Failure, OSError) as error:
                log(str(error))


def _new_record() -> Record:
    """A new credential and name; the rest is filled in as it becomes known."""
    return Record(0, 0, "", "sojourn", os.urandom(24).hex(), f"sojourn-{os.urandom(6).hex()}", "", "")


def log(text: str) -> None:
    """One line for supervisor.log, which is this program's standard error."""
    # On a full disk the server matters more than its log.
    with suppress(OSError):
        sys.stderr.write(f"{_now()} [{os.getpid()}] {text}\n")
        sys.stderr.flush()


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def main(store: str, binary: str, port: str, lock: str, report: str) -> None:
    """The program, in the store as its working folder.

    ``lock`` and ``report`` are inherited descriptors: supervisor.lock, held, and a pipe to the user who starts it. It
    gets one line of JSON: an object that is empty, or has ``kind`` and ``message`` of the failure.
    """
    # A child of init, so that it may outlive the user who starts it and need not be reaped by them.
    if os.fork():
        os._exit(0)
    os.umask(0o077)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    os.set_inheritable(int(lock), False)
    os.set_inheritable(int(report), False)
    pipe = os.fdopen(int(report), "w", encoding="utf-8")

    def tell(outcome: dict[str, str]) -> None:
        try:
            with pipe:
                pipe.write(json.dumps(outcome) + "\n")
        except OSError:
            log("the user who started this has gone")

    supervisor: Supervisor | None = None
    try:
        supervisor = Supervisor(binary, int(port), ready=lambda: tell({}))
        supervisor.run()
    except (Failure, OSError) as error:
        failure = error if isinstance(error, Failure) else explain(error, store)
        log(f"giving up: {failure}")
        if not pipe.closed:
            tell({"kind": failure.kind, "message": str(failure)})
        elif supervisor is not None:
            supervisor.give_up(str(failure))
