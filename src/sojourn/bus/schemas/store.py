"""A process's view of the registered schemas: cached, watched, and written by compare-and-set."""

from __future__ import annotations

import asyncio
from contextlib import aclosing, suppress
from functools import partial

import structlog

from sojourn.bus.clock import Clock
from sojourn.bus.errors import ClosedError, ConcurrencyError, SojournError
from sojourn.bus.event import Event, spec_of
from sojourn.bus.ports import Bucket, Entry
from sojourn.bus.schemas.admission import admitted, check_bridged, check_same, claim_of, differences, unregistered
from sojourn.bus.schemas.compatibility import breaking
from sojourn.bus.schemas.records import PREFIX, SchemaRecord, dump_record, parse_record
from sojourn.bus.schemas.schema import schema_of

log = structlog.get_logger("sojourn.bus")

_RETRY = 0.5
"""Seconds between attempts to watch."""


class Schemas:
    """The schemas of a namespace, as this process knows them.

    The first question starts a watch, so that a change made elsewhere is seen within a second; `close` ends it. What
    is known stays known through an outage. ``frozen``: classes are only checked, and nothing is ever written.
    """

    def __init__(self, bucket: Bucket, *, clock: Clock, frozen: bool = False) -> None:
        self.frozen = frozen
        self.cleared: set[type[Event]] = set()
        """Classes whose schema is registered exactly as this process defines it."""
        self._bucket = bucket
        self._clock = clock
        self._records: dict[str, SchemaRecord] = {}
        self._revisions: dict[str, int] = {}
        self._admissions: dict[type[Event], asyncio.Task[None]] = {}
        self._verdicts: dict[tuple[type[Event], int, str], str | None] = {}
        self._watching: asyncio.Task[None] | None = None
        self._closed = False

    async def admit(self, cls: type[Event]) -> None:
        """Registers the class where it is not (frozen: only checks it), and clears it. Those who ask for the same
        class meanwhile wait together.

        Raises `SchemaError` with the difference or every violation of the type's level, `DefinitionError`, and where
        the server cannot be asked `UnavailableError` or `TimedOutError`.
        """
        if cls in self.cleared:
            return
        self._start()
        task = self._admissions.get(cls)
        if task is None:
            task = self._admissions[cls] = asyncio.create_task(self._admit(cls))
            task.add_done_callback(partial(self._admitted, cls))
        # A caller that is cancelled leaves the others their answer.
        await asyncio.shield(task)

    async def register(self, cls: type[Event], *, push: bool = False, hand_over: bool = False) -> SchemaRecord:
        """Registers a class, or brings its record up to date, and returns the record; see `admit` for what is raised.

        ``push``: an operator says so, and the class's declared level, description, import path and upcasters replace
        the stored ones. ``hand_over``: its declared owner does too.
        """
        self._start()
        claim = claim_of(cls)
        while True:
            known, revision = await self._read(claim.type)
            if self.frozen:
                there = known.version(claim.version) if known is not None else None
                if known is None or there is None:
                    raise unregistered(claim, known)
                check_same(claim, known, there)
            fresh = admitted(claim, known, now=self._clock.now(), push=push, hand_over=hand_over)
            if known is not None and (self.frozen or fresh == known):
                return known
            try:
                revision = await self._bucket.put(PREFIX + claim.type, dump_record(fresh), expect=revision)
            except ConcurrencyError:
                continue  # Somebody else wrote; what they wrote decides.
            self._learn(claim.type, fresh, revision)
            return fresh

    async def record(self, type: str) -> SchemaRecord | None:
        """What is known of an event type, or None. Asks the server only for types that this process does not know."""
        self._start()
        return self._records.get(type) or await self.refresh(type)

    def cached(self, type: str) -> SchemaRecord | None:
        """What this process knows of an event type, without asking."""
        return self._records.get(type)

    async def refresh(self, type: str) -> SchemaRecord | None:
        """What the server holds of an event type just now, or None."""
        if not (type.isascii() and type.isidentifier()):  # no class, so no event type
            return None
        return (await self._read(type))[0]

    async def records(self) -> list[SchemaRecord]:
        """Every event type that the server holds, by name."""
        found = []
        for entry in await self._bucket.entries(PREFIX):
            if entry.value is not None:
                record = parse_record(entry.value, entry.key)
                self._learn(record.type, record, entry.revision)
                found.append(record)
        return found

    async def check_reading(self, cls: type[Event]) -> None:
        """Checks that the class can read every registered version older than its own, itself or through its
        upcasters. Raises `SchemaError` that names the missing step."""
        record = await self.refresh(spec_of(cls).type)
        if record is not None:
            check_bridged(claim_of(cls), record)

    def newer(self, cls: type[Event], version: int) -> str | None:
        """Why the class cannot read a registered version newer than its own, or None where it can.

        Raises `LookupError` where this process does not know that version: `refresh` the type and ask again.
        """
        spec = spec_of(cls)
        record = self._records.get(spec.type)
        newer = record.version(version) if record is not None else None
        if newer is None:
            raise LookupError(f"{spec.type} version {version} is not known here")
        key = (cls, version, newer.hash)
        if key not in self._verdicts:
            found = breaking(schema_of(cls), newer.schema_, "forward")
            told = "; ".join(f"{change.path or 'the event'}: {change.what}" for change in found)
            self._verdicts[key] = told or None
        return self._verdicts[key]

    async def close(self) -> None:
        """Ends the watch; who still waits for an admission gets a `ClosedError`."""
        self._closed = True
        tasks = [*self._admissions.values(), *([self._watching] if self._watching is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._watching = None

    def _start(self) -> None:
        if self._closed:
            raise ClosedError("the schemas are closed")
        if self._watching is None:
            self._watching = asyncio.create_task(self._watch())

    async def _admit(self, cls: type[Event]) -> None:
        try:
            while True:
                await self.register(cls)
                # What the watch has brought since may be newer than what was just read.
                if self._fits(cls):
                    self.cleared.add(cls)
                    return
        except asyncio.CancelledError:
            if self._closed:
                raise ClosedError("the schemas were closed meanwhile") from None
            raise

    def _admitted(self, cls: type[Event], task: asyncio.Task[None]) -> None:
        self._admissions.pop(cls, None)
        if not task.cancelled():
            task.exception()  # Seen, also where nobody waits any more.

    def _fits(self, cls: type[Event]) -> bool:
        spec = spec_of(cls)
        record = self._records.get(spec.type)
        there = record.version(spec.version) if record is not None else None
        return there is not None and not differences(claim_of(cls), there)

    async def _read(self, type: str) -> tuple[SchemaRecord | None, int]:
        """The stored record and its revision, as the next write has to expect it."""
        entry = await self._bucket.get(PREFIX + type)
        if entry is None or entry.value is None:
            self._forget(type)
            return None, 0
        record = parse_record(entry.value, entry.key)
        self._learn(type, record, entry.revision)
        return record, entry.revision

    def _learn(self, type: str, record: SchemaRecord, revision: int) -> None:
        if revision >= self._revisions.get(type, 0):  # The watch may lag behind what was read or written here.
            self._records[type], self._revisions[type] = record, revision
            self._clear_anew(type)

    def _forget(self, type: str) -> None:
        self._records.pop(type, None)
        self._revisions.pop(type, None)
        self._clear_anew(type)

    def _clear_anew(self, type: str) -> None:
        self.cleared -= {cls for cls in self.cleared if spec_of(cls).type == type and not self._fits(cls)}

    async def _watch(self) -> None:
        told = False
        while True:
            try:
                if told:
                    await self._start_over()
                async with aclosing(self._bucket.watch(PREFIX)) as entries:
                    async for entry in entries:
                        told = False
                        self._see(entry)
                return  # The transport was closed.
            except ClosedError:
                return
            except SojournError as error:
                if not told:
                    told = True
                    log.warning("changes of schemas are not seen for now", reason=str(error))
            await asyncio.sleep(_RETRY)

    async def _start_over(self) -> None:
        """Takes what the bucket holds for the truth, whatever was known: it may have been made anew."""
        living = {entry.key.removeprefix(PREFIX): entry for entry in await self._bucket.entries(PREFIX)}
        self._revisions.clear()
        for type in self._records.keys() - living:
            self._forget(type)
        for entry in living.values():
            self._see(entry)

    def _see(self, entry: Entry) -> None:
        type = entry.key.removeprefix(PREFIX)
        if entry.value is None:
            if entry.revision > self._revisions.get(type, 0):
                self._forget(type)
            return
        with suppress(SojournError):  # Unreadable: whoever asks for this type is told.
            self._learn(type, parse_record(entry.value, entry.key), entry.revision)
