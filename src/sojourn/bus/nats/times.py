"""Times as JetStream writes them."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache


def nanoseconds(text: str) -> int:
    """Nanoseconds since the epoch of an RFC 3339 time in UTC with up to nine decimals."""
    fraction = text[20:-1] if text[19] == "." else ""
    return _seconds(text[:19]) * 1_000_000_000 + int(fraction.ljust(9, "0"))


def rfc3339(moment: datetime) -> str:
    """An aware time in RFC 3339, in UTC, with microseconds."""
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"


@lru_cache(maxsize=64)
def _seconds(text: str) -> int:
    return int(datetime.fromisoformat(f"{text}+00:00").timestamp())
