"""A real nats-server for tests: a free loopback port, a store of its own, and the means to kill it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path

_DEADLINE = 20.0


class PortTakenError(Exception):
    """Somebody else listens on the port."""


class NatsServer:
    """One nats-server process; after `kill9` or `stop`, `restart` brings it back on the same port and store."""

    def __init__(self, folder: Path, settings: str = "") -> None:
        self._folder = folder
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0
        # Tells it apart from a server that another test started on the port meanwhile.
        self._name = f"test-{uuid.uuid4()}"

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def start(self) -> NatsServer:
        while True:
            self.port = _free_port()
            try:
                return self.restart()
            except PortTakenError:
                self.stop()

    def restart(self) -> NatsServer:
        assert self._process is None, "it is running"
        config = self._folder / "nats.conf"
        config.write_text(
            f"listen: 127.0.0.1:{self.port}\nserver_name: {self._name}\n"
            f'jetstream {{ store_dir: "{self._folder}", sync_interval: always }}\n{self._settings}\n'
        )
        with (self._folder / "nats.log").open("ab") as log:
            self._process = subprocess.Popen([_binary(), "-c", str(config)], stdout=log, stderr=log)
        deadline = time.monotonic() + _DEADLINE
        while not self._answers():
            if self._process.poll() is not None:
                said = (self._folder / "nats.log").read_text()[-2_000:]
                raise PortTakenError(said) if "address already in use" in said else AssertionError(said)
            assert time.monotonic() < deadline, "nats-server did not start"
            time.sleep(0.02)
        return self

    def kill9(self) -> None:
        self._end(kill=True)

    def stop(self) -> None:
        self._end(kill=False)

    def pause(self) -> None:
        """Stops the process without ending its connections: it is there, but silent."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        # The signal is only on its way: on a busy machine a thread of the server may still store something.
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WNOWAIT)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def _end(self, *, kill: bool) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGCONT)
        process.kill() if kill else process.terminate()
        try:
            process.wait(_DEADLINE)
        except subprocess.TimeoutExpired:
            # With hundreds of streams it takes its time to close them all; nobody needs them any more.
            process.kill()
            process.wait(_DEADLINE)

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as client:
                with client.makefile("rb") as lines:
                    verb, _, info = lines.readline().partition(b" ")
                return verb == b"INFO" and json.loads(info)["server_name"] == self._name
        except (OSError, ValueError):
            return False


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _binary() -> str:
    found = shutil.which("nats-server", path=os.pathsep.join((os.path.dirname(sys.executable), os.environ["PATH"])))
    assert found is not None, "nats-server is missing; install the development dependencies"
    return found
