"""Failures of handlers: does a retry help, how long to wait, and what a dead letter says."""

from __future__ import annotations

import errno
import random
import socket
import ssl
import traceback
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit

from pydantic_core import to_json

from sojourn.bus.envelope import format_time
from sojourn.bus.errors import PermanentError, PublishError, SojournError, TransientError
from sojourn.bus.personal.key import CustomerKey
from sojourn.bus.processor import Recorded, Retry

_TRACEBACK = 8_000
"""Characters of a traceback that a dead letter keeps: its end, which names the line."""

_REASON = 2_000

LONGEST_AFTER = 300.0
"""Seconds of a ``Retry-After`` that are honoured; with more, its date may be of another clock."""

_RETRIED_STATUS = frozenset({408, 425, 429, *range(500, 600)})
_DEEPEST = 10

_TRANSIENT_ERRNO = frozenset(
    {
        errno.EAGAIN,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.EINTR,
        errno.EMFILE,
        errno.ENETDOWN,
        errno.ENETRESET,
        errno.ENETUNREACH,
        errno.ENFILE,
        errno.ENOBUFS,
        errno.ETIMEDOUT,
    }
)
"""Of the network, and of descriptors that ran out. A full disk waits for somebody, as a missing file does."""

# Others' errors are known by their names: the bus does not import what it does not use.
_TRANSIENT_NAMES: Mapping[str, frozenset[str]] = {
    "httpx": frozenset({"TimeoutException", "NetworkError", "ProxyError", "RemoteProtocolError"}),
    "httpcore": frozenset({"TimeoutException", "NetworkError", "ProxyError", "RemoteProtocolError"}),
    "requests": frozenset({"ConnectionError", "Timeout", "ChunkedEncodingError"}),
    "urllib3": frozenset({"TimeoutError", "ProtocolError", "HTTPError"}),
    "aiohttp": frozenset({"ClientConnectionError", "ClientPayloadError"}),
    "nats": frozenset(
        {
            "BadConnectionError",
            "ConnectionClosedError",
            "ConnectionReconnectingError",
            "DrainTimeoutError",
            "NoRespondersError",
            "NoServersError",
            "OutboundBufferLimitError",
            "ServerError",
            "ServiceUnavailableError",
            "StaleConnectionError",
            "UnexpectedEOF",
        }
    ),
    # Lost connections, locked databases, deadlocks. A missing table says so, too; with a breaker that waits for whoever
    # creates it is better than dead letters.
    "sqlalchemy": frozenset({"OperationalError", "DisconnectionError", "TimeoutError"}),
    "sqlite3": frozenset({"OperationalError"}),
    "psycopg": frozenset({"OperationalError"}),
    "psycopg2": frozenset({"OperationalError"}),
    "pymysql": frozenset({"OperationalError"}),
    "asyncpg": frozenset(
        {
            "CannotConnectNowError",
            "DeadlockDetectedError",
            "PostgresConnectionError",
            "SerializationError",
            "TooManyConnectionsError",
        }
    ),
}

_FAULTS = (ArithmeticError, AssertionError, AttributeError, LookupError, NameError, TypeError, ValueError, SyntaxError)
"""Errors of the code itself, whatever they were raised from."""


def is_transient(error: BaseException) -> bool:
    """Whether calling the handler again may help.

    What says so itself counts first: `TransientError` and `PermanentError`. Then what is known: time-outs, lost
    connections, HTTP 408, 425, 429 and 5xx, errors of the network, of name resolution and of databases that are away or
    busy. A group is transient where all its errors are; an error unknown here, where the one is that it was raised
    *from*.
    """
    return _is_transient(error, 0)


def _is_transient(error: BaseException, depth: int) -> bool:
    if depth > _DEEPEST or not isinstance(error, Exception):
        return False
    if isinstance(error, BaseExceptionGroup):
        return all(_is_transient(inner, depth + 1) for inner in error.exceptions)
    known = _known(error)
    if known is not None:
        return known
    cause = getattr(error, "reason", None) if isinstance(error, PublishError | URLError) else error.__cause__
    return isinstance(cause, BaseException) and _is_transient(cause, depth + 1)


def _known(error: Exception) -> bool | None:
    """What an error says of itself; None where it says nothing."""
    if isinstance(error, PermanentError):
        return False
    if isinstance(error, TransientError):
        return True
    status = _status(error)
    if status is not None:
        return status in _RETRIED_STATUS
    # Before others: a certificate that does not fit is an OSError and a ValueError.
    if isinstance(error, ssl.SSLError):
        return not isinstance(error, ssl.SSLCertVerificationError)
    if isinstance(error, TimeoutError | ConnectionError | socket.gaierror):
        return True
    named = [name for base in type(error).__mro__ if (name := _named(base)) is not None]
    if True in named:
        return True
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in _TRANSIENT_ERRNO
    if isinstance(error, _FAULTS) or (isinstance(error, SojournError) and not isinstance(error, PublishError)):
        return False
    # Of a library whose errors are known, this one is none that goes away.
    return False if named else None


def _named(cls: type) -> bool | None:
    names = _TRANSIENT_NAMES.get(cls.__module__.split(".")[0])
    return None if names is None else cls.__name__ in names


