"""Leases: who may run what only one worker runs at a time. Kept in the bucket ``{NS}_leases``, expiring by themselves.

A lease is renewed with its time to live and an expected revision on every write; its holder counts from before it sent
the renewal, on the monotonic clock, so it never believes in a lease longer than the server does.
"""

from __future__ import annotations

import asyncio
import json
from time import monotonic
from typing import Any

from sojourn.bus.delivery.processes import is_gone, this_process
from sojourn.bus.errors import ConcurrencyError, SojournError
from sojourn.bus.ports import Bucket, Entry

TTL = 5
"""Seconds after which an unrenewed lease is free."""


PATIENCE = 1.0
"""Seconds that giving a lease back may take."""


class Lease:
    """One lease, as one worker sees it."""

    def __init__(self, bucket: Bucket, key: str, owner: str, *, ttl: int = TTL) -> None:
        self._bucket = bucket
        self._key = key
        self._ttl = ttl
        self._revision = 0
        self._until = 0.0
        self._value = json.dumps({"owner": owner, **this_process()}).encode()
        self.holder: str | None = None

    @property
    def left(self) -> float:
        """Seconds for which it is surely held; 0 where it is not."""
        return max(0.0, self._until - monotonic())

    @property
    def held(self) -> bool:
        return self.left > 0

    async def acquire(self) -> bool:
        """Takes the lease if it is free, or renews it. False where another worker holds it (``holder`` tells which)."""
        sent = monotonic()
        try:
            if self._revision:
                try:
                    self._revision = await self._bucket.put(
                        self._key, self._value, expect=self._revision, ttl=self._ttl
                    )
                except ConcurrencyError:
                    self._revision = 0
            if not self._revision:
                entry = await self._bucket.get(self._key)
                if entry is not None and entry.value is not None and not self._takeable(entry):
                    self.holder = str(_read(entry.value).get("owner"))
                    self._until = 0.0
                    return False
                expect = entry.revision if entry is not None and entry.value is not None else 0
                self._revision = await self._bucket.put(self._key, self._value, expect=expect, ttl=self._ttl)
        except ConcurrencyError:
            self._revision = 0
            self._until = 0.0
            return False
        self._until = sent + self._ttl
        self.holder = None
        return True

    async def release(self) -> None:
        """Gives the lease back, so that the next owner need not wait for its expiry."""
        self._revision, self._until = 0, 0.0
        try:
            async with asyncio.timeout(PATIENCE):
                # Asked for, since the answer to the last renewal may have been lost.
                entry = await self._bucket.get(self._key)
                if entry is not None and entry.value == self._value:
                    await self._bucket.delete(self._key, expect=entry.revision)
        except (SojournError, TimeoutError):
            return  # It expires by itself.

    def _takeable(self, entry: Entry) -> bool:
        assert entry.value is not None
        if entry.value == self._value:
            return True  # Our own, from a renewal whose answer was lost.
        # A process of this machine that is gone will not come back: no need to wait for the expiry.
        return is_gone(_read(entry.value))


def _read(value: bytes) -> dict[str, Any]:
    try:
        document = json.loads(value)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}
