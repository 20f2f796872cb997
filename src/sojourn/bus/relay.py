"""The relay: takes output for other customers to them, each event once and in order.

What a handler puts out for a customer other than its own is a ``relay`` record in its lane, stored in one piece with
the rest of its output. The workers consume these records as one more group, ``relays``, whose partitions are owned and
change hands like those of any other, and append each event to the lane ``{writer}~{source key}`` of the customer it is
for. The event's ``causeseq`` is the record's sequence, and one source's records come in order: so the last event of
that lane tells which of them are done, after a crash, a lost answer, and beside a worker that does not know yet that it
lost the partition.

The group begins with the first record there ever is; where no agent puts out such events it costs nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import NamedTuple

import structlog
from pydantic_core import from_json

from sojourn.bus.breaker import Breakers
from sojourn.bus.client import Bus
from sojourn.bus.crashpoints import IN_RELAY, reach
from sojourn.bus.crossing import Crossing, read_record
from sojourn.bus.delivery.budget import Budget
from sojourn.bus.delivery.group import Group, ensure_consumers
from sojourn.bus.delivery.keyqueue import KeyQueue
from sojourn.bus.delivery.ownership import Ownership
from sojourn.bus.delivery.partition import Partition
from sojourn.bus.delivery.probation import Probation
from sojourn.bus.delivery.runners import Runners
from sojourn.bus.delivery.session import Session
from sojourn.bus.errors import ConcurrencyError, DecodeError, SojournError, TimedOutError, UnavailableError
from sojourn.bus.ports import Append, Delivery, Expectation
from sojourn.bus.subjects import RELAYS, Address

log = structlog.get_logger("sojourn.relay")

_LANES = 1_000
"""Lanes of other customers whose last event is remembered, for each source."""


class Tail(NamedTuple):
    """The last event of a lane: its sequence there, and that of the record it came from (0, 0: there is none)."""

    sequence: int
    source: int


class Relays(Group):
    """The group of the relay in one worker."""

    def __init__(
        self,
        bus: Bus,
        runners: Runners,
        session: Session,
        budget: Budget,
        breakers: Breakers,
        probation: Probation,
        progress: asyncio.Event,
    ) -> None:
        super().__init__(
            RELAYS,
            (),
            transport=bus.transport,
            namespace=bus.namespace,
            registry=bus.registry,
            committer=bus.committer,
            schemas=bus.schemas,
            keys=bus.keys,
            clock=bus.clock,
            runners=runners,
            session=session,
            budget=budget,
            breakers=breakers,
            probation=probation,
            progress=progress,
        )
        self._declared: set[tuple[str, str]] = set()
        self._joined = False

    def wants(self, tokens: object) -> bool:
        """Its filter lets nothing else through."""
        return True

    def queue(self, partition: Partition, at: Address) -> KeyQueue:
        return RelayQueue(partition, at)

    async def declare(self, group: Group, writer: str, types: Collection[str]) -> None:
        """Has the workers relay what ``writer``, of ``group``, puts out for other customers, and has the group see it.

        To be called before the first such record is stored: whoever dies after it has told everybody. Raises what the
        registry and the transport raise.
        """
        fresh = {(writer, type) for type in types} - self._declared
        if not fresh:
            return
        await self.registry.add_relays(writer, types)
        await self._settle()
        if not group.types.keys().isdisjoint(types):
            # Its own actions come back to it now. All its workers hear of that from the registry; its consumers must
            # know before there is one.
            wide = await self.registry.settle_group(group.name, present={}, start="now", actions=True)
            await ensure_consumers(self.transport, self.namespace, wide)
        self._declared |= fresh

    async def join(self, ownership: Ownership) -> None:
        """Takes part as soon as anybody in the namespace puts out events for other customers."""
        if self._joined or not any(writer.relays for writer in await self.registry.writers()):
            return
        await self._settle()
        await ownership.add(self)
        self._joined = True

    async def _settle(self) -> None:
        present = dict.fromkeys(self.namespace.streams, 0)
        self.record = await self.registry.settle_group(RELAYS, present=present, start="beginning", actions=False)


class RelayQueue(KeyQueue):
    """One source's records in order: each is relayed before the next."""

    __slots__ = ("_tails",)

    def __init__(self, partition: Partition, at: Address) -> None:
        super().__init__(partition, at)
        self._tails: dict[str, Tail] = {}

    async def step(self) -> None:
        """Relays the head of the queue as far as it goes without waiting for the committer."""
        partition = self.partition
        if partition.discarded(self) or not self.queue:
            return
        self.waiting = False
        if not partition.group.session.held:
            self._retry(UnavailableError("this worker's session has run out"))
            return
        record = self.queue[0]
        try:
            crossing = read_record(partition.group.namespace, record.subject, record.payload, record.sequence)
        except DecodeError as error:
            self._leave_out(record, error)
            return
        try:
            tail = await self._tail(crossing)
        except SojournError as error:
            self._retry(error)
            return
        if partition.discarded(self):
            return
        if tail.source >= record.sequence:
            self._finish_head(record)
            return
        self._send(record, crossing, tail)

    def _send(self, record: Delivery, crossing: Crossing, tail: Tail) -> None:
        group = self.partition.group
        reach(IN_RELAY)
        group.uncommitted += 1

        def done(result: list[int] | Exception) -> None:
            group.uncommitted -= 1
            self._tails.pop(crossing.lane, None)
            if self.partition.discarded(self):
                return
            if isinstance(result, Exception):
                self._retry(result)
                return
            if len(self._tails) >= _LANES:
                del self._tails[next(iter(self._tails))]
            self._tails[crossing.lane] = Tail(result[0], record.sequence)
            group.counters.actions += 1
            self._finish_head(record)

        append = Append(crossing.subject, crossing.payload, Expectation(crossing.lane, tail.sequence))
        group.committer.submit(crossing.stream, [append], done)

    async def _tail(self, crossing: Crossing) -> Tail:
        known = self._tails.get(crossing.lane)
        if known is not None:
            return known
        last = await self.partition.group.transport.last(crossing.stream, crossing.lane)
        if last is None:
            return Tail(0, 0)
        try:
            return Tail(last.sequence, int(from_json(last.payload)["causeseq"]))
        except (ValueError, LookupError, TypeError) as error:
            raise DecodeError(f"{last.subject} at {last.sequence} is not the relay's: {error}") from error

    def _retry(self, error: Exception) -> None:
        """Looks again in a moment: what is stored tells what is done."""
        self.waiting = True
        if self.partition.stopped:
            self.partition.abandon(self)
            return
        self._contested += 1
        if not isinstance(error, ConcurrencyError | UnavailableError | TimedOutError):
            self.partition.group.complain(self.at.key, error)
        asyncio.get_running_loop().call_later(min(0.01 * 2 ** min(self._contested, 9), 5.0), self.again)

    def _leave_out(self, record: Delivery, error: DecodeError) -> None:
        """Passes over what somebody else wrote there."""
        self.partition.group.counters.dead += 1
        log.error("unreadable record is left out", subject=record.subject, sequence=record.sequence, reason=str(error))
        self._finish_head(record)
