"""A group: processors that share one position in the log, and the partitions of it that run in this worker."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from time import monotonic

import structlog

from sojourn.bus.breaker import Breakers
from sojourn.bus.catalog import Catalog
from sojourn.bus.clock import Clock
from sojourn.bus.committer import Committer
from sojourn.bus.delivery.budget import Budget
from sojourn.bus.delivery.keyqueue import KeyQueue
from sojourn.bus.delivery.pages import Pages
from sojourn.bus.delivery.partition import Partition
from sojourn.bus.delivery.probation import Probation
from sojourn.bus.delivery.runners import Runners
from sojourn.bus.delivery.session import Session
from sojourn.bus.errors import ConfigurationError, SojournError
from sojourn.bus.event import Event, spec_of
from sojourn.bus.lane import Writer
from sojourn.bus.personal.keyring import KeyRing
from sojourn.bus.ports import Transport
from sojourn.bus.processor import Processor
from sojourn.bus.registry import GroupRecord, Registry
from sojourn.bus.schemas.store import Schemas
from sojourn.bus.subjects import Address, Namespace

log = structlog.get_logger("sojourn.worker")

MAX_ACK_PENDING = 512
"""Deliveries of a partition that may be open at once: what a worker holds in memory is bounded by it."""

DRAIN = 7.0
"""Seconds that handlers have to end in when their partition is handed over."""

_COMPLAINT = 10.0

_WIDER = "the group now reads actions of other writers"


Relaying = Callable[["Group", str, frozenset[str] | set[str]], Awaitable[None]]


@dataclass(slots=True)
class Counters:
    """What a group did in this process. ``closed``: deliveries handled; ``skipped``: those that concern none of its
    processors; ``parked``: customers that wait for a handler to be tried again; ``stale_timers``: messages of timers
    that were cancelled or replaced."""

    closed: int = 0
    skipped: int = 0
    actions: int = 0
    dead: int = 0
    parked: int = 0
    restarts: int = 0
    stale_timers: int = 0


class Group:
    """One group in this worker. ``partitions`` holds those that run here, by number; ``paused``: none may."""

    def __init__(
        self,
        name: str,
        processors: Sequence[Processor],
        *,
        transport: Transport,
        namespace: Namespace,
        registry: Registry,
        committer: Committer,
        schemas: Schemas,
        keys: KeyRing,
        clock: Clock,
        runners: Runners,
        session: Session,
        budget: Budget,
        breakers: Breakers,
        probation: Probation,
        residents: int = 100_000,
        progress: asyncio.Event,
    ) -> None:
        self.name = name
        self.processors = tuple(processors)
        self.transport = transport
        self.namespace = namespace
        self.registry = registry
        self.committer = committer
        self.schemas = schemas
        self.keys = keys
        self.clock = clock
        self.runners = runners
        self.session = session
        self.budget = budget
        self.breakers = breakers
        self.probation = probation
        self.counters = Counters()
        self.resident_limit = max(1, residents // namespace.partitions)
        self.writers: Mapping[str, Writer] = {p.writer: Writer(namespace, p.writer, p.version) for p in self.processors}
        self.types: Mapping[str, type[Event]] = _types(self.processors)
        self.personal = any(spec_of(cls).personal for cls in self.types.values()) or any(
            spec_of(cls).personal for processor in self.processors for cls in processor.publishes.values()
        )
        self.record: GroupRecord | None = None
        self.relaying: Relaying | None = None
        """Told before it puts out events of other customers: the group, the writer, and their types."""
        self.reading = runners.reading
        self.replaying = Pages(budget)
        self.catching = Pages(budget)
        """What is read of histories: to be folded at once, and to be handled, which takes its time."""
        self.partitions: dict[int, Partition] = {}
        self._opening: set[Partition] = set()
        self.paused = False
        self.uncommitted = 0
        self._progress = progress
        self._waiting: set[str] = set()
        self._complained = -_COMPLAINT
        self._wanted = self.types.keys()

    @property
    def start_at(self) -> str:
        """Where the group begins if it never ran: ``beginning`` if one of its processors says so."""
        return "beginning" if any(p.start == "beginning" for p in self.processors) else "now"

    def reads_others(self, published: Mapping[str, frozenset[str]]) -> bool:
        """Whether it has to see actions of other writers, given what each writer publishes."""
        return any(
            self._wanted & types and (writer not in self.writers or len(self.processors) > 1)
            for writer, types in published.items()
        )

    def wants(self, tokens: Sequence[str]) -> bool:
        """Whether a subject, split into its tokens, concerns one of the group's processors."""
        match tokens[4:]:
            case ["evt", type]:
                return type in self._wanted
            case ["evt", "due", writer, _, *_]:
                return writer in self.writers
            case ["evt", "redrive", writer, _]:
                return writer in self.writers
            case ["act", writer, type]:
                return type in self._wanted and (writer not in self.writers or len(self.processors) > 1)
        return False

    def queue(self, partition: Partition, at: Address) -> KeyQueue:
        """Where the deliveries of one key wait."""
        return KeyQueue(partition, at)

    @property
    def actions(self) -> bool:
        """Whether its consumers deliver actions of other writers, too."""
        return self.record is not None and self.record.actions

    async def position(self, number: int) -> tuple[int, int]:
        """Up to which sequence all of a partition is closed, and the last that was delivered, to whomever."""
        stream = self.namespace.stream(number)
        lag = await self.transport.consumer_lag(stream, f"{self.name}-{number}")
        return (lag.ack_floor, lag.delivered) if lag is not None else (0, 0)

    def cleared(self, number: int, sequence: int) -> bool:
        """Whether a partition that runs here has closed everything up to the sequence."""
        partition = self.partitions.get(number)
        return partition is not None and partition.floor >= sequence

    async def open(self, number: int, *, suspect: int = 0, crashes: int = 0) -> None:
        """Creates the consumer of a partition where it is missing and starts its flow. ``suspect`` and ``crashes``: see
        `ownership.Claim`."""
        record = self.record
        assert record is not None
        partition = self.partitions[number] = Partition(self, number, suspect=suspect, crashes=crashes)
        self._opening.add(partition)
        try:
            stands = await self._ensure(number, record)
            await partition.start(record.start[partition.stream])
            self._opening.discard(partition)
            if stands.actions and not self.actions:
                await self.widen(stands)
            elif self.record is not record:
                partition.restart(_WIDER)
        except BaseException:
            await self._end(partition)
            raise
        finally:
            self._opening.discard(partition)
        if self.paused or self.partitions.get(number) is not partition:
            # Whoever paused or closed the group meanwhile did so before there was a flow to end.
            await self._end(partition)
        self.progressed()

    async def _ensure(self, number: int, record: GroupRecord) -> GroupRecord:
        """Creates the consumer of a partition, or brings its filter up to date; returns the group's record as it stands
        in the registry.

        Whoever widens a group writes the record first and its consumers next. So where the record that is read after
        the consumer was set is narrow, whoever widens it later also widens the consumer; where it is wide, the filter
        that was set here may have replaced a wide one.
        """
        while True:
            await ensure_consumer(self.transport, self.namespace, record, number)
            stands = await self.registry.group(self.name)
            if stands is None or stands.actions == record.actions:
                return record
            record = stands

    async def release(self, number: int, seconds: float | None = None) -> bool:
        """Ends the flow of a partition once the handlers that run have ended. False where they did not within
        ``seconds`` (7 by default): what they were handling comes again to the next owner."""
        partition = self.partitions.get(number)
        if partition is None:
            return True
        partition.stop()
        idle = await partition.settled(DRAIN if seconds is None else seconds)
        await self._shut(number)
        return idle

    async def _shut(self, number: int) -> None:
        partition = self.partitions.get(number)
        if partition is not None:
            await self._end(partition)

    async def _end(self, partition: Partition) -> None:
        number = partition.number
        if self.partitions.get(number) is partition:
            del self.partitions[number]
        try:
            await partition.shut()
        except SojournError as error:
            log.warning("a flow did not end cleanly", group=self.name, partition=number, reason=str(error))
        self.progressed()

    async def widen(self, record: GroupRecord) -> None:
        """Has its consumers deliver other writers' actions too, and forgets what was folded without them."""
        await ensure_consumers(self.transport, self.namespace, record)
        self.record = record
        for partition in list(self.partitions.values()):
            # One that is being opened has no flow yet, and begins anew once it has one.
            if partition not in self._opening:
                partition.restart(_WIDER)

    def forget(self, customer: str) -> None:
        """Drops what is in memory of a customer that was erased."""
        at = self.namespace.locate(customer)
        partition = self.partitions.get(at.partition)
        if partition is not None:
            partition.forget(at.token)

    async def close(self) -> None:
        """Ends all flows at once. What was not closed comes again to the next owner."""
        for partition in self.partitions.values():
            partition.stop()
        await asyncio.gather(*(self._shut(number) for number in list(self.partitions)))

    async def pause(self) -> None:
        """Ends all flows and lets none begin until `resume`. Once it returns, nothing that a handler of this group did
        here is stored any more."""
        self.paused = True
        await self.close()
        while self.uncommitted:  # noqa: ASYNC110 - rare, and the committer has an answer within seconds
            await asyncio.sleep(0.005)

    def resume(self) -> None:
        """Lets flows begin again; `ownership` starts them."""
        self.paused = False

    @property
    def idle(self) -> bool:
        """Whether no delivery is waiting or being handled here."""
        return all(partition.idle for partition in self.partitions.values())

    def complain(self, customer: str, error: object) -> None:
        """Says why a customer's events wait. At most every ten seconds: thousands may wait for one and the same."""
        self._waiting.add(customer)
        if monotonic() - self._complained < _COMPLAINT:
            return
        self._complained = monotonic()
        log.error(
            "events wait, will be tried again",
            group=self.name,
            customer=customer,
            customers=len(self._waiting),
            error=str(error),
        )
        self._waiting.clear()

    def beat(self) -> None:
        for partition in self.partitions.values():
            partition.beat()

    def progressed(self) -> None:
        self._progress.set()


