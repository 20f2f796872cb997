"""Identifiers."""

from __future__ import annotations

import json
import os
import time
import uuid
from hashlib import blake2b


def uuid7() -> str:
    """A new UUIDv7 as text: 48 bits of Unix milliseconds, then 74 random bits. Source: RFC 9562, section 5.7."""
    value = (time.time_ns() // 1_000_000 << 80) | int.from_bytes(os.urandom(10))
    return _versioned(value)


def derived_id(*parts: str | int) -> str:
    """The same identifier for the same parts, for ever: an idempotency key. A UUIDv8 (RFC 9562, section 5.8)."""
    # As JSON, so that no part can pass for two, nor a number for a text.
    digest = blake2b(json.dumps(parts).encode(), digest_size=16).digest()
    value = int.from_bytes(digest) & ~(0xF << 76) & ~(0x3 << 62) | (0x8 << 76) | (0x2 << 62)
    return str(uuid.UUID(int=value))


def _versioned(value: int) -> str:
    text = f"{value & ~(0xF << 76) & ~(0x3 << 62) | (0x7 << 76) | (0x2 << 62):032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
