"""The program ``sojourn``: ends quietly whatever happens. Imports next to nothing before it is in charge of that."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

INTERRUPTED = 130


def main() -> None:
    """Runs the command line of this process, and exits with its status."""
    # Not a KeyboardInterrupt, which comes up anywhere: in a finaliser, where it is lost, or before a coroutine runs.
    # Whoever has something to wind up takes the signal over (`running.handling`).
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as in the background of a shell
        signal.signal(signal.SIGINT, _leave)
    sys.unraisablehook = _unraisable
    from sojourn.console.cli import run

    status = run(sys.argv[1:])
    # All is said and done: an interrupt that comes now would only draw a traceback out of the interpreter's shutdown.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for stream in (sys.stdout, sys.stderr):
        _flush(stream)
    sys.exit(status)


def _leave(number: int, frame: FrameType | None) -> None:
    if os.isatty(2):
        os.write(2, b"\n")  # after a question, perhaps
    os._exit(INTERRUPTED)


def _flush(stream: object) -> None:
    # A stream is None where its descriptor was closed before the start.
    if stream not in (sys.stdout, sys.stderr) or stream is None:
        return
    try:
        stream.flush()  # type: ignore[attr-defined]  # one of the two streams, as just checked
    except (OSError, ValueError):
        # The reader has gone. The interpreter flushes once more at its end and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1 if stream is sys.stdout else 2)


def _unraisable(unraisable: sys.UnraisableHookArgs) -> None:
    """Closed pipes also reach finalisers, where they mean nothing; the rest is reported as always."""
    if unraisable.exc_type is not None and not issubclass(unraisable.exc_type, BrokenPipeError):
        sys.__unraisablehook__(unraisable)
