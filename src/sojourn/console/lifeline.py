"""The connection between `sojourn run --workers` and each of its workers: its end means that the worker is to leave.

The parent closes it to have a worker drain, and the kernel closes it where the parent was killed: no worker lives on
unnoticed. A signal would do neither; and one that a service manager sends to every process would count twice.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

RUNNING = b"r"
"""What a worker says once it runs."""


class Lifeline:
    """A worker's end. Without its parent a worker that has begun nothing yet leaves at once."""

    def __init__(self, descriptor: int) -> None:
        """Raises `OSError` where the descriptor is no socket."""
        os.set_inheritable(descriptor, False)  # what a handler starts is not to hold it
        self._socket = socket.socket(fileno=descriptor)
        self._lock = threading.Lock()
        self._ended = False
        self._stop: Callable[[], None] = _leave
        self._thread = threading.Thread(target=self._watch, name="sojourn-lifeline", daemon=True)
        self._thread.start()

    def running(self) -> None:
        """Tells the parent that this worker runs."""
        with suppress(OSError):
            self._socket.sendall(RUNNING)

    @contextmanager
    def ending(self, stop: Callable[[], None]) -> Iterator[None]:
        """While open, ``stop`` is called, in another thread, when the parent wants this worker to leave or has gone."""
        with self._lock:
            self._stop = stop
            if self._ended:
                stop()
        try:
            yield
        finally:
            with self._lock:
                self._stop = lambda: None  # it is leaving as it is

    def _watch(self) -> None:
        with suppress(OSError), self._socket:
            while self._socket.recv(16):
                pass
        with self._lock:
            self._ended = True
            self._stop()


def _leave() -> None:
    from sojourn.console.running import leave

    leave(128 + signal.SIGTERM)