async def ensure_consumers(transport: Transport, namespace: Namespace, record: GroupRecord) -> None:
    """Creates a group's consumers where they are missing, and brings their filters up to date."""
    for number in range(namespace.partitions):
        await ensure_consumer(transport, namespace, record, number)


async def ensure_consumer(transport: Transport, namespace: Namespace, record: GroupRecord, number: int) -> None:
    """The same for one partition."""
    stream = namespace.stream(number)
    await transport.ensure_consumer(
        stream,
        f"{record.name}-{number}",
        namespace.group_filter(record.name, number, actions=record.actions),
        start=record.start[stream] + 1,
        max_ack_pending=MAX_ACK_PENDING,
    )


def group_processors(processors: Sequence[Processor]) -> dict[str, list[Processor]]:
    """The processors by group. Raises `ConfigurationError` for two of one name."""
    groups: dict[str, list[Processor]] = {}
    seen: dict[str, Processor] = {}
    for processor in processors:
        other = seen.setdefault(processor.writer, processor)
        if other is not processor:
            raise ConfigurationError(
                f"two processors are named {processor.writer!r} ({other.description.get('reference')} and "
                f"{processor.description.get('reference')}): names are unique in a namespace"
            )
        groups.setdefault(processor.group, []).append(processor)
    return groups


def _types(processors: Sequence[Processor]) -> dict[str, type[Event]]:
    catalog = Catalog()
    for processor in processors:
        for cls in (*processor.handles.values(), *processor.folds.values()):
            catalog.add(cls)
    return {spec_of(cls).type: cls for cls in catalog}
