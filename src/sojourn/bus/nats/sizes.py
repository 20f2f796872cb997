"""The server's bound on one message, checked before it leaves: beyond it the server ends the connection."""

from __future__ import annotations

from sojourn.bus.errors import TooLargeError

_HEADER_ROOM = 16_384
"""A payload that leaves this much below the limit fits whatever its headers, which are then not measured."""


def check_size(subject: str, payload: bytes, headers: dict[str, str], limit: int) -> None:
    """Raises `TooLargeError` where payload and headers together have more than ``limit`` bytes."""
    size = len(payload)
    if size <= limit - _HEADER_ROOM:
        return
    if headers:
        # The version line, one line for each header, and an empty line.
        size += 12 + sum(len(name) + len(value.encode()) + 4 for name, value in headers.items())
    if size > limit:
        raise TooLargeError(
            f"the message for {subject} has {size} bytes with its headers, the server takes {limit}; "
            "store the content elsewhere and refer to it",
            size=size,
            limit=limit,
        )
