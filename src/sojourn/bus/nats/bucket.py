"""Key-value buckets, laid out as every NATS client knows them, with expectations and TTLs on the same write.

Source: NATS ADR-8 (KV) and ADR-48 (TTL markers); nats-py's own `update` drops the TTL.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Final, TypeVar

from nats.aio.msg import Msg

from sojourn.bus.appends import MAX_BATCH
from sojourn.bus.errors import ConcurrencyError, ConfigurationError, PermanentError
from sojourn.bus.grammar import check_key, check_name
from sojourn.bus.nats.connection import Connection, resolving
from sojourn.bus.nats.faults import NO_MESSAGE, WRONG_SEQUENCE, RefusedError, answer, meaning
from sojourn.bus.nats.follow import Received, follow
from sojourn.bus.nats.log import NatsLog
from sojourn.bus.nats.sizes import check_size
from sojourn.bus.nats.streams import NatsStreams, ensure_stream
from sojourn.bus.ports import Append, Entry, Expectation

MARKER_TTL = 600
"""Seconds that the marker of an expired value stays: a watcher that is away for longer may miss the expiry."""

_T = TypeVar("_T")

_NANO = 1_000_000_000
_AT_ONCE = 64
_ROUNDS = 20
"""How often `NatsBucket.entries` looks for what was written meanwhile, where that does not end by itself."""
"""Questions in flight."""
_STORE_FAILED: Final = 10077
"""Among others: the subject has as many messages as it may have."""

_ORDINARY: Final[dict[str, Any]] = {
    "compression": "s2",
    "max_msgs_per_subject": 1,
    "allow_rollup_hdrs": True,
    "deny_delete": True,
    "allow_msg_ttl": True,
    "subject_delete_marker_ttl": MARKER_TTL * _NANO,
}

# The server overwrites only what it is told to delete by sequence (nats-server 2.15.1): what a limit, a TTL, a purge or
# a roll-up removes leaves the index, where nobody finds it any more, but not the disk. So none of them is allowed, and
# a subject that is full is refused the next revision instead of losing its first.
_ERASABLE: Final[dict[str, Any]] = {
    "compression": "none",
    "max_msgs_per_subject": 64,  # what every NATS client takes for a history
    "discard_new_per_subject": True,
    "allow_atomic": True,
    "allow_rollup_hdrs": False,
    "allow_msg_ttl": False,
    "deny_delete": False,
    "deny_purge": True,
    "max_age": 0,
}


async def open_bucket(
    connection: Connection, log: NatsLog, streams: NatsStreams, name: str, *, erasable: bool
) -> NatsBucket:
    """The bucket of that name, created where it is missing. Raises `ConfigurationError`."""
    config = {
        "name": f"KV_{check_name(name)}",
        "subjects": [f"$KV.{name}.>"],
        "storage": "file",
        "discard": "new",
        "allow_direct": True,
    }
    there = await ensure_stream(connection, config | (_ERASABLE if erasable else _ORDINARY))
    # The server leaves out what is off.
    differing = [option for option, value in _ERASABLE.items() if there.get(option, False) != value]
    if erasable and differing:
        raise ConfigurationError(
            f"bucket {name} is there but not erasable: stream KV_{name} has other settings in {', '.join(differing)}; "
            "use another namespace, or delete the bucket and its values"
        )
    return NatsBucket(connection, log, streams, name, erasable=not differing)


class NatsBucket:
    """`sojourn.bus.ports.Bucket` over JetStream; made by `NatsTransport.bucket`."""

    def __init__(
        self, connection: Connection, log: NatsLog, streams: NatsStreams, name: str, *, erasable: bool
    ) -> None:
        self.erasable = erasable
        self._connection = connection
        self._log = log
        self._streams = streams
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
            if self.erasable:
                raise PermanentError(f"bucket {self._name} is erasable and knows no TTLs; delete or erase the key")
            headers["Nats-TTL"] = str(ttl)
        return await self._write(check_key(key), value, expect, headers)

    async def create(self, values: Mapping[str, bytes]) -> set[str]:
        """Writes the value of each key that has none. See `sojourn.bus.ports.Bucket.create`."""
        for key in values:
            check_key(key)
        # An ordinary bucket takes no batches; there each key is a write of its own, many of them under way at once.
        size, at_once = (MAX_BATCH, 1) if self.erasable else (1, _AT_ONCE)
        parts = list(_parts(list(values), size))
        created: set[str] = set()
        for some in _parts(parts, at_once):
            for done in await asyncio.gather(*(self._create({key: values[key] for key in part}) for part in some)):
                created |= done
        return created

    async def _create(self, values: Mapping[str, bytes]) -> set[str]:
        expected = dict.fromkeys(values, 0)
        while expected:
            appends = [
                Append(subject := self._prefix + key, values[key], Expectation(subject, sequence))
                for key, sequence in expected.items()
            ]
            try:
                await self._log.commit(self._stream, appends)
            except ConcurrencyError:
                # A refused batch names no member, so all are asked for.
                expected = await self._without_value(expected)
            else:
                return set(expected)
        return set()

    async def _without_value(self, keys: Iterable[str]) -> dict[str, int]:
        """Those of ``keys`` that have no value, each with the sequence to expect: of its marker, or 0."""
        found: dict[str, int] = {}
        for part in _parts(list(keys), _AT_ONCE):
            for key, newest in zip(part, await asyncio.gather(*map(self._newest, part)), strict=True):
                if newest is None:
                    found[key] = 0
                elif newest.value is None:
                    if self.erasable:
                        await self._overwrite(key, newest.revision)
                    found[key] = newest.revision
        return found

    async def delete(self, key: str, *, expect: int | None = None) -> None:
        """Deletes the key; one that is not there is no error. See `sojourn.bus.ports.Bucket.delete`."""
        newest = await self._newest(check_key(key))
        if newest is None or newest.value is None:
            if expect:
                raise self._conflict(key, expect, newest.revision if newest else 0)
            if newest is not None and self.erasable:
                await self._overwrite(key, newest.revision)  # what an interrupted deletion left
            return
        await self._write(key, b"", expect, {"KV-Operation": "DEL"})

    async def erase(self, key: str) -> bool:
        """Overwrites all revisions of the key. See `sojourn.bus.ports.Bucket.erase`."""
        check_key(key)
        if not self.erasable:
            raise ConfigurationError(f"bucket {self._name} is not erasable; open one with erasable=True")
        found = False
        # Until none is left: a writer that still expected a revision may have come between. None that does can after.
        while await self._overwrite(key):
            found = True
        return found

    async def _overwrite(self, key: str, before: int | None = None) -> bool:
        """Deletes the key's revisions, or those below ``before``, securely; True where there were some."""
        revisions: list[int] = []
        while (found := await self._find(self._after(key, revisions))) and (before is None or found["seq"] < before):
            revisions.append(found["seq"])
        # The newest goes last, so that none of the others stands in its place when this is interrupted.
        await self._streams.delete_messages(self._stream, revisions[:-1])
        await self._streams.delete_messages(self._stream, revisions[-1:])
        return bool(revisions)

    def _after(self, key: str, revisions: list[int]) -> dict[str, Any]:
        return {"seq": revisions[-1] + 1 if revisions else 1, "next_by_subj": self._prefix + key}

    async def entries(self, prefix: str = "") -> list[Entry]:
        """All living entries whose key starts with ``prefix``, ordered by key."""
        last = await self._last_sequence()
        found = await self._there(prefix, 1, last)
        # One that is written anew while it is looked for is then beyond the end: it would be missing although it has
        # been there all along.
        for _ in range(_ROUNDS):
            newest = await self._log.last(self._stream, self._filter(prefix))
            if newest is None or newest.sequence <= last:
                break
            found |= await self._there(prefix, last + 1, newest.sequence)
            last = newest.sequence
        return sorted(_living(found, prefix))

    async def _there(self, prefix: str, start: int, last: int) -> dict[str, Entry]:
        """What was written last to each key in that part of the stream, markers included."""
        found: dict[str, Entry] = {}
        if last:
            part = follow(self._connection, self._stream, self._filter(prefix), start=start, end=last)
            async with aclosing(part) as batches:
                async for batch in batches:
                    # One that changes meanwhile, or has a history, comes twice; the later one counts.
                    found |= {(entry := self._entry(received)).key: entry for received in batch}
        return found

    async def watch(self, prefix: str = "") -> AsyncGenerator[Entry, None]:
        """All living entries, then every change. See `sojourn.bus.ports.Bucket.watch`."""
        last = await self._last_sequence()
        for entry in _living(await self._there(prefix, 1, last), prefix):
            yield entry
        changes = follow(self._connection, self._stream, self._filter(prefix), start=last + 1)
        async with aclosing(changes) as batches:
            async for batch in batches:
                for received in batch:
                    if (entry := self._entry(received)).key.startswith(prefix):
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
        found = await self._find({"last_by_subj": self._prefix + key})
        if found is None:
            return None
        value = None if _is_marker(_headers(found.get("hdrs", ""))) else base64.b64decode(found.get("data", ""))
        return Entry(key, value, found["seq"])

    async def _find(self, query: dict[str, Any]) -> dict[str, Any] | None:
        """The message that the leader finds, as it gives it."""
        try:
            found: dict[str, Any] = (await self._connection.request(f"STREAM.MSG.GET.{self._stream}", query))["message"]
        except RefusedError as error:
            if error.code == NO_MESSAGE:
                return None
            raise meaning(error, f"bucket {self._name}") from error
        return found

    async def _write(self, key: str, value: bytes, expect: int | None, headers: dict[str, str]) -> int:
        try:
            revision = await self._publish(key, value, expect, headers)
        except RefusedError as error:
            revision = await self._write_again(error, key, value, expect, headers)
        else:
            if expect == 0:
                return revision  # there was nothing before it
        if self.erasable:
            await self._overwrite(key, revision)
        return revision

    async def _write_again(
        self, refusal: RefusedError, key: str, value: bytes, expect: int | None, headers: dict[str, str]
    ) -> int:
        full = refusal.code == _STORE_FAILED and self.erasable
        if refusal.code not in WRONG_SEQUENCE and not full:
            raise meaning(refusal, f"bucket {self._name}") from refusal
        newest = await self._newest(key)
        actual = newest.revision if newest else 0
        over = expect
        if full:
            # Writers that were interrupted left too many predecessors.
            await self._overwrite(key, actual)
        elif expect != 0 or (newest is not None and newest.value is not None):
            raise self._conflict(key, expect, actual) from refusal
        else:
            # No value, but the marker of a deletion or an expiry: over it, its own sequence has to be expected.
            over = actual
        try:
            return await self._publish(key, value, over, headers)
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


def _parts(items: Sequence[_T], size: int) -> Iterator[Sequence[_T]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _living(found: Mapping[str, Entry], prefix: str) -> list[Entry]:
    return [entry for key, entry in found.items() if entry.value is not None and key.startswith(prefix)]


def _is_marker(headers: Mapping[str, str]) -> bool:
    """True for what stands in for a value that was deleted, purged or has expired."""
    return headers.get("KV-Operation") in {"DEL", "PURGE"} or "Nats-Marker-Reason" in headers


def _headers(block: str) -> dict[str, str]:
    """The headers of a stored message, as `STREAM.MSG.GET` gives them: a header block in base64."""
    lines = base64.b64decode(block).decode(errors="replace").split("\r\n")[1:]
    return {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
