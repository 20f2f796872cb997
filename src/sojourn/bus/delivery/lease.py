"""Leases: who may run a group. Kept in the bucket ``{NS}_leases``, expiring by themselves.

A lease is renewed with its time to live and an expected revision on every write; its holder counts from before it sent
the renewal, on the monotonic clock, so it never believes in a lease longer than the server does.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
from pathlib import Path
from time import monotonic
from typing import Any

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
        self._value = json.dumps({"owner": owner, **_process(os.getpid())}).encode()
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
        document = _read(entry.value)
        pid = document.get("pid")
        # A process of this machine that is gone will not come back: no need to wait for the expiry.
        return document.get("host") == _host() and isinstance(pid, int) and _gone(pid, document.get("born"))


def _read(value: bytes) -> dict[str, Any]:
    try:
        document = json.loads(value)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _process(pid: int) -> dict[str, str | int | None]:
    return {"host": _host(), "pid": pid, "born": _born(pid)}


def _host() -> str:
    """This machine since its last boot, and the process namespace: where a process id means one process."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        space = os.readlink("/proc/self/ns/pid")
    except OSError:
        return f"{socket.gethostname()} {os.getpid()}"  # No telling processes apart here: leases expire instead.
    return f"{socket.gethostname()} {boot} {space}"


def _born(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; 0 for one that is dead but not reaped, None where nothing is
    known. Source: proc(5), stat, fields 3 and 22."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return 0 if fields[0] in "ZX" else int(fields[19])
    except (OSError, IndexError, ValueError):
        return None


def _gone(pid: int, born: object) -> bool:
    now = _born(pid)
    if now is not None:
        return now != born
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False  # Another user's, in a /proc that hides those.
    return False
