"""Leases: who may run a group. Kept in the bucket ``{NS}_leases``, expiring by themselves.

A lease is renewed with its time to live and an expected revision on every write; its holder counts from before it sent
the renewal, on the monotonic clock, so it never believes in a lease longer than the server does.
"""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from time import monotonic

from sojourn.bus.errors import ConcurrencyError, SojournError
from sojourn.bus.ports import Bucket, Entry

TTL = 5
"""Seconds after which an unrenewed lease is free."""


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
                    self.holder = json.loads(entry.value).get("owner")
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
        revision, self._revision, self._until = self._revision, 0, 0.0
        if revision:
            try:
                await self._bucket.delete(self._key, expect=revision)
            except SojournError:
                return  # It expires by itself.

    def _takeable(self, entry: Entry) -> bool:
        assert entry.value is not None
        if entry.value == self._value:
            return True  # Our own, from a renewal whose answer was lost.
        document = json.loads(entry.value)
        # A process of this machine that is gone will not come back: no need to wait for the expiry.
        return document.get("host") == _host() and _process(int(document["pid"])) != {
            name: document.get(name) for name in ("host", "pid", "born")
        }


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
    """When a process started, in clock ticks since boot; None where there is none. Source: proc(5), stat, field 22."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, IndexError, ValueError):
        return None
