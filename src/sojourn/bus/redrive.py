"""Redriving and dropping dead letters: each once, in order for each customer and agent, however often it is tried.

What becomes of a letter stands on one subject of its own, ``{ns}.log.{p}.{key}.evt.redrive.{writer}.{sequence}``, and
is stored there with the expectation that nothing is: the original document (redriven), or a verdict. So redriving and
dropping exclude each other, two at once do no harm, and whoever is killed half-way begins again and finds what is done.

A foreign document is filed in the same atomic batch as its verdict. One whose customer lives in another shard, which no
batch spans, takes two: the verdict that it is to be filed there, which decides; and there the event with a message that
expects none of its name. Interrupted between the two it counts as open, and redriving it again does the second.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Literal, NamedTuple

from sojourn.bus.bulk import Bulk, Job
from sojourn.bus.catalog import Catalog
from sojourn.bus.client import Bus
from sojourn.bus.crashpoints import IN_REDRIVE, reach
from sojourn.bus.deadletters import DeadLetter, original, place_of, redrive_subject
from sojourn.bus.envelope import format_time
from sojourn.bus.errors import ConfigurationError, PermanentError
from sojourn.bus.intake import INGRESS, Filing, KeyWantedError, Sealers, file_document
from sojourn.bus.personal.key import SEALED, CustomerKey
from sojourn.bus.personal.records import ERASED
from sojourn.bus.ports import Append, Expectation, Stored
from sojourn.bus.publisher import HEADROOM
from sojourn.bus.schemas.records import SchemaRecord
from sojourn.bus.schemas.validation import Contracts
from sojourn.bus.verdicts import verdict_facts, verdict_of, verdict_payload

Result = Literal["redriven", "filed", "woken", "dropped", "already", "excluded", "gone", "erased", "failed"]
"""``redriven``: put back for its agent; ``filed``: a foreign document, in the log now; ``woken``: a parked customer
that goes on; ``already``: done before; ``excluded``: the opposite was; ``gone``: the original has left the log;
``erased``: its customer was; ``failed``: it stays open, for the reason given."""

DONE: frozenset[Result] = frozenset({"redriven", "filed", "woken", "dropped"})

_AT_ONCE = 64
"""Originals that are read at the same time."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ERASED_EVENT = "CustomerErased"


class Outcome(NamedTuple):
    """What became of one letter, or would. ``reason``: why nothing did."""

    letter: DeadLetter
    result: Result
    reason: str = ""


Tell = Callable[[Outcome], None]


async def redrive(bus: Bus, letters: AsyncIterable[DeadLetter], tell: Tell, *, dry_run: bool = False) -> None:
    """Puts each letter's original back, for the writer that failed on it alone; wakes customers that are parked; files
    foreign documents anew, as far as they fit the schemas that are registered now.

    ``tell`` is called once for each, not always in their order. ``dry_run``: nothing is stored. One that is refused
    stops nobody else. Raises what an outage of more than 60 s met: what was done by then is done, and is found so by
    the next run.
    """
    await _each(bus, letters, tell, _Redriving(bus, tell, dry_run=dry_run).prepare)


async def drop(bus: Bus, letters: AsyncIterable[DeadLetter], tell: Tell, *, by: str, dry_run: bool = False) -> None:
    """Gives each letter up, and the first cause of each customer that is parked. The record stays, as dropped. ``by``
    says who did it. Otherwise as `redrive`."""

    async def prepare(letter: DeadLetter) -> Job | Outcome:
        if letter.status != "open":
            return _closed(letter, dropping=True)
        if dry_run:
            return Outcome(letter, "dropped")
        payload = verdict_payload("drop", time=format_time(bus.clock.now()), by=by)
        return _job(bus, letter, payload, "dropped", tell, dropping=True)

    await _each(bus, letters, tell, prepare)


async def _each(
    bus: Bus,
    letters: AsyncIterable[DeadLetter],
    tell: Tell,
    prepare: Callable[[DeadLetter], Awaitable[Job | Outcome]],
) -> None:
    bulk = Bulk(bus)
    async for chunk in _chunks(letters):
        for prepared in await asyncio.gather(*(prepare(letter) for letter in chunk)):
            if isinstance(prepared, Outcome):
                tell(prepared)
            else:
                await bulk.add(prepared)
    await bulk.settle()


