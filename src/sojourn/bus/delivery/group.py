"""A group: processors that share one position in the log."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import monotonic

import structlog

from sojourn.bus.catalog import Catalog
from sojourn.bus.clock import Clock
from sojourn.bus.committer import Committer
from sojourn.bus.delivery.lease import Lease
from sojourn.bus.delivery.partition import Partition
from sojourn.bus.delivery.runners import Runners
from sojourn.bus.errors import ConfigurationError, SojournError
from sojourn.bus.event import Event, spec_of
from sojourn.bus.lane import Writer
from sojourn.bus.personal.keyring import KeyRing
from sojourn.bus.ports import Transport
from sojourn.bus.processor import Processor
from sojourn.bus.registry import GroupRecord
from sojourn.bus.schemas.store import Schemas
from sojourn.bus.subjects import Namespace

log = structlog.get_logger("sojourn.worker")

MAX_ACK_PENDING = 512
"""Deliveries of a partition that may be open at once: what a worker holds in memory is bounded by it."""

_COMPLAINT = 10.0


@dataclass(slots=True)
class Counters:
    """What a group did in this process. ``closed``: deliveries handled; ``skipped``: those that concern none of its
    processors; ``stale_timers``: messages of timers that were cancelled or replaced."""

    closed: int = 0
    skipped: int = 0
    actions: int = 0
    dead: int = 0
    restarts: int = 0
    stale_timers: int = 0


class Group:
    """The partitions of one group in this worker, for as long as it holds the group's lease."""

    def __init__(
        self,
        name: str,
        processors: Sequence[Processor],
        *,
        transport: Transport,
        namespace: Namespace,
        committer: Committer,
        schemas: Schemas,
        keys: KeyRing,
        clock: Clock,
        runners: Runners,
        lease: Lease,
        residents: int = 100_000,
        progress: asyncio.Event,
    ) -> None:
        self.name = name
        self.processors = tuple(processors)
        self.transport = transport
        self.namespace = namespace
        self.committer = committer
        self.schemas = schemas
        self.keys = keys
        self.clock = clock
        self.runners = runners
        self.lease = lease
        self.counters = Counters()
        self.resident_limit = max(1, residents // namespace.partitions)
        self.writers: Mapping[str, Writer] = {p.writer: Writer(namespace, p.writer, p.version) for p in self.processors}
        self.types: Mapping[str, type[Event]] = _types(self.processors)
        self.personal = any(spec_of(cls).personal for cls in self.types.values()) or any(
            spec_of(cls).personal for processor in self.processors for cls in processor.publishes.values()
        )
        self.actions = False
        self.partitions: list[Partition] = []
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

    async def open(self, record: GroupRecord) -> None:
        """Creates the consumers where they are missing and starts the flow of every partition."""
        self.actions = record.actions
        self.partitions = [Partition(self, number) for number in range(self.namespace.partitions)]
        # All are awaited, so that none opens behind the back of whoever closes the others.
        openings = (self._open(partition, record) for partition in self.partitions)
        for result in await asyncio.gather(*openings, return_exceptions=True):
            if isinstance(result, BaseException):
                raise result

    async def _open(self, partition: Partition, record: GroupRecord) -> None:
        after = record.start[partition.stream]
        await self.transport.ensure_consumer(
            partition.stream,
            partition.consumer,
            self.namespace.partition_filter(partition.number, actions=record.actions),
            start=after + 1,
            max_ack_pending=MAX_ACK_PENDING,
        )
        await partition.start(after)

    async def widen(self, record: GroupRecord) -> None:
        """Has its consumers deliver other writers' actions too, and forgets what was folded without them."""
        await ensure_consumers(self.transport, self.namespace, record)
        for partition in self.partitions:
            partition.restart("the group now reads actions of other writers")
        self.actions = True

    def forget(self, customer: str) -> None:
        """Drops what is in memory of a customer that was erased."""
        at = self.namespace.locate(customer)
        if self.partitions:
            self.partitions[at.partition].forget(at.token)

    def stop(self) -> None:
        """Takes no more deliveries."""
        for partition in self.partitions:
            partition.stop()

    @property
    def idle(self) -> bool:
        return all(partition.idle for partition in self.partitions)

    async def close(self) -> None:
        """Ends the flows. What was not closed comes again to the next owner."""
        partitions, self.partitions = self.partitions, []
        for partition in partitions:
            partition.stop()
        results = await asyncio.gather(*(partition.shut() for partition in partitions), return_exceptions=True)
        for result in results:
            if isinstance(result, SojournError):
                log.warning("a flow did not end cleanly", group=self.name, reason=str(result))
            elif isinstance(result, BaseException):
                raise result

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
        for partition in self.partitions:
            partition.beat()

    def progressed(self) -> None:
        self._progress.set()


async def ensure_consumers(transport: Transport, namespace: Namespace, record: GroupRecord) -> None:
    """Creates a group's consumers where they are missing, and brings their filters up to date."""
    for number in range(namespace.partitions):
        stream = namespace.stream(number)
        await transport.ensure_consumer(
            stream,
            f"{record.name}-{number}",
            namespace.partition_filter(number, actions=record.actions),
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
