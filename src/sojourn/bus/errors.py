"""Every error Sojourn raises, in one tree.

SojournError
├── TransientError              a retry may help: nothing is wrong with the input
│   ├── UnavailableError        the server cannot be reached, or has gone
│   ├── TimedOutError           no answer in time; whether it happened is unknown
│   └── BusyError               a bound is reached; wait and try again
├── PermanentError              a retry cannot help: the input or the code has to change
│   ├── DecodeError             bytes that are not the document they claim to be
│   ├── SchemaError             a document that does not fit its event type
│   │   └── UnknownTypeError    an event type, or version of one, that nobody here defines
│   ├── TooLargeError           a message beyond the server's limit
│   ├── DefinitionError         an event, journey or agent class that cannot work; names class and line
│   └── HandlerError            a handler broke its contract (wrong type, another customer's event …)
├── PublishError                one event of a pipelined publisher was not stored (event, reason)
├── ConcurrencyError            somebody else wrote first (expected, actual)
├── DuplicateError              a message with this id is stored already
├── NotFoundError               the named thing does not exist
├── PermissionDenied            the server refused the credentials or the subject
├── ConfigurationError          a setting, server version or namespace that does not fit
└── ClosedError                 the object was closed by its owner
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sojourn.bus.schemas.change import Change


class SojournError(Exception):
    """The root: catches everything that Sojourn raises on purpose."""


class TransientError(SojournError):
    """A retry may help. Handlers raise it to be called again later for the same event."""


class UnavailableError(TransientError):
    """The server cannot be reached, or went away before it answered."""


class TimedOutError(TransientError):
    """No answer in time. Whether the request took effect is unknown."""


class BusyError(TransientError):
    """A bound is reached (open batches, pending bytes); the same call succeeds later."""


class PermanentError(SojournError):
    """A retry cannot help. Handlers raise it to dead-letter the event at once."""


class DecodeError(PermanentError):
    """Bytes that are not the document they claim to be."""


class SchemaError(PermanentError):
    """A document that does not fit its event type, or a schema that does not fit the registered one.

    ``difference`` holds what changed between two schemas, where that is the matter.
    """

    def __init__(self, message: str, *, difference: Sequence[Change] = ()) -> None:
        super().__init__(message)
        self.difference = tuple(difference)


class UnknownTypeError(SchemaError):
    """An event type, or a version of one, that nobody here defines."""

    def __init__(self, message: str, *, type: str) -> None:
        super().__init__(message)
        self.type = type


class TooLargeError(PermanentError):
    """A message beyond the server's limit. Sizes in bytes."""

    def __init__(self, message: str, *, size: int, limit: int) -> None:
        super().__init__(message)
        self.size = size
        self.limit = limit


class DefinitionError(PermanentError):
    """An event, journey or agent class that cannot work; the message names class and line."""


class HandlerError(PermanentError):
    """A handler broke its contract: a wrong type, another customer's event, a missing timer handler."""


class PublishError(SojournError):
    """One event of a pipelined publisher was not stored. ``event`` is the event, ``reason`` the error that says why."""

    def __init__(self, message: str, *, event: object, reason: Exception) -> None:
        super().__init__(message)
        self.event = event
        self.reason = reason


class ConcurrencyError(SojournError):
    """Somebody else wrote first.

    ``expected`` and ``actual`` are stream sequences of the tail; ``actual`` is None where the server did not say.
    ``filter`` is the subject filter that the expectation was checked against.
    """

    def __init__(self, message: str, *, expected: int | None, actual: int | None, filter: str | None = None) -> None:
        super().__init__(message)
        self.expected = expected
        self.actual = actual
        self.filter = filter


class DuplicateError(SojournError):
    """A message with this id is stored already. ``sequence`` is its place where the server told it."""

    def __init__(self, message: str, *, sequence: int | None = None) -> None:
        super().__init__(message)
        self.sequence = sequence


class NotFoundError(SojournError):
    """The named thing does not exist."""


class PermissionDenied(SojournError):
    """The server refused the credentials or the subject."""


class ConfigurationError(SojournError):
    """A setting, a server version or a namespace that does not fit; the message says which and the way out."""


class ClosedError(SojournError):
    """The object was closed by its owner and cannot be used any more."""
