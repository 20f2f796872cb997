"""Starts `sojourn` commands in processes of their own without waiting each time until Python has imported everything:
they are forks of one process (`tests.forking`) that has done so once.

A fork has its own memory, streams, folder, environment and signals like any other process, but finds modules already
imported. How the program starts is a matter of tests that start it for real.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

SOJOURN = [sys.executable, "-c", "from sojourn.console.main import main; main()"]
"""The program, started for real."""

POSSIBLE = sys.platform == "linux"
"""Elsewhere, libraries of the system may not be used after a fork."""

_SHIM = """#!{python} -IS
import json, os, signal, socket, sys
caller = socket.socket(socket.AF_UNIX)
caller.connect({socket!r})
request = {{"arguments": sys.argv[1:], "folder": os.getcwd(), "environment": dict(os.environ)}}
socket.send_fds(caller, [json.dumps(request).encode() + b"\\n"], [0, 1, 2])
told = caller.makefile("rb")
pid = int(told.readline())
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda number, _: os.kill(pid, number))
status = int(told.readline())
if status < 0:
    signal.signal(-status, signal.SIG_DFL)
    os.kill(os.getpid(), -status)
os._exit(status)
"""


class Fork:
    """What `subprocess.Popen` is to a process that was started for real."""

    def __init__(
        self,
        arguments: Sequence[str],
        folder: Path,
        environment: Mapping[str, str],
        stdin: int,
        stdout: int,
        stderr: int,
    ) -> None:
        self.returncode: int | None = None
        self._told = socket.socket(socket.AF_UNIX)
        self._told.connect(str(_socket()))
        request = {"arguments": list(arguments), "folder": str(folder), "environment": dict(environment)}
        with open(os.devnull, "rb") as nothing:
            streams = [nothing.fileno() if stdin == subprocess.DEVNULL else stdin, stdout, stderr]
            socket.send_fds(self._told, [json.dumps(request).encode() + b"\n"], streams)
        self.pid = self._number()

    def poll(self) -> int | None:
        if self.returncode is None and select.select([self._told], [], [], 0)[0]:
            self._ended()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            if not select.select([self._told], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(f"sojourn, pid {self.pid}", timeout or 0.0)
            self._ended()
        assert self.returncode is not None
        return self.returncode

    @property
    def stopped(self) -> bool:
        """Whether all of it stands still by a SIGSTOP."""
        try:
            tasks = [task.read_text() for task in Path(f"/proc/{self.pid}/task").glob("*/stat")]
        except OSError:
            return False
        return bool(tasks) and all(task.rpartition(")")[2].split()[0] == "T" for task in tasks)

    def send_signal(self, number: signal.Signals) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _ended(self) -> None:
        self.returncode = self._number()
        self._told.close()

    def _number(self) -> int:
        told = b""
        while not told.endswith(b"\n"):
            part = self._told.recv(1)
            assert part, "the process that starts commands has ended"
            told += part
        return int(told)


def start(
    arguments: Sequence[str], folder: Path, environment: Mapping[str, str], stdin: int, stdout: int, stderr: int
) -> Fork | subprocess.Popen[bytes]:
    """Starts a command; the streams are descriptors."""
    if POSSIBLE:
        return Fork(arguments, folder, environment, stdin, stdout, stderr)
    return subprocess.Popen(
        [*SOJOURN, *arguments], cwd=folder, env=environment, stdin=stdin, stdout=stdout, stderr=stderr
    )


def run(arguments: Sequence[str], folder: Path, *, stdin: bytes = b"") -> subprocess.CompletedProcess[str]:
    """Runs a command to its end, as `subprocess.run` does."""
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        given.write(stdin)
        given.seek(0)
        process = start(arguments, folder, os.environ, given.fileno(), out.fileno(), err.fileno())
        try:
            status = process.wait(60)
        finally:
            process.kill()
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(list(arguments), status, out.read().decode(), err.read().decode())


def shim(folder: Path) -> None:
    """Puts a program ``sojourn`` into a folder, for whoever finds programs by their names, such as a shell."""
    file = folder / "sojourn"
    file.write_text(_SHIM.format(python=sys.executable, socket=str(_socket())))
    file.chmod(0o755)


@functools.cache
def _socket() -> Path:
    """Where the process listens that starts commands; it is started for the first one."""
    folder = tempfile.TemporaryDirectory(prefix="forks-")
    path = Path(folder.name) / "socket"
    program = Path(__file__).with_name("forking.py")
    parent = subprocess.Popen([sys.executable, str(program), str(path)], stdin=subprocess.PIPE, start_new_session=True)
    deadline = time.monotonic() + 60
    while not path.exists():
        assert parent.poll() is None and time.monotonic() < deadline, "the process that starts commands did not start"
        time.sleep(0.01)

    def end() -> None:
        parent.communicate(timeout=10)
        folder.cleanup()

    atexit.register(end)
    return path
