"""Commands in this process on a bus in memory, and in processes of their own on a real server."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import pytest
import structlog

from sojourn.bus.client import Bus, open_bus
from sojourn.bus.clock import WallClock
from sojourn.bus.memory import MemoryTransport
from sojourn.bus.personal.master import MasterKeys
from sojourn.bus.subjects import Namespace
from sojourn.bus.timers import VirtualTimers
from sojourn.console.cli import run
from tests import forks
from tests.forks import SOJOURN

DEADLINE = 30.0
HEAD = "from decimal import Decimal\nfrom sojourn import Event, Key, Personal, upcast\n"


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """Commands configure the logs of their process: here that is everybody's."""
    root = logging.getLogger()
    handlers, level, raising = root.handlers[:], root.level, logging.raiseExceptions
    yield
    root.handlers[:], logging.raiseExceptions = handlers, raising
    root.setLevel(level)
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, with the shop in it."""
    shutil.copy(Path(__file__).with_name("shop.py"), tmp_path / "shop.py")
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("SOJOURN_")] + ["NO_COLOR", "FORCE_COLOR"]:
        monkeypatch.delenv(name, raising=False)
    before = sys.path[:]
    yield tmp_path
    sys.path[:] = before
    sys.modules.pop("shop", None)


@pytest.fixture
def module(folder: Path) -> Iterator[Callable[[str], str]]:
    """Writes a module of events into the current folder, and returns its name, which no other test has."""
    written: list[str] = []

    def write(code: str) -> str:
        name = f"events_{uuid4().hex}"
        (folder / f"{name}.py").write_text(f"{HEAD}{textwrap.dedent(code)}")
        written.append(name)
        return name

    yield write
    for name in written:
        sys.modules.pop(name, None)


class Ended(NamedTuple):
    status: int
    out: str
    err: str


class Console:
    """Runs commands in this process. They all meet the same bus, in memory; ``connected`` holds what they asked for.

    ``master_keys`` are those that stand beside an embedded server.
    """

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self.transport = MemoryTransport(VirtualTimers())
        self.connected: list[dict[str, Any]] = []
        self.master_keys: MasterKeys | None = None
        self.failure: Exception | None = None

    def __call__(self, *arguments: str) -> Ended:
        status = run(list(arguments))
        out, err = self._capsys.readouterr()
        return Ended(int(status), out, err)

    def make(self, namespace: str = "sojourn") -> None:
        """Makes a namespace with nothing in it."""

        async def work() -> None:
            async with open_bus(self.transport, Namespace(namespace, 4, 2), clock=WallClock()):
                pass

        asyncio.run(work())

    @asynccontextmanager
    async def connect(
        self,
        url: str | None = None,
        *,
        namespace: str = "sojourn",
        master_keys: MasterKeys | None = None,
        frozen: bool = False,
        create: bool = True,
        **rest: Any,
    ) -> AsyncIterator[Bus]:
        self.connected.append(
            {"url": url, "namespace": namespace, "master_keys": master_keys, "frozen": frozen, **rest}
        )
        if self.failure is not None:
            raise self.failure
        async with open_bus(
            self.transport,
            Namespace(namespace, 4, 2),
            clock=WallClock(),
            master_keys=master_keys or self.master_keys,
            frozen=frozen,
            create=create,
        ) as bus:
            yield bus


@pytest.fixture
def console(capsys: pytest.CaptureFixture[str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> Console:
    made = Console(capsys)
    monkeypatch.setattr("sojourn.bus.client.connect", made.connect)
    return made


class Process:
    """A command in a process of its own, with its output in files. ``forked``: it need not import everything first."""

    def __init__(
        self, folder: Path, arguments: tuple[str, ...], environment: dict[str, str], stdin: int, *, forked: bool
    ) -> None:
        number = len(list(folder.glob("out-*")))
        self._out, self._err = folder / f"out-{number}", folder / f"err-{number}"
        environment = {**os.environ, **environment}
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process: subprocess.Popen[bytes] | forks.Fork
            if forked:
                self.process = forks.start(arguments, folder, environment, stdin, out.fileno(), err.fileno())
            else:
                command = [*SOJOURN, *arguments]
                self.process = subprocess.Popen(
                    command, cwd=folder, stdin=stdin, stdout=out, stderr=err, env=environment
                )

    @property
    def out(self) -> str:
        return self._out.read_text()

    @property
    def err(self) -> str:
        return self._err.read_text()

    def until(self, condition: Callable[[Process], bool], seconds: float = DEADLINE) -> Process:
        deadline = time.monotonic() + seconds
        while not condition(self):
            assert time.monotonic() < deadline, f"out: {self.out}\nerr: {self.err}"
            time.sleep(0.02)
        return self

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self, seconds: float = DEADLINE) -> Ended:
        return Ended(self.process.wait(seconds), self.out, self.err)


@pytest.fixture
def start(folder: Path) -> Iterator[Callable[..., Process]]:
    """Starts commands in the folder; whatever still runs at the end is killed."""
    with _starting(folder, forked=True) as start:
        yield start


@pytest.fixture
def start_anew(folder: Path) -> Iterator[Callable[..., Process]]:
    """The same for tests that are about how the program starts, and what it is like before it has."""
    with _starting(folder, forked=False) as start:
        yield start


@contextmanager
def _starting(folder: Path, *, forked: bool) -> Iterator[Callable[..., Process]]:
    started: list[Process] = []

    def start(*arguments: str, stdin: int = subprocess.DEVNULL, **environment: str) -> Process:
        started.append(Process(folder, arguments, environment, stdin, forked=forked))
        return started[-1]

    try:
        yield start
    finally:
        for one in started:
            if one.process.poll() is None:
                one.process.kill()
                one.process.wait()
