"""Worker processes of the proofs: started, told apart, killed, frozen and ended."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from tests import forks

ROOT = Path(__file__).parents[2]
_PROGRAM = Path(sys.executable).with_name("sojourn")


class WorkerProcess:
    """One ``sojourn run`` with a log file of its own."""

    def __init__(
        self,
        log: Path,
        url: str,
        module: str = "tests.prove.escort",
        *,
        namespace: str = "sojourn",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        arguments = ("run", module, "--server", url, "--namespace", namespace, "--logs", "json")
        environment = {**os.environ, **(environment or {})}
        self.log = log
        self.stopped = False
        self._process: subprocess.Popen[bytes] | forks.Fork
        with log.open("ab") as file:
            if "SOJOURN_PROOF" in os.environ:  # what is kept was found with the program as everybody starts it
                command = (str(_PROGRAM), *arguments)
                self._process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=file, stderr=file)
            else:
                number = file.fileno()
                self._process = forks.start(arguments, ROOT, environment, subprocess.DEVNULL, number, number)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def status(self) -> int | None:
        """How it ended (the number of a signal, negative), or None."""
        return self._process.poll()

    @property
    def running(self) -> bool:
        """Whether it has said that it runs, and has not ended. From then on it drains when it is told to stop."""
        return self.status is None and b'"event": "running"' in self.log.read_bytes()

    def said(self, text: str) -> int:
        """How often something stands in its log."""
        return self.log.read_text().count(text)

    def kill(self) -> None:
        """SIGKILL; nothing where it has ended."""
        self._process.kill()
        self._process.wait(10)

    def stop(self) -> None:
        """SIGSTOP; returns once it stands still."""
        self._process.send_signal(signal.SIGSTOP)
        while not self._stands_still():
            assert self.status is None, f"it ended with {self.status} instead: {self.tail()}"
            time.sleep(0.001)
        self.stopped = True

    def resume(self) -> None:
        self._process.send_signal(signal.SIGCONT)
        self.stopped = False

    def terminate(self) -> None:
        """SIGTERM: it is to hand over and go."""
        self._process.terminate()

    async def ended(self, seconds: float = 15.0) -> int:
        """How it ended, once it has."""
        async with asyncio.timeout(seconds):
            while (status := self.status) is None:  # noqa: ASYNC110 - another process sets no event
                await asyncio.sleep(0.01)
        return status

    async def frozen(self, seconds: float = 15.0) -> None:
        """Waits until it stands still by a SIGSTOP of its own."""
        deadline = time.monotonic() + seconds
        while not self._stands_still():
            assert self.status is None, f"it ended with {self.status} instead: {self.tail()}"
            assert time.monotonic() < deadline, f"it did not stop: {self.tail()}"
            await asyncio.sleep(0.01)
        self.stopped = True

    async def ready(self, seconds: float = 30.0) -> None:
        """Waits until it runs."""
        deadline = time.monotonic() + seconds
        while not self.running:
            assert self.status is None, f"a worker ended by itself with status {self.status}: {self.tail()}"
            assert time.monotonic() < deadline, f"a worker did not start: {self.tail()}"
            await asyncio.sleep(0.02)

    def _stands_still(self) -> bool:
        if isinstance(self._process, subprocess.Popen):
            return os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WNOHANG | os.WNOWAIT) is not None
        return self._process.stopped

    def tail(self) -> str:
        return self.log.read_text()[-2_000:]
