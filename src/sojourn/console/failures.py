"""What a failure means to the shell, and how it is told: a line for each problem, never a traceback unasked."""

from __future__ import annotations

import re
import sys
import traceback
from collections.abc import Iterator
from enum import IntEnum

from sojourn.bus.errors import (
    NotFoundError,
    PermissionDenied,
    PublishError,
    SchemaError,
    SojournError,
    TransientError,
    UnknownTypeError,
)
from sojourn.console.terminal import plain


class Status(IntEnum):
    """Exit statuses of every command."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    DENIED = 4
    UNAVAILABLE = 5
    INTERRUPTED = 130
    TERMINATED = 143


class Problems(SojournError):
    """Several things wrong with what the user gave, one line each."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__("; ".join(lines))
        self.lines = lines


class OutputClosed(Exception):
    """Whoever read standard output has gone (``| head``): the command ends quietly."""


class Interrupted(Exception):
    """The command was interrupted by a signal and has wound up. ``number``: which one."""

    def __init__(self, number: int) -> None:
        super().__init__(f"interrupted by signal {number}")
        self.number = number


def status_of(error: BaseException) -> Status:
    """The exit status of a failure; of a group that of the first leaf that has one of its own."""
    for leaf in leaves(error):
        why = leaf.reason if isinstance(leaf, PublishError) else leaf
        if isinstance(why, (NotFoundError, UnknownTypeError)):
            return Status.NOT_FOUND
        if isinstance(why, PermissionDenied):
            return Status.DENIED
        if isinstance(why, TransientError):
            return Status.UNAVAILABLE
    return Status.FAILED


def leaves(error: BaseException) -> Iterator[BaseException]:
    """The errors inside nested exception groups; the error itself where it is none."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from leaves(inner)
    else:
        yield error


def find(error: BaseException, kind: type[BaseException]) -> BaseException | None:
    """The first leaf of that kind, or None."""
    return next((leaf for leaf in leaves(error) if isinstance(leaf, kind)), None)


def report(error: BaseException, *, debug: bool, secrets: tuple[str, ...] = ()) -> Status:
    """Tells of a failure on standard error and returns its exit status.

    ``debug`` adds the traceback. ``secrets`` (passwords, tokens), and what stands in URLs for them, are blotted out.
    """
    lines = list(_lines(error, debug=debug))
    text = "".join(f"sojourn: {line}\n" for line in lines)
    if debug:
        text = "".join(traceback.format_exception(error)) + text
    say(_without(secrets, text))
    return status_of(error)


def _without(secrets: tuple[str, ...], text: str) -> str:
    text = re.sub(r"(\w://)[^/@\s]+@", r"\1***@", text)
    for secret in secrets:
        # A short one may be part of any word; what is left of it says nothing.
        if len(secret) >= 5:
            text = text.replace(secret, "***")
    return text


def say(text: str) -> None:
    """Writes to standard error, whole or not at all; a closed one is no matter."""
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except (AttributeError, OSError, ValueError):
        return


def note(line: str) -> None:
    """One line of news on standard error."""
    say(f"sojourn: {plain(' '.join(line.split()))}\n")


def several(count: int, noun: str) -> str:
    """A number of things in words: ``1 finding``, ``1,200 findings``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _lines(error: BaseException, *, debug: bool) -> Iterator[str]:
    told = list(dict.fromkeys(_line(leaf, debug=debug) for leaf in leaves(error)))
    for lines in told[:3]:
        yield from lines
    if len(told) > 3:
        yield f"… and {len(told) - 3} more failures"


def _line(error: BaseException, *, debug: bool) -> tuple[str, ...]:
    if isinstance(error, Problems):
        return tuple(plain(line) for line in error.lines)
    if isinstance(error.reason if isinstance(error, PublishError) else error, SchemaError):
        # The difference between two schemas is a table.
        return tuple(plain(line.rstrip()) for line in str(error).splitlines() if line.strip())
    text = plain(" ".join(str(error).split()))
    if isinstance(error, SojournError):
        return (text,)
    hint = "" if debug else " (--debug shows where)"
    return (f"{type(error).__name__}: {text}{hint}" if text else f"{type(error).__name__}{hint}",)