def _status(error: Exception) -> int | None:
    """The HTTP status that an error is about, by the shapes of httpx, requests, aiohttp, urllib and clients of APIs."""
    for holder in (_attribute(error, "response"), error):
        for name in ("status_code", "status") if not isinstance(holder, HTTPError) else ("code",):
            status = _attribute(holder, name)
            if isinstance(status, int) and 400 <= status < 600:
                return int(status)
    return None


def hosts_of(error: BaseException) -> list[str]:
    """The hosts that an error names, itself or in what it was raised from: of the request of an HTTP client, or in an
    attribute ``host``. With the port where the URL gives one."""
    found: dict[str, None] = {}
    for each in _chain(error):
        url = _attribute(_attribute(each, "request"), "url") or _attribute(each, "url")
        host = _attribute(url, "host")
        port = _attribute(url, "port")
        if host is None and isinstance(url, str):
            with suppress(ValueError):
                parts = urlsplit(url)
                host, port = parts.hostname, parts.port
        if host is None:
            host, port = _attribute(each, "host"), _attribute(each, "port")
        if isinstance(host, str) and host:
            found[f"{host}:{port}" if isinstance(port, int) else host] = None
    return list(found)


def retry_after(error: BaseException, now: datetime) -> float:
    """Seconds that the server asked to wait (``Retry-After``, in seconds or as a date): 300 at most, 0 for nothing.

    Also of an attribute ``retry_after`` in seconds, as clients of APIs and `TransientError`s may have it."""
    longest = 0.0
    for each in _chain(error):
        said = _attribute(each, "retry_after")
        if said is None:
            headers = _attribute(_attribute(each, "response"), "headers") or _attribute(each, "headers")
            said = headers.get("retry-after") or headers.get("Retry-After") if isinstance(headers, Mapping) else None
        longest = max(longest, _seconds(said, now))
    return min(longest, LONGEST_AFTER)


def _seconds(said: object, now: datetime) -> float:
    if isinstance(said, timedelta):
        return said.total_seconds()
    if not isinstance(said, str | int | float):
        return 0.0
    try:
        seconds = float(said)
    except ValueError:
        try:
            moment = parsedate_to_datetime(str(said))
        except ValueError:
            return 0.0
        seconds = ((moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - now).total_seconds()
    return seconds if seconds > 0 else 0.0  # not for nan


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error, the ones in it where it is a group, and those that they were raised from."""
    waiting, seen = [error], 0
    while waiting and seen < _DEEPEST:
        each = waiting.pop(0)
        seen += 1
        yield each
        if isinstance(each, BaseExceptionGroup):
            waiting += each.exceptions
        if each.__cause__ is not None:
            waiting.append(each.__cause__)


def _attribute(holder: object, name: str) -> Any:  # noqa: ANN401 - whatever others put there
    try:
        return getattr(holder, name, None)
    except Exception:  # noqa: BLE001 - httpx raises where no request was set, and others' properties may do anything
        return None


def pause(retry: Retry, attempt: int, after: float = 0.0) -> float:
    """Seconds to wait after the failed ``attempt`` (from 1), and no less than ``after``."""
    # Beyond 2 to the 64th nothing grows any more, and floats would end at 2 to the 1024th.
    seconds = min(retry.initial.total_seconds() * 2.0 ** min(attempt - 1, 64), retry.maximum.total_seconds())
    return max(seconds, after) * (1 + random.random() / 2)  # noqa: S311 - jitter, no secret


def dead_facts(
    error: BaseException,
    *,
    recorded: Recorded | None,
    subject: str,
    attempts: int,
    version: int,
    now: datetime,
    key: CustomerKey | None = None,
) -> dict[str, Any]:
    """What a dead letter tells: reason, error, traceback, and which envelope it was. Never the envelope's data.

    ``recorded`` is None for what could not be read; then there is no traceback, which would only lead into the decoder
    and quote what it refused. With the customer's ``key`` personal values are taken out of reason and traceback, and
    what is left is sealed: a handler may have said them in other words.
    """
    envelope = recorded.envelope if recorded is not None else None
    trace = ""
    if envelope is not None and error.__traceback__ is not None:
        trace = "".join(traceback.format_exception(error))
    reason = _readable(_text(error))
    if key is not None:
        reason, trace = key.scrub(reason), key.scrub(trace)
    reason, trace = reason[:_REASON], _readable(trace)[-_TRACEBACK:]
    if key is not None:
        # Not remembered: the next failure may have the same reason, which is to be read.
        reason, trace = (key.seal(to_json(text), remember=False) for text in (reason, trace))
    return {
        "reason": reason,
        "error": type(error).__name__,
        "traceback": trace,
        "attempts": attempts,
        "version": version,
        "subject": subject,
        "type": envelope.type if envelope is not None else subject.rsplit(".", 1)[-1],
        "id": envelope.id if envelope is not None else None,
        "correlationid": envelope.correlation_id if envelope is not None else None,
        "time": format_time(now),
    }


def _text(error: BaseException) -> str:
    try:
        return str(error) or type(error).__name__
    except Exception:  # noqa: BLE001 - an exception of a handler may be broken in any way
        return type(error).__name__


def _readable(text: str) -> str:
    # Lone surrogates, as in file names that are no UTF-8, cannot be read back from JSON.
    return text.encode(errors="backslashreplace").decode()
