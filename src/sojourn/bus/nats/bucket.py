"""Key-value buckets, laid out as every NATS client knows them, with expectations and TTLs on the same write.

Source: NATS ADR-8 (KV) and ADR-48 (TTL markers); nats-py's own `update` drops the TTL.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing

from nats.aio.msg import Msg

from sojourn.bus.errors import ConcurrencyError, PermanentError
from sojourn.bus.grammar import check_key, check_name
from sojourn.bus.nats.connection import Connection, resolving
from sojourn.bus.nats.faults import NO_MESSAGE, WRONG_SEQUENCE, RefusedError, answer, meaning
from sojourn.bus.nats.follow import Received, follow
from sojourn.bus.nats.sizes import check_size
from sojourn.bus.nats.streams import ensure_stream
from sojourn.bus.ports import Entry

MARKER_TTL = 600
"""Seconds that the marker of an expired value stays: a watcher that is away for longer may miss the expiry."""

_NANO = 1_000_000_000


async def open_bucket(connection: Connection, name: str) -> NatsBucket:
    """The bucket of that name, created where it is missing. Raises `ConfigurationError`."""
    config = {
        "name": f"KV_{check_name(name)}",
        "subjects": [f"$KV.{name}.>"],
        "storage": "file",
        "compression": "s2",
        "discard": "new",
        "max_msgs_per_subject": 1,
        "allow_rollup_hdrs": True,
        "deny_delete": True,
        "allow_direct": True,
        "allow_msg_ttl": True,
        "subject_delete_marker_ttl": MARKER_TTL * _NANO,
    }
    await ensure_stream(connection, config)
    return NatsBucket(connection, name)


class NatsBucket:
    """`sojourn.bus.ports.Bucket` over JetStream; made by `NatsTransport.bucket`."""

    def __init__(self, connection: Connection, name: str) -> None:
        self._connection = connection
        self._name = name
        self._stream = f"KV_{name}"
        self._prefix = f"$KV.{name}."

    async def get(self, key: str) -> Entry | None:
        """The newest value, read from the leader, or None. See `sojourn.bus.ports.Bucket.get`."""
        newest = await self._newest(check_key(key))
        return newest if newest is not None and newest.value is not None else None

    async def put(self, key: str, value: bytes, *, expect: int | None = None, ttl: int | None = None) -> int:
        """Writes and returns the new revision. See `sojourn.bus.ports.Bucket.put`."""
        headers: dict[str, str] = {}
        if ttl is not None:
            if ttl < 1:
                raise PermanentError(f"a TTL is at least one second, not {ttl}")
            headers["Nats-TTL"] = str(ttl)
        return await self._write(check_key(key), value, expect, headers)

    async def delete(self, key: str, *, expect: int | None = None) -> None:
        """Deletes the key; one that is not there is no error. See `sojourn.bus.ports.Bucket.delete`."""
        newest = await self._newest(check_key(key))
        if newest is None or newest.value is None:
            if expect:
                raise self._conflict(key, expect, newest.revision if newest else 0)
            return
        await self._write(key, b"", expect, {"KV-Operation": "DEL"})

    async def entries(self, prefix: str = "") -> list[Entry]:
        """All living entries whose key starts with ``prefix``, ordered by key."""
        last = await self._last_sequence()
        found: dict[str, Entry] = {}
        if last:
            async with aclosing(follow(self._connection, self._stream, self._filter(prefix), end=last)) as batches:
                async for batch in batches:
                    # One that changes meanwhile comes twice; the later one counts.
                    found |= {(entry := self._entry(received)).key: entry for received in batch}
        living = [entry for key, entry in found.items() if entry.value is not None and key.startswith(prefix)]
        return sorted(living)

    async def watch(self, prefix: str = "") -> AsyncGenerator[Entry, None]:
        """All living entries, then every change. See `sojourn.bus.ports.Bucket.watch`."""
        last = await self._last_sequence()
        async with aclosing(follow(self._connection, self._stream, self._filter(prefix))) as batches:
            async for batch in batches:
                for received in batch:
                    entry = self._entry(received)
                    if entry.key.startswith(prefix) and not (entry.value is None and entry.revision <= last):
                        yield entry

    async def _last_sequence(self) -> int:
        try:
            last: int = (await self._connection.request(f"STREAM.INFO.{self._stream}"))["state"]["last_seq"]
        except RefusedError as error:
            raise meaning(error, f"bucket {self._name}") from error
        return last

    def _filter(self, prefix: str) -> str:
        """The narrowest filter that lets through all keys starting with ``prefix``."""
        whole, dot, _ = prefix.rpartition(".")
        return f"{self._prefix}{whole}{dot}>"

    def _entry(self, received: Received) -> Entry:
        stored = received.stored
        value = None if _is_marker(received.headers or {}) else stored.payload
        return Entry(stored.subject.removeprefix(self._prefix), value, stored.sequence)

    async def _newest(self, key: str) -> Entry | None:
        """The newest message of the key, a marker included (its value is then None)."""
        try:
            query = {"last_by_subj": self._prefix + key}
            found = (await self._connection.request(f"STREAM.MSG.GET.{self._stream}", query))["message"]
        except RefusedError as error:
            if error.code == NO_MESSAGE:
                return None
            raise meaning(error, f"bucket {self._name}") from error
        value = None if _is_marker(_headers(found.get("hdrs", ""))) else base64.b64decode(found.get("data", ""))
        return Entry(key, value, found["seq"])

    async def _write(self, key: str, value: bytes, expect: int | None, headers: dict[str, str]) -> int:
        try:
            return await self._publish(key, value, expect, headers)
        except RefusedError as error:
            if error.code not in WRONG_SEQUENCE:
                raise meaning(error, f"bucket {self._name}") from error
        newest = await self._newest(key)
        actual = newest.revision if newest else 0
        if expect != 0 or (newest is not None and newest.value is not None):
            raise self._conflict(key, expect, actual)
        # No value, but the marker of a deletion or an expiry: over it, its own sequence has to be expected.
        try:
            return await self._publish(key, value, actual, headers)
        except RefusedError as error:
            if error.code in WRONG_SEQUENCE:
                raise self._conflict(key, expect, None) from error
            raise meaning(error, f"bucket {self._name}") from error

    async def _publish(self, key: str, value: bytes, expect: int | None, headers: dict[str, str]) -> int:
        connection = self._connection
        connection.check_open()
        subject = self._prefix + key
        headers = dict(headers)  # nats-py changes what it is given
        if expect is not None:
            headers["Nats-Expected-Last-Subject-Sequence"] = str(expect)
        check_size(subject, value, headers, connection.client.max_payload)
        future: asyncio.Future[Msg] = asyncio.get_running_loop().create_future()
        inbox = connection.expect(resolving(future), (subject,))
        try:
            connection.post(subject, value, inbox, headers or None)
            revision: int = answer(await future)["seq"]
        finally:
            connection.forget(inbox)
        return revision

    def _conflict(self, key: str, expect: int | None, actual: int | None) -> ConcurrencyError:
        return ConcurrencyError(
            f"bucket {self._name}: {key} is at revision {'unknown' if actual is None else actual}, not at {expect}",
            expected=expect,
            actual=actual,
            filter=self._prefix + key,
        )


def _is_marker(headers: Mapping[str, str]) -> bool:
    """True for what stands in for a value that was deleted, purged or has expired."""
    return headers.get("KV-Operation") in {"DEL", "PURGE"} or "Nats-Marker-Reason" in headers


def _headers(block: str) -> dict[str, str]:
    """The headers of a stored message, as `STREAM.MSG.GET` gives them: a header block in base64."""
    lines = base64.b64decode(block).decode(errors="replace").split("\r\n")[1:]
    return {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
