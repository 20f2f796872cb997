"""Failures of handlers: does a retry help, how long to wait, and what a dead letter says."""

from __future__ import annotations

import random
import traceback
from datetime import datetime
from typing import Any

from pydantic_core import to_json

from sojourn.bus.envelope import format_time
from sojourn.bus.errors import PermanentError, TransientError
from sojourn.bus.personal.key import CustomerKey
from sojourn.bus.processor import Recorded, Retry

_TRACEBACK = 8_000
"""Characters of a traceback that a dead letter keeps: its end, which names the line."""

_REASON = 2_000

_RETRIED_STATUS = frozenset({408, 425, 429, *range(500, 600)})


def is_transient(error: BaseException) -> bool:
    """Whether calling the handler again may help: `TransientError`, time-outs, lost connections, HTTP 429 and 5xx."""
    if isinstance(error, PermanentError):
        return False
    if isinstance(error, TransientError | TimeoutError | ConnectionError):
        return True
    if isinstance(error, BaseExceptionGroup):
        return all(is_transient(inner) for inner in error.exceptions)
    # httpx is known by its shape: the bus does not import what it does not use.
    if type(error).__module__.split(".")[0] in {"httpx", "httpcore"}:
        response = getattr(error, "response", None) if hasattr(error, "_request") or hasattr(error, "request") else None
        status = getattr(response, "status_code", None)
        return status in _RETRIED_STATUS if status is not None else _is_transport(error)
    return False


def pause(retry: Retry, attempt: int) -> float:
    """Seconds to wait after the failed ``attempt`` (from 1)."""
    # Beyond 2 to the 64th nothing grows any more, and floats would end at 2 to the 1024th.
    seconds = min(retry.initial.total_seconds() * 2.0 ** min(attempt - 1, 64), retry.maximum.total_seconds())
    return seconds * (1 + random.random() / 2)  # noqa: S311 - jitter, no secret


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


def _is_transport(error: BaseException) -> bool:
    return any(base.__name__ in {"TransportError", "NetworkError", "TimeoutException"} for base in type(error).__mro__)
