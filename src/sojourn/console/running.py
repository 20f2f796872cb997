"""Runs a command's coroutine: on uvloop where there is one, and so that an interrupt ends it at any moment, quietly."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import stat
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar

from sojourn.console.failures import Interrupted, OutputClosed, say
from sojourn.console.terminal import is_terminal

T = TypeVar("T")

_PATIENCE = 2.0
"""Seconds for a command to wind up after an interrupt."""


def run_async(main: Coroutine[Any, Any, T]) -> T:
    """Runs ``main`` to its end and returns its result.

    The first SIGINT or SIGTERM cancels it, a second one ends the process at once. Raises `Interrupted` after the first,
    and `OutputClosed` as soon as nobody reads standard output any more.
    """
    received: list[int] = []
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        loop = runner.get_loop()

        async def wait() -> T:
            task = asyncio.current_task()
            assert task is not None

            def cancel() -> None:
                # Again and again: `asyncio.wait_for` of Python 3.11, which nats-py uses, loses a cancellation that
                # comes together with the result. What is being cleaned up has had its time by then.
                if not task.done():
                    task.cancel()
                    loop.call_later(_PATIENCE, cancel)

            def stop(number: int) -> None:
                received.append(number)
                # Not at once: a signal handler runs between any two bytecodes, the loop's own included.
                loop.call_soon_threadsafe(cancel)

            closed = _reader_gone(loop, cancel)
            with handling(stop):
                try:
                    return await main
                except asyncio.CancelledError:
                    if not received and closed():
                        raise OutputClosed from None
                    raise

        try:
            return runner.run(wait())
        except (Exception, asyncio.CancelledError) as error:
            if received:
                raise Interrupted(received[0]) from error
            raise


@contextmanager
def handling(stop: Callable[[int], None], *, last: Callable[[], None] = lambda: None) -> Iterator[None]:
    """While open, the first SIGINT or SIGTERM calls ``stop`` with its number, and a second one ends the process, right
    after ``last``."""
    seen: list[int] = []

    def on_signal(number: int, frame: FrameType | None) -> None:
        if seen:
            last()
            leave(128 + number)
        seen.append(number)
        stop(number)

    # Not loop.add_signal_handler: that one waits for the loop, which a handler may be blocking.
    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def leave(status: int) -> None:
    """Ends the process at once, without cleaning up anything but the terminal."""
    if is_terminal(sys.stderr):
        say("\x1b[?25h")  # a progress bar hides the cursor
    os._exit(status)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def _reader_gone(loop: asyncio.AbstractEventLoop, tell: Callable[[], object]) -> Callable[[], bool]:
    """Tells when nobody reads the pipe on standard output any more: a stream without news would never notice."""
    gone = threading.Event()
    try:
        descriptor = sys.stdout.fileno()
        piped = stat.S_ISFIFO(os.fstat(descriptor).st_mode)
    except (AttributeError, OSError, ValueError):
        return gone.is_set
    if not piped or not hasattr(select, "poll"):
        return gone.is_set

    def watch() -> None:
        poll = select.poll()
        poll.register(descriptor, 0)  # errors and hang-ups are always reported
        poll.poll()
        gone.set()
        try:
            loop.call_soon_threadsafe(tell)
        except RuntimeError:  # the loop has closed: the command is done
            return

    threading.Thread(target=watch, name="sojourn-reader-gone", daemon=True).start()
    return gone.is_set
