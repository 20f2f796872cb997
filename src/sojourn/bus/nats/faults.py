"""What the server's refusals mean in the tree of `sojourn.bus.errors`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any, Final

from nats.aio.msg import Msg

from sojourn.bus.appends import conflict
from sojourn.bus.errors import (
    BusyError,
    ConfigurationError,
    DuplicateError,
    NotFoundError,
    PermanentError,
    SojournError,
    TooLargeError,
    UnavailableError,
)
from sojourn.bus.ports import Append

NO_MESSAGE: Final = 10037
NO_CONSUMER: Final = 10014
NO_STREAM: Final = 10059
NO_SEQUENCE: Final = 10043
STREAM_EXISTS: Final = 10058
CONSUMER_EXISTS: Final = 10148
DELETE_FAILED: Final = 10057
WRONG_SEQUENCE: Final = frozenset({10071, 10164, 10192})
"""The expectation was wrong (with and without the real sequence), or cannot be evaluated just now."""

_BUSY: Final = frozenset({10167, 10210, 10211})
_MISSING: Final = frozenset({NO_MESSAGE, NO_CONSUMER, NO_STREAM})
_TOO_LARGE: Final = frozenset({10054, 10097})
_DUPLICATE: Final = 10201
_INCOMPLETE: Final = 10176
_SEQUENCE = re.compile(r"wrong last sequence: (\d+)")


class RefusedError(Exception):
    """An error answer of the JetStream API, before anyone knows what it means for the caller."""

    def __init__(self, code: int, status: int, description: str) -> None:
        super().__init__(f"{description} (JetStream error {code})")
        self.code = code
        self.status = status
        self.description = description


def answer(message: Msg) -> dict[str, Any]:
    """The JSON answer in ``message``. Raises `RefusedError` or, where nobody answers, `UnavailableError`."""
    if not message.data:
        status = (message.headers or {}).get("Status")
        if status == "503":
            raise UnavailableError("no stream or JetStream API answers there: not started yet, or it does not exist")
        return {}
    document: dict[str, Any] = json.loads(message.data)
    error = document.get("error")
    if error is not None:
        raise RefusedError(error.get("err_code", 0), error.get("code", 0), error.get("description", "no description"))
    return document


def meaning(error: RefusedError, what: str, appends: Iterable[Append] = ()) -> SojournError:
    """The error for a caller who wanted something of ``what``, a stream or consumer; perhaps to store ``appends``."""
    text = f"{what}: {error}"
    if error.code in WRONG_SEQUENCE:
        found = _SEQUENCE.search(error.description)
        return conflict(what, appends, int(found.group(1)) if found else None)
    if error.code == _DUPLICATE:
        return DuplicateError(f"{text}; leave the member out whose message id is stored")
    if error.code in _BUSY:
        return BusyError(f"{text}; wait, or store the messages one by one")
    if error.code == _INCOMPLETE:
        return UnavailableError(f"{text}; nothing was stored, a subject is outside the stream or the server restarted")
    if error.code in _MISSING:
        return NotFoundError(text)
    if error.code in _TOO_LARGE:
        size = max((len(append.payload) for append in appends), default=0)
        return TooLargeError(text, size=size, limit=0)
    if error.status >= 500 or error.status in {408, 429}:
        return UnavailableError(text)
    if 10174 <= error.code <= 10190:
        return PermanentError(text)
    return ConfigurationError(text)