async def _chunks(letters: AsyncIterable[DeadLetter]) -> AsyncIterator[list[DeadLetter]]:
    chunk: list[DeadLetter] = []
    async for letter in letters:
        chunk.append(letter)
        if len(chunk) == _AT_ONCE:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


class _Redriving:
    """What redriving takes for each letter."""

    def __init__(self, bus: Bus, tell: Tell, *, dry_run: bool) -> None:
        self._bus = bus
        self._tell = tell
        self._dry_run = dry_run
        self._erasures = _Erasures(bus)
        self._contracts = Contracts()
        self._records: dict[str, SchemaRecord | None] = {}
        self._trial: CustomerKey | None = None

    async def prepare(self, letter: DeadLetter) -> Job | Outcome:
        """What to store for a letter, or why nothing is."""
        prepared = await self._choose(letter)
        if isinstance(prepared, Job):
            reach(IN_REDRIVE)
        return prepared

    async def _choose(self, letter: DeadLetter) -> Job | Outcome:
        if letter.status != "open":
            return _closed(letter, dropping=False)
        if await self._erasures.concern(letter):
            return Outcome(letter, "erased", "its customer was erased")
        if letter.kind == "parked":
            payload = verdict_payload("wake", time=format_time(self._bus.clock.now()))
            return self._job(letter, payload, "woken")
        try:
            content = await original(self._bus, letter)
        except ConfigurationError as error:
            return Outcome(letter, "failed", str(error))
        if content is None:
            return Outcome(letter, "gone", "the original has left the log, or was erased")
        if letter.writer == INGRESS:
            return await self._foreign(letter, content)
        if verdict_of(content) is not None:
            return Outcome(letter, "failed", "its original is no event, but looks like a verdict on a dead letter")
        return self._job(letter, content, "redriven")

    def _job(self, letter: DeadLetter, payload: bytes, result: Result) -> Job | Outcome:
        if self._dry_run:
            return Outcome(letter, result)
        return _job(self._bus, letter, payload, result, self._tell, dropping=False)

    async def _foreign(self, letter: DeadLetter, content: bytes) -> Job | Outcome:
        received = (letter.time - _EPOCH) // timedelta(microseconds=1) * 1000
        message = Stored(letter.subject, letter.cause, content, received)
        try:
            filing = await self._filing(message)
        except (ConfigurationError, PermanentError) as error:
            return Outcome(letter, "failed", str(error))
        if filing.error is not None:
            return Outcome(letter, "failed", str(filing.error))
        if self._dry_run:
            return Outcome(letter, "filed")
        if filing.at.stream == letter.stream:
            subject = redrive_subject(self._bus, letter)
            return self._arrival(letter, letter.stream, subject, filing.appends, self._closed)
        name = self._bus.namespace.redrive(filing.at, INGRESS, letter.number)
        job = _job(
            self._bus,
            letter,
            verdict_payload("file", stream=filing.at.stream, marker=name),
            "filed",
            self._tell,
            dropping=False,
        )
        arrival = partial(self._arrival, letter, filing.at.stream, name, filing.appends, self._closed)
        job.stored = arrival
        job.found = partial(self._begun, letter, name, arrival)
        return job

    async def _filing(self, message: Stored) -> Filing:
        """The document as it would be filed now. A key is made only for one that can be."""
        type = message.subject.split(".")[2]
        if type not in self._records:
            self._records[type] = await self._bus.schemas.record(type)
        record = self._records[type]
        known = {type: record} if record is not None and record.versions else {}
        file = partial(
            file_document,
            message,
            self._bus.namespace,
            Catalog(),
            known,
            self._bus.transport.max_payload - HEADROOM,
            self._contracts,
        )
        trial = self._trial = self._trial or CustomerKey.new()[0]
        tried = file(sealers=lambda customer: trial)
        if self._dry_run or tried.error is not None or SEALED.encode() not in tried.appends[0].payload:
            return tried
        sealers: Sealers = self._bus.keys.cached
        while True:
            try:
                return file(sealers=sealers)
            except KeyWantedError as wanted:
                await self._bus.keys.ensure(wanted.customer)

    def _arrival(
        self,
        letter: DeadLetter,
        stream: str,
        subject: str,
        appends: list[Append],
        found: Callable[[DeadLetter, Stored], None],
    ) -> Job:
        expect = Expectation(subject, 0)
        time = format_time(self._bus.clock.now())
        return Job(
            stream,
            [Append(subject, verdict_payload("filed", time=time), expect), *appends],
            _chain(letter),
            stored=lambda: self._tell(Outcome(letter, "filed")),
            found=partial(found, letter),
            failed=lambda error: self._tell(Outcome(letter, "failed", str(error))),
            known=[Append(subject, verdict_payload("filed", time=time, duplicate=True), expect)],
        )

    def _closed(self, letter: DeadLetter, there: Stored) -> None:
        facts = verdict_facts(there.payload)
        if facts is not None and facts["kind"] == "file":
            self._tell(Outcome(letter, "failed", _ELSEWHERE))
        else:
            self._tell(_found(letter, there, dropping=False))

    def _begun(self, letter: DeadLetter, name: str, arrival: Callable[[], Job], there: Stored) -> Job | None:
        """A document that was to be filed in another shard, where it may have arrived or not."""
        facts = verdict_facts(there.payload)
        if facts is None or facts["kind"] != "file":
            self._tell(_found(letter, there, dropping=False))
        elif facts["marker"] != name:
            self._tell(Outcome(letter, "failed", _ELSEWHERE))
        else:
            return arrival()
        return None


