"""The watchdog: notices handlers that block the event loop, says which, and in the end interrupts them.

A handler that blocks (a synchronous HTTP call, an endless loop) stops everything in its process: reading, acks,
leases. A thread looks at the loop's pulse. After a second it names the handler in the log; after ten it interrupts it,
where the loop runs in the main thread, by a signal whose Python handler raises inside the blocked code; the event
becomes a dead letter.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from time import monotonic
from types import FrameType, TracebackType
from typing import Any, Self

import structlog

from sojourn.bus.delivery.runners import Call, Runners
from sojourn.bus.errors import PermanentError

WARN = 1.0
INTERRUPT = 10.0
"""Seconds that a handler may block the loop before it is named, and before it is interrupted."""

_PULSE = 0.25
_SIGNAL = getattr(signal, "SIGURG", None)  # Ignored by default, and used by nothing else here.

log = structlog.get_logger("sojourn.worker")


class HandlerBlocked(PermanentError):
    """A handler kept the event loop from running."""


class Watchdog:
    """Watches the running loop for the length of its block."""

    def __init__(self, runners: Runners, *, warn: float = WARN, interrupt: float = INTERRUPT) -> None:
        self._runners = runners
        self._warn = warn
        self._interrupt = interrupt
        self._loop = asyncio.get_running_loop()
        self._pulse = monotonic()
        self._timer: asyncio.TimerHandle | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="sojourn-watchdog", daemon=True)
        self._target: Call | None = None
        self._previous: Any = None
        self._armed = False

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread() and _SIGNAL is not None:
            self._previous = signal.signal(_SIGNAL, self._raise)
            self._armed = True
        self._beat()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(timeout=1)
        if self._timer is not None:
            self._timer.cancel()
        if self._armed and _SIGNAL is not None:
            signal.signal(_SIGNAL, self._previous)

    def _beat(self) -> None:
        self._pulse = monotonic()
        self._timer = self._loop.call_later(_PULSE, self._beat)

    def _watch(self) -> None:
        pulse = since = 0.0
        seen: Call | None = None
        named = False
        while not self._stop.wait(_PULSE):
            call = self._current()
            # Counted from when this very call was first seen to block: the one before it may have done so for long.
            if call is not seen or pulse != self._pulse:
                pulse, since, seen, named = self._pulse, monotonic(), call, False
            if call is None:
                continue
            blocked = monotonic() - since
            if blocked > self._warn and not named:
                named = True
                log.error(
                    "handler blocks the event loop: make it async, or move the work with asyncio.to_thread",
                    handler=call.label,
                    seconds=round(blocked, 1),
                )
            if blocked > self._interrupt and self._armed and _SIGNAL is not None:
                self._target = call
                signal.pthread_kill(threading.main_thread().ident or 0, _SIGNAL)

    def _current(self) -> Call | None:
        try:
            task = asyncio.current_task(self._loop)
        except RuntimeError:
            return None
        return self._runners.calls.get(task) if task is not None else None

    def _raise(self, number: int, frame: FrameType | None) -> None:
        # Runs in the main thread between two steps of whatever it is doing: only the handler meant may be hit.
        target, self._target = self._target, None
        if target is not None and self._current() is target:
            raise HandlerBlocked(f"{target.label} blocked the event loop for more than {self._interrupt:g} s")
        if target is None and callable(self._previous):
            self._previous(number, frame)  # That of another worker on the same loop.
