"""A key-value bucket in memory."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping
from datetime import datetime, timedelta

from sojourn.bus.errors import ClosedError, ConcurrencyError, ConfigurationError, PermanentError
from sojourn.bus.grammar import check_key
from sojourn.bus.ports import Entry


class MemoryBucket:
    """`sojourn.bus.ports.Bucket` in memory. A value expires when somebody looks, not by itself: watchers see an expiry
    once the key, or the bucket's entries, were asked for after it."""

    def __init__(self, name: str, now: Callable[[], datetime], *, erasable: bool = False) -> None:
        self.erasable = erasable
        self._name = name
        self._now = now
        self._revision = 0
        self._entries: dict[str, Entry] = {}
        self._expiry: dict[str, datetime] = {}
        self._watchers: dict[_Watcher, None] = {}
        self._closed = False

    async def get(self, key: str) -> Entry | None:
        """The newest value, or None."""
        self._check(key)
        return self._living(key)

    async def put(self, key: str, value: bytes, *, expect: int | None = None, ttl: int | None = None) -> int:
        """Writes and returns the new revision. See `sojourn.bus.ports.Bucket.put`."""
        self._check(key)
        if ttl is not None and ttl < 1:
            raise PermanentError(f"a TTL is at least one second, not {ttl}")
        if ttl is not None and self.erasable:
            raise PermanentError(f"bucket {self._name} is erasable and knows no TTLs; delete or erase the key")
        self._expect(key, expect)
        self._expiry.pop(key, None)
        if ttl is not None:
            self._expiry[key] = self._now() + timedelta(seconds=ttl)
        return self._write(key, value)

    async def create(self, values: Mapping[str, bytes]) -> set[str]:
        """Writes the value of each key that has none, and returns those keys."""
        self._check()
        for key in values:
            check_key(key)
        created = {key for key in values if self._living(key) is None}
        for key, value in values.items():
            if key in created:
                self._expiry.pop(key, None)
                self._write(key, value)
        # As on NATS, others have their turn before the answer is there.
        await asyncio.sleep(0)
        return created

    async def delete(self, key: str, *, expect: int | None = None) -> None:
        """Deletes the key; one that is not there is no error."""
        self._check(key)
        self._expect(key, expect)
        if self._living(key) is not None:
            self._expiry.pop(key, None)
            self._write(key, None)

    async def erase(self, key: str) -> bool:
        """Removes the key and all its revisions; True where there was one."""
        self._check(key)
        if not self.erasable:
            raise ConfigurationError(f"bucket {self._name} is not erasable; open one with erasable=True")
        return self._entries.pop(key, None) is not None

    async def entries(self, prefix: str = "") -> list[Entry]:
        """All living entries whose key starts with ``prefix``, ordered by key."""
        self._check()
        keys = sorted(key for key in self._entries if key.startswith(prefix))
        return [entry for key in keys if (entry := self._living(key)) is not None]

    async def watch(self, prefix: str = "") -> AsyncGenerator[Entry, None]:
        """All living entries, then every change; ends when the transport is closed."""
        self._check()
        watcher = _Watcher(prefix, sorted(await self.entries(prefix), key=lambda entry: entry.revision))
        self._watchers[watcher] = None
        try:
            while True:
                while watcher.changes:
                    yield watcher.changes.popleft()
                if self._closed:
                    return
                watcher.wake.clear()
                await watcher.wake.wait()
        finally:
            del self._watchers[watcher]

    def close(self) -> None:
        """Ends all watches and refuses everything from now on."""
        self._closed = True
        for watcher in self._watchers:
            watcher.wake.set()

    def _check(self, key: str | None = None) -> None:
        if self._closed:
            raise ClosedError("the transport is closed")
        if key is not None:
            check_key(key)

    def _living(self, key: str) -> Entry | None:
        expiry = self._expiry.get(key)
        if expiry is not None and expiry <= self._now():
            del self._expiry[key]
            self._write(key, None)
        entry = self._entries.get(key)
        return entry if entry is not None and entry.value is not None else None

    def _expect(self, key: str, expect: int | None) -> None:
        living = self._living(key)
        if expect is None or expect == (living.revision if living else 0):
            return
        newest = self._entries.get(key)
        actual = newest.revision if newest else 0
        raise ConcurrencyError(
            f"bucket {self._name}: {key} is at revision {actual}, not at {expect}",
            expected=expect,
            actual=actual,
            filter=f"$KV.{self._name}.{key}",
        )

    def _write(self, key: str, value: bytes | None) -> int:
        self._revision += 1
        entry = self._entries[key] = Entry(key, value, self._revision)
        for watcher in self._watchers:
            if key.startswith(watcher.prefix):
                watcher.changes.append(entry)
                watcher.wake.set()
        return self._revision


class _Watcher:
    def __init__(self, prefix: str, entries: list[Entry]) -> None:
        self.prefix = prefix
        self.changes: deque[Entry] = deque(entries)
        self.wake = asyncio.Event()