class _Erasures:
    """Whose letters are not to be redriven: those of before the erasure of their customer."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._loading = asyncio.Lock()
        self._tokens: frozenset[str] | None = None
        self._upto: dict[str, int | None] = {}

    async def concern(self, letter: DeadLetter) -> bool:
        if letter.customer is None:
            return False  # what was kept of it is gone with the key of nobody
        async with self._loading:
            if self._tokens is None:
                self._tokens = await self._erased()
        place = place_of(letter)
        if place.token not in self._tokens:
            return False
        if place.token not in self._upto:
            event = await self._bus.transport.last(place.stream, self._bus.namespace.event(place, _ERASED_EVENT))
            self._upto[place.token] = event.sequence if event is not None else None
        upto = self._upto[place.token]
        # By the log and not by clocks. Where the event is missing, the erasure was interrupted and is to be repeated.
        return upto is None or (letter.cause if letter.cause_stream == letter.stream else letter.sequence) < upto

    async def _erased(self) -> frozenset[str]:
        name = self._bus.namespace.bucket("keys")
        # Not made for a question.
        if f"KV_{name}" not in await self._bus.transport.streams(f"KV_{name}"):
            return frozenset()
        bucket = await self._bus.transport.bucket(name, erasable=True)
        entries = await bucket.entries(ERASED)
        return frozenset(entry.key.removeprefix(ERASED) for entry in entries if entry.value is not None)


def _job(bus: Bus, letter: DeadLetter, payload: bytes, result: Result, tell: Tell, *, dropping: bool) -> Job:
    subject = redrive_subject(bus, letter)
    return Job(
        letter.stream,
        [Append(subject, payload, Expectation(subject, 0))],
        _chain(letter),
        stored=lambda: tell(Outcome(letter, result)),
        found=lambda there: tell(_found(letter, there, dropping=dropping)),
        failed=lambda error: tell(Outcome(letter, "failed", str(error))),
    )


def _chain(letter: DeadLetter) -> tuple[str, str | None, str]:
    return letter.stream, letter.customer, letter.writer


def _found(letter: DeadLetter, there: Stored, *, dropping: bool) -> Outcome:
    kind = verdict_of(there.payload)
    if kind == "file" and dropping:
        return Outcome(letter, "excluded", "is being redriven, into another shard: redrive it again to finish that")
    return _closed(letter.model_copy(update={"status": "dropped" if kind == "drop" else "redriven"}), dropping=dropping)


def _closed(letter: DeadLetter, *, dropping: bool) -> Outcome:
    same = (letter.status == "dropped") is dropping
    return Outcome(letter, "already" if same else "excluded", f"was {letter.status} already")


_ELSEWHERE = (
    "redriving it was begun when by the schema of then it belonged to a customer of another shard: "
    "register that schema again to finish it"
)
