"""The ingress relay: files what foreign producers published to ``{ns}.in.{Type}`` under its customer.

Its position travels with what it files, in one atomic batch per shard: a cursor with the expectation that nobody else
has moved it. So after any crash it resumes at the lowest cursor, skips per shard what is filed there, and neither
loses nor doubles a document.

Filed documents leave the stream with their bytes, since foreign producers send personal values in plain: within two
seconds where few come; under load one by one, some 100 to 800 a second; and all at once where more than 1,000 wait as
soon as every one in the stream is filed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import structlog

from sojourn.bus.catalog import Catalog
from sojourn.bus.client import Bus
from sojourn.bus.delivery.lease import TTL, Lease
from sojourn.bus.errors import ConcurrencyError, ConfigurationError, DuplicateError, SojournError
from sojourn.bus.intake import INGRESS, Filing, KeyWantedError, file_document
from sojourn.bus.ports import Append, Expectation, Stored
from sojourn.bus.publisher import HEADROOM
from sojourn.bus.schemas.records import SchemaRecord
from sojourn.bus.schemas.validation import Contracts

log = structlog.get_logger("sojourn.ingress")

_CHUNK = 400
_CHUNK_BYTES = 2 << 20
"""Documents filed in one batch, and bytes of them: a refused one may take several messages of the 1,000 of a batch."""

_ERASED = 64
"""Documents removed at a time."""

_MANY = 1_000
"""Documents that wait to be removed, beyond which the whole stream is purged once nothing in it is to be kept."""

_LACKING = 10.0
"""Seconds that a worker which cannot file what is there leaves the ingress to others."""

_IDLE = 1.0
"""Seconds after which the cursors of shards without traffic follow."""


@dataclass(slots=True)
class Cursor:
    """The position of one shard: everything in the stream of foreign documents up to ``position`` is filed there, as
    far as it belongs there. ``tail`` is the sequence of the stored cursor."""

    position: int
    tail: int


class Ingress:
    """Runs the relay for as long as this worker holds its lease."""

    def __init__(self, bus: Bus, catalog: Catalog, lease: Lease) -> None:
        self._bus = bus
        self._catalog = catalog
        self._lease = lease
        self._contracts = Contracts()
        self._cursors: list[Cursor] = []
        self._seen = 0
        self._leftover: deque[int] = deque()
        self._lacking = ""
        self._filing = asyncio.Lock()
        self.filed = 0
        self.buried = 0
        self.duplicates = 0

    async def run(self) -> None:
        """Files documents until cancelled."""
        wait = TTL / 10
        try:
            while True:
                try:
                    held = await self._lease.acquire()
                    if held:
                        self._cursors, self._seen, self._leftover = [], 0, deque()
                        async with asyncio.TaskGroup() as tasks:
                            tasks.create_task(self._renew())
                            tasks.create_task(self._follow_idle())
                            tasks.create_task(self._tidy())
                            tasks.create_task(self._relay())
                except* SojournError as group:
                    errors = [error for error in _leaves(group) if not isinstance(error, ConcurrencyError)]
                    lacking = [error for error in errors if isinstance(error, ConfigurationError)]
                    for error in errors:
                        if error not in lacking:
                            log.warning("ingress starts over", reason=str(error))
                    if lacking:
                        # A master key that this worker lacks, perhaps, and another one has.
                        self._tell_lacking(str(lacking[0]))
                        await self._lease.release()
                        wait = _LACKING
                await asyncio.sleep(wait)
                wait = TTL / 10
        finally:
            await self._lease.release()

    def _tell_lacking(self, reason: str) -> None:
        # Once: it comes again with each attempt, until the worker is given what it lacks, or another one files it.
        if reason != self._lacking:
            self._lacking = reason
            log.error(
                "this worker cannot file a foreign document: it leaves the ingress to others, and tries again later",
                reason=reason,
            )

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(TTL / 3)
            try:
                held = await self._lease.acquire()
            except SojournError:
                held = self._lease.held
            if not held:
                raise ConcurrencyError("another worker runs the ingress now", expected=None, actual=None)

    async def _relay(self) -> None:
        bus = self._bus
        await self._load_cursors()
        await self._find_leftovers()
        start = min(cursor.position for cursor in self._cursors) + 1
        self._seen = start - 1
        flow = bus.transport.follow(bus.namespace.ingress_stream, bus.namespace.ingress_filter, start=start)
        async with contextlib.aclosing(flow) as batches:
            async for messages in batches:
                for chunk in _chunks(messages):
                    await self._take(chunk)

    async def _take(self, chunk: Sequence[Stored]) -> None:
        filings = await self._filings(chunk)
        async with self._filing:
            await self._file(filings, chunk[-1].sequence)
            self._leftover.extend(message.sequence for message in chunk)
        self._lacking = ""

    async def _filings(self, chunk: Sequence[Stored]) -> list[Filing]:
        bus = self._bus
        known = await self._known({message.subject.split(".")[2] for message in chunk})
        limit = bus.transport.max_payload - HEADROOM
        sealers = bus.keys.cached if bus.keys.has_master else None
        while True:
            filings: list[Filing] = []
            wanted: set[str] = set()
            for message in chunk:
                try:
                    filings.append(
                        file_document(
                            message, bus.namespace, self._catalog, known, limit, self._contracts, sealers=sealers
                        )
                    )
                except KeyWantedError as error:
                    wanted.add(error.customer)
            if not wanted:
                return filings
            await asyncio.gather(*(bus.keys.ensure(customer) for customer in wanted))

    async def _load_cursors(self) -> None:
        bus = self._bus
        for shard, stream in enumerate(bus.namespace.streams):
            stored = await bus.transport.last(stream, bus.namespace.cursor(INGRESS, shard))
            position = json.loads(stored.payload)["position"] if stored is not None else 0
            self._cursors.append(Cursor(position, stored.sequence if stored is not None else 0))

    async def _known(self, types: set[str]) -> dict[str, SchemaRecord]:
        found = {}
        for type in types:
            cls = self._catalog.get(type)
            if cls is not None and cls not in self._bus.schemas.cleared:
                await self._bus.schemas.admit(cls)
            record = await self._bus.schemas.record(type)
            if record is not None and record.versions:
                found[type] = record
        return found

    async def _file(self, filings: Sequence[Filing], upto: int) -> None:
        namespace = self._bus.namespace
        by_shard: dict[int, list[Filing]] = {}
        for filing in filings:
            shard = namespace.shard_of(filing.at.partition)
            if filing.sequence > self._cursors[shard].position:
                by_shard.setdefault(shard, []).append(filing)
        # A task group, so that none of them goes on beside the next run where another failed.
        async with asyncio.TaskGroup() as tasks:
            for shard, mine in by_shard.items():
                tasks.create_task(self._file_shard(shard, mine, upto))
        self._seen = upto

    async def _file_shard(self, shard: int, filings: Sequence[Filing], upto: int) -> None:
        try:
            await self._advance(shard, upto, [append for filing in filings for append in filing.appends])
        except DuplicateError:
            # One of them was filed before under the same identity: a producer's retry. Each on its own finds which.
            for filing in filings:
                try:
                    await self._advance(shard, filing.sequence, filing.appends)
                except DuplicateError:
                    self.duplicates += 1
                    log.info("a foreign document came twice and was filed once", sequence=filing.sequence)
                    await self._advance(shard, filing.sequence, [])
                else:
                    self._count(filing)
        else:
            for filing in filings:
                self._count(filing)

    async def _advance(self, shard: int, position: int, appends: Sequence[Append]) -> None:
        namespace = self._bus.namespace
        cursor = self._cursors[shard]
        subject = namespace.cursor(INGRESS, shard)
        record = Append(subject, json.dumps({"position": position}).encode(), Expectation(subject, cursor.tail))
        stored = await self._bus.committer.store(namespace.shard_stream(shard), [*appends, record])
        cursor.position, cursor.tail = position, stored[-1]

    def _count(self, filing: Filing) -> None:
        if filing.error is None:
            self.filed += 1
        else:
            self.buried += 1
            log.warning(
                "a foreign document was refused: dead letter", sequence=filing.sequence, reason=str(filing.error)
            )

    async def _follow_idle(self) -> None:
        """Cursors of shards without traffic follow the others, so that filed documents can leave the stream."""
        while True:
            await asyncio.sleep(_IDLE)
            async with self._filing:
                for shard, cursor in enumerate(self._cursors):
                    if cursor.position < self._seen:
                        await self._advance(shard, self._seen, [])

    async def _find_leftovers(self) -> None:
        """Finds what was filed but not removed before an earlier run ended."""
        bus = self._bus
        lowest = min(cursor.position for cursor in self._cursors)
        state = await bus.transport.stream_state(bus.namespace.ingress_stream)
        if state is None or state.first > lowest:
            return
        flow = bus.transport.follow(
            bus.namespace.ingress_stream, bus.namespace.ingress_filter, start=state.first, end=lowest
        )
        async with contextlib.aclosing(flow) as batches:
            async for messages in batches:
                self._leftover.extend(message.sequence for message in messages)

    async def _tidy(self) -> None:
        """Removes what every shard is past. Beside the filing, since erasing a document for good takes the server some
        4 ms (2.15)."""
        while True:
            lowest = min((cursor.position for cursor in self._cursors), default=0)
            passed = [sequence for sequence in islice(self._leftover, _ERASED) if sequence <= lowest]
            if not passed:
                await asyncio.sleep(_IDLE / 4)
                continue
            if len(self._leftover) > _MANY and await self._purge(lowest):
                continue
            await self._bus.transport.delete_messages(self._bus.namespace.ingress_stream, passed)
            for _ in passed:
                self._leftover.popleft()

    async def _purge(self, lowest: int) -> bool:
        """Removes all documents at once, if every one that is there is filed.

        Only then, since a purge that leaves something keeps bytes of what it removed beside it. Those of a document
        that comes at this very moment do that, until they are gone themselves, or their block is full."""
        bus = self._bus
        state = await bus.transport.stream_state(bus.namespace.ingress_stream)
        if state is None or state.last != lowest:
            return False
        await bus.transport.purge(bus.namespace.ingress_stream, lowest)
        while self._leftover and self._leftover[0] <= lowest:
            self._leftover.popleft()
        return True


def _chunks(messages: Sequence[Stored]) -> Iterator[Sequence[Stored]]:
    first = size = 0
    for index, message in enumerate(messages):
        if index > first and (index - first == _CHUNK or size + len(message.payload) > _CHUNK_BYTES):
            yield messages[first:index]
            first, size = index, 0
        size += len(message.payload)
    yield messages[first:]


def _leaves(group: BaseExceptionGroup[SojournError]) -> list[SojournError]:
    found: list[SojournError] = []
    for error in group.exceptions:
        found += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found
