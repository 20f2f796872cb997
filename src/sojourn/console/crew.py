"""``sojourn run --workers N``: worker processes that are kept running, and that leave together."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from time import monotonic
from typing import IO

import structlog

from sojourn.bus.errors import SojournError
from sojourn.console.failures import Status, say
from sojourn.console.terminal import Span, paint, wants_colour

log = structlog.get_logger("sojourn.run")

FIRST_PAUSE = 0.2
"""Seconds before a worker that ended is started again; twice as long each time, up to `LONGEST_PAUSE`."""
LONGEST_PAUSE = 10.0
PROVEN = 60.0
"""Seconds after which a worker counts as sound: the next pause is a short one again."""

HOPELESS = 3
"""So many starts in a row that ended before any worker ran, for a reason that another start does not mend, end all."""

GRACE = 0.5
"""Seconds beyond those that a worker gives itself to leave, after which it is killed."""

_UNMENDED = frozenset({Status.FAILED, Status.USAGE, Status.NOT_FOUND, Status.DENIED})
_IN_ORDER = frozenset({Status.DONE, Status.INTERRUPTED, Status.TERMINATED, -signal.SIGINT, -signal.SIGTERM})
_FLUSH = 0.5


class CrewFailed(SojournError):
    """The workers ended, and not in order. ``status``: the exit status of one of them."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Child:
    """One worker process: its end of the lifeline, and what it writes to standard error, line by line with its name."""

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str], *, text: bool) -> None:
        """Raises `OSError` where no process can be started."""
        self.name = name
        self.ready = False
        self.status: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._loop = asyncio.get_running_loop()
        self._text = text
        self._lifeline, theirs = socket.socketpair()
        try:
            self._process = subprocess.Popen(
                [*command, "--name", name, "--lifeline", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=[theirs.fileno()],
                env=environment,
                # A terminal's Ctrl-C goes to its parent, which says when and how often.
                start_new_session=True,
            )
        except BaseException:
            self._lifeline.close()
            raise
        finally:
            theirs.close()
        assert self._process.stderr is not None
        self._relay = self._thread("relay", self._pass_on, self._process.stderr)
        self._thread("ready", self._listen)
        self._thread("wait", self._wait)

    @property
    def pid(self) -> int:
        return self._process.pid

    def release(self) -> None:
        """Has it drain and leave."""
        with contextlib.suppress(OSError):
            self._lifeline.shutdown(socket.SHUT_WR)

    def kill(self) -> None:
        self._process.kill()

    def flush(self, seconds: float) -> None:
        """Waits until what it wrote is passed on; something that it started may hold the pipe for ever."""
        self._relay.join(seconds)

    def _thread(self, what: str, target: Callable[..., None], *arguments: object) -> threading.Thread:
        thread = threading.Thread(target=target, args=arguments, name=f"{self.name}-{what}", daemon=True)
        thread.start()
        return thread

    def _pass_on(self, stream: IO[bytes]) -> None:
        with stream:
            for line in stream:
                say(labelled(self.name, line.decode("utf-8", "backslashreplace"), text=self._text))

    def _listen(self) -> None:
        with contextlib.suppress(OSError):
            if self._lifeline.recv(1):
                self.ready = True

    def _wait(self) -> None:
        status = self._process.wait()
        self._lifeline.close()
        with contextlib.suppress(RuntimeError):  # the loop has closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._ended, status)

    def _ended(self, status: int) -> None:
        if not self.status.done():
            self.status.set_result(status)


def labelled(name: str, line: str, *, text: bool) -> str:
    """A line of a worker's with its name: before it, or as a field of a JSON document."""
    line = line.rstrip("\r\n")
    if text:
        label = paint([Span(name, "2")], colour=wants_colour(sys.stderr))
        return f"{label} {line}\n"
    if line.startswith('{"') and line.endswith("}"):
        return f'{{"worker": {json.dumps(name)}, {line[1:]}\n' if '"worker": ' not in line else f"{line}\n"
    return json.dumps({"worker": name, "event": line}) + "\n"


class Crew:
    """Keeps a worker running for each name until `stop`, and ends when all have left."""

    def __init__(
        self, names: Sequence[str], command: Sequence[str], environment: Mapping[str, str], *, text: bool
    ) -> None:
        self._names = names
        self._command = command
        self._environment = environment
        self._text = text
        self._children: dict[str, Child] = {}
        self._stopping = asyncio.Event()
        self._fruitless = 0
        self._failure: CrewFailed | None = None

    async def run(self, seconds: float) -> None:
        """Returns once every worker has left. They have so many ``seconds`` for that; whatever is left of them then is
        killed.

        Raises `CrewFailed` where none of them could be run, or one did not leave in order.
        """
        try:
            async with asyncio.TaskGroup() as tasks:
                for name in self._names:
                    tasks.create_task(self._keep(name))
                await self._stopping.wait()
                log.info("stopping: workers finish what they have begun", workers=list(self._children))
                left = [child.status for child in self._children.values()]
                if left:
                    await asyncio.wait(left, timeout=seconds + GRACE)
                self.kill()
        finally:
            # Also where this is cancelled: then they drain behind its back.
            self._release()
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """Has all workers drain and leave."""
        self._stopping.set()
        self._release()

    def kill(self) -> None:
        """Ends all workers at once; what they had begun comes again, to others."""
        for child in list(self._children.values()):
            child.kill()

    def _release(self) -> None:
        for child in self._children.values():
            child.release()

    async def _keep(self, name: str) -> None:
        pause = FIRST_PAUSE
        while not self._stopping.is_set():
            begun = monotonic()
            try:
                child = self._children[name] = Child(name, self._command, self._environment, text=self._text)
            except OSError as error:
                log.warning("a worker could not be started", worker=name, reason=str(error), again_in=pause)
            else:
                status = await child.status
                del self._children[name]
                child.flush(_FLUSH)
                if self._stopping.is_set():
                    self._left(child, status)
                    return
                if self._hopeless(child, status):
                    return
                if monotonic() - begun >= PROVEN:
                    pause = FIRST_PAUSE
                log.warning(
                    "a worker ended, starting it again", worker=name, pid=child.pid, ended=_said(status), again_in=pause
                )
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._stopping.wait()
            pause = min(2 * pause, LONGEST_PAUSE)

    def _hopeless(self, child: Child, status: int) -> bool:
        """Whether starting workers again is of no use; then all end."""
        if child.ready or any(other.ready for other in self._children.values()):
            self._fruitless = 0
        elif status in _UNMENDED:
            self._fruitless += 1
        if self._fruitless < HOPELESS:
            return False
        if self._failure is None:
            self._failure = CrewFailed("no worker could be started: what they said is above", status)
        self.stop()
        return True

    def _left(self, child: Child, status: int) -> None:
        # One that never came to run, and failed at that, had begun nothing.
        if status not in _IN_ORDER and (child.ready or status < 0) and self._failure is None:
            what = f"worker {child.name} did not leave in order ({_said(status)})"
            self._failure = CrewFailed(
                f"{what}; what it had begun comes again, to others", status if status > 0 else Status.FAILED
            )


def _said(status: int) -> str:
    return f"signal {-status}" if status < 0 else f"exit status {status}"
