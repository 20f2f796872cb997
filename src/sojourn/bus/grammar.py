"""What subjects, filters and names may look like, and which subjects a filter matches, for every transport adapter."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache

from sojourn.bus.errors import ConfigurationError, PermanentError, TooLargeError
from sojourn.bus.ports import Append

MAX_BATCH = 1_000
"""Members of one atomic batch. Source: nats-server 2.12, `streamMaxAtomicBatchSize`."""

MAX_SUBJECT = 3_500
"""Bytes of a subject: with the reply subject and two lengths it has to fit the server's control line of 4,096 bytes;
a longer line ends the connection."""

_SUBJECT = re.compile(r"[^\s.*>\x00-\x1f\x7f]+(?:\.[^\s.*>\x00-\x1f\x7f]+)*")
_NAME = re.compile(r"[-_A-Za-z0-9]+")
_KEY = re.compile(r"[-/_=A-Za-z0-9]+(?:\.[-/_=A-Za-z0-9]+)*")


def check_subject(subject: str) -> None:
    """Raises `PermanentError` where nothing can be stored under ``subject``, `TooLargeError` where it is too long."""
    if not _SUBJECT.fullmatch(subject):
        raise PermanentError(
            f"{subject[:200]!r} is no subject to store under: tokens must not be empty or hold spaces, control "
            "characters, '*' or '>'; escape the key"
        )
    if len(subject) * 4 > MAX_SUBJECT and (size := len(subject.encode())) > MAX_SUBJECT:
        raise TooLargeError(
            f"the subject {subject[:60]}… has {size} bytes, the limit is {MAX_SUBJECT}; use a shorter key",
            size=size,
            limit=MAX_SUBJECT,
        )


def check_append(append: Append) -> None:
    """Raises `PermanentError` or `TooLargeError` where the append's subjects cannot be stored under."""
    check_subject(append.subject)
    if append.schedule is not None:
        check_subject(append.schedule.target)
    if append.unschedule is not None:
        check_subject(append.unschedule)


def check_batch(appends: Sequence[Append]) -> None:
    """Raises `PermanentError` or `TooLargeError` where the appends cannot be one atomic batch."""
    if not 1 <= len(appends) <= MAX_BATCH:
        raise PermanentError(f"a batch has 1 to {MAX_BATCH} messages, not {len(appends)}; split it")
    timers: set[str] = set()
    for append in appends:
        check_append(append)
        if append.schedule is not None:
            # nats-server 2.15.1 answers with error 10111, "batch rollup sub invalid".
            if append.subject in timers:
                raise PermanentError(f"the batch sets the timer {append.subject} twice; set it once")
            timers.add(append.subject)


def check_name(name: str) -> str:
    """The name of a stream, consumer or bucket, unchanged. Raises `ConfigurationError`."""
    if not _NAME.fullmatch(name):
        raise ConfigurationError(
            f"{name[:200]!r} cannot name a stream, consumer or bucket; use letters, digits, '-', '_'"
        )
    return name


def check_key(key: str) -> str:
    """The key of a bucket, unchanged. Raises `PermanentError`."""
    if not _KEY.fullmatch(key):
        raise PermanentError(f"{key[:200]!r} is no bucket key; use letters, digits, '-', '/', '_', '=' and inner dots")
    return key


@lru_cache(maxsize=4_096)
def matcher(filter: str) -> Callable[[str], bool]:
    """A function that tells whether a subject matches ``filter`` (``*``: one token, a last ``>``: one or more)."""
    if "*" not in filter and ">" not in filter:
        return filter.__eq__
    tokens = filter.split(".")
    tail = tokens[-1] == ">"
    pattern = r"\.".join("[^.]+" if token == "*" else re.escape(token) for token in (tokens[:-1] if tail else tokens))
    if tail:
        pattern += r"\..+" if pattern else ".+"
    compiled = re.compile(pattern, re.DOTALL)
    return lambda subject: compiled.fullmatch(subject) is not None
