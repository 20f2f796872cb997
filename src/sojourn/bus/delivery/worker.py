"""The worker: runs processors on a bus, from their registration to their last ack."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Literal, Self, cast

import structlog

from sojourn.bus.breaker import Breakers
from sojourn.bus.catalog import Catalog
from sojourn.bus.client import Bus
from sojourn.bus.delivery.budget import LIMIT, Budget
from sojourn.bus.delivery.group import DRAIN, Group, ensure_consumers, group_processors
from sojourn.bus.delivery.lease import Lease
from sojourn.bus.delivery.ownership import Ownership
from sojourn.bus.delivery.probation import Probation
from sojourn.bus.delivery.runners import Runners
from sojourn.bus.delivery.session import Session
from sojourn.bus.delivery.watchdog import Watchdog
from sojourn.bus.errors import SojournError
from sojourn.bus.event import Event, spec_of
from sojourn.bus.ids import uuid7
from sojourn.bus.ingress import Ingress
from sojourn.bus.ports import ACK_WAIT, Append
from sojourn.bus.processor import Processor
from sojourn.bus.registry import GroupRecord
from sojourn.bus.relay import Relays

log = structlog.get_logger("sojourn.worker")

CLOSE = 0.5
"""Seconds that handlers have to end in once they are cancelled."""

_POLL = 0.05
"""Seconds between two looks at what another worker does."""

FAREWELL = 1.5
"""Seconds for the last acks and the return of the leases. Together leaving stays within ten: a service manager that was
told to stop a worker kills it then."""


class Worker:
    """Runs processors until its block ends::

        async with Worker(bus, processors, catalog=catalog) as worker:
            await worker.wait()

    Entering registers the processors and takes this worker's share of the partitions of their groups; when workers
    come, leave or die, the shares change by themselves. Leaving hands its share over: no new deliveries, running
    handlers finish (7 s at most), outputs are committed, acks sent.
    """

    def __init__(
        self,
        bus: Bus,
        processors: Sequence[Processor],
        *,
        catalog: Iterable[type[Event]] = (),
        name: str | None = None,
        ingress: bool = True,
        relays: bool = True,
        concurrency: int = 1000,
        memory: int = LIMIT,
    ) -> None:
        self.bus = bus
        self.name = name or f"worker-{uuid7()[-12:]}"
        self.processors = tuple(processors)
        self.catalog = Catalog(catalog)
        for processor in self.processors:
            for cls in (*processor.handles.values(), *processor.folds.values(), *processor.publishes.values()):
                self.catalog.add(cls)
        self.runners = Runners(concurrency)
        self.budget = Budget(memory)
        self.breakers = Breakers()
        self.probation = Probation()
        self.groups: list[Group] = []
        self._progress = asyncio.Event()
        self._behind: dict[int, tuple[int, int]] = {}
        self._relayed: dict[int, int] = {}
        self._relays: Relays | None = None
        self._stopping = asyncio.Event()
        self._with_ingress = ingress
        self._with_relays = relays
        self._ownership: Ownership | None = None
        self._running: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        try:
            await self._enter()
        except BaseException:
            await self._leave()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        try:
            if (
                self._ownership is not None
                and not isinstance(error, asyncio.CancelledError)
                and not await self._ownership.leave(DRAIN)
            ):
                log.warning("handlers still running are cut off; their events come again", handlers=self._labels())
        finally:
            await self._leave()
        failure = self._failure()
        if failure is not None and error is None:
            raise failure

    async def _enter(self) -> None:
        bus = self.bus
        # Before anything is registered, so that code which cannot run leaves nothing behind.
        for cls in {
            cls for processor in self.processors for cls in (*processor.handles.values(), *processor.folds.values())
        }:
            await bus.schemas.check_reading(cls)
        await self._check_keys()
        for cls in self.catalog:
            await bus.schemas.admit(cls)
        for processor in self.processors:
            await bus.registry.register(processor)
        await self._announce()
        leases = await bus.transport.bucket(bus.namespace.bucket("leases"))
        by_group = group_processors(self.processors)
        session = Session(leases, self.name, by_group)
        for name, members in by_group.items():
            self.groups.append(
                Group(
                    name,
                    members,
                    transport=bus.transport,
                    namespace=bus.namespace,
                    registry=bus.registry,
                    committer=bus.committer,
                    schemas=bus.schemas,
                    keys=bus.keys,
                    clock=bus.clock,
                    runners=self.runners,
                    session=session,
                    budget=self.budget,
                    breakers=self.breakers,
                    probation=self.probation,
                    progress=self._progress,
                )
            )
        relays = self._relays = Relays(
            bus, self.runners, session, self.budget, self.breakers, self.probation, self._progress
        )
        bus.committer.observers.append(self._stored)
        bus.keys.on_erased.append(self._forget)
        for group in self.groups:
            group.relaying = relays.declare
            # Fixed before anything is handled: what is stored from now on is theirs.
            group.record = await self._settle(group)
        self._ownership = Ownership(leases, session, self.groups, bus.namespace.partitions, obey=self._obey)
        await self._ownership.begin()
        with contextlib.suppress(SojournError):  # it is tried again as soon as the registry is watched
            await self.widen()  # whoever registered meanwhile
        self._running = asyncio.create_task(self._run(self._ownership, Lease(leases, "ingress", self.name)))
        # Whoever waits to be caught up hears of the worker's end.
        self._running.add_done_callback(lambda _: self._progress.set())

    async def _check_keys(self) -> None:
        """Raises `ConfigurationError` where a master key is needed that is not here: personal values are stored
        already, or a processor publishes some."""
        keys = self.bus.keys
        personal = [cls.__name__ for cls in self.catalog if spec_of(cls).personal]
        if keys.has_master or personal:
            await keys.verify()
        if keys.has_master and personal:
            await keys.prepare()
        for processor in self.processors:
            if any(spec_of(cls).personal for cls in processor.publishes.values()):
                await keys.prepare()
        if personal and not keys.has_master:
            log.warning("no master key is given: personal values could neither be read nor published", events=personal)

    async def _leave(self) -> None:
        """Ends everything that runs. Cancelled in the middle, it leaves the rest to the event loop."""
        self._stopping.set()
        if self._stored in self.bus.committer.observers:
            self.bus.committer.observers.remove(self._stored)
        if self._forget in self.bus.keys.on_erased:
            self.bus.keys.on_erased.remove(self._forget)
        running = self._running
        try:
            await self.runners.close(CLOSE)
        finally:
            if running is not None:
                running.cancel()
            elif self._ownership is not None:  # it did not get so far
                running = asyncio.create_task(self._farewell(self._ownership))
        if running is not None:
            await asyncio.wait([running])

    def _failure(self) -> BaseException | None:
        running = self._running
        return running.exception() if running is not None and running.done() and not running.cancelled() else None

    async def wait(self) -> None:
        """Returns only when the worker fails, by raising why."""
        assert self._running is not None
        await asyncio.shield(self._running)

    async def caught_up(self) -> None:
        """Waits until every group of this worker has closed everything that this process's committer knows to be
        stored, what the handling of that led to included, here or in another worker. What was stored although its
        answer was lost is not waited for."""
        while True:
            self._progress.clear()
            lagging, elsewhere = self._lagging()
            if not lagging and not elsewhere:
                return
            assert self._running is not None
            if self._running.done():
                await self._running
            if lagging:
                await self._progress.wait()
            elif await self._lag_elsewhere(elsewhere):
                await asyncio.sleep(_POLL)

    def _lagging(self) -> tuple[bool, list[tuple[Group, int, int]]]:
        """Whether a partition that runs here is behind, and those that run elsewhere, with what they have to reach."""
        elsewhere: list[tuple[Group, int, int]] = []
        if self._relays is not None:
            for number, need in list(self._relayed.items()):
                partition = self._relays.partitions.get(number)
                if partition is None:
                    elsewhere.append((self._relays, number, need))
                elif partition.floor < need:
                    return True, []
                else:
                    del self._relayed[number]
        for number, (behaviour, anything) in list(self._behind.items()):
            known = len(elsewhere)
            for group in self.groups:
                need = anything if group.actions else behaviour
                partition = group.partitions.get(number)
                if partition is None:
                    elsewhere.append((group, number, need))
                elif partition.floor < need or partition.catching:
                    return True, []
            if len(elsewhere) == known:
                del self._behind[number]
        return False, elsewhere

    async def _lag_elsewhere(self, needs: Sequence[tuple[Group, int, int]]) -> bool:
        """Whether a partition that does not run here is behind, as the server sees it. Forgets those that are not."""
        behind = set()
        for group, number, need in needs:
            stream = self.bus.namespace.stream(number)
            lag = await self.bus.transport.consumer_lag(stream, f"{group.name}-{number}")
            if need and (lag is None or lag.ack_floor < need):
                behind.add(number)
        for number in {number for _, number, _ in needs} - behind:
            self._behind.pop(number, None)
            self._relayed.pop(number, None)
        return bool(behind)

    def _stored(self, stream: str, appends: Sequence[Append], sequences: Sequence[int]) -> None:
        for append, sequence in zip(appends, sequences, strict=True):
            tokens = append.subject.split(".", 5)
            if tokens[1] == "log" and len(tokens) > 4:
                number = int(tokens[2])
                # The highest, since answers to pipelined publishes may overtake each other.
                behaviour, anything = self._behind.get(number, (0, 0))
                self._behind[number] = (
                    max(behaviour, sequence) if tokens[4] == "evt" else behaviour,
                    max(anything, sequence),
                )
            elif self._with_relays and tokens[1] == "lane" and tokens[-1].endswith(".relay"):
                number = int(tokens[2])
                self._relayed[number] = max(self._relayed.get(number, 0), sequence)

    async def _run(self, ownership: Ownership, ingress: Lease) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._beat())
                tasks.create_task(self._watch_writers())
                tasks.create_task(ownership.run())
                if self._with_ingress:
                    tasks.create_task(Ingress(self.bus, self.catalog, ingress).run())
        finally:
            await self._farewell(ownership)

    async def _farewell(self, ownership: Ownership) -> None:
        try:
            async with asyncio.timeout(FAREWELL):
                await ownership.end()
        except TimeoutError:
            log.warning("the server does not answer: the session is left to expire")

    async def _obey(self) -> None:
        """Pauses and resumes groups as the registry says, and tells that it has."""
        modes = await self.bus.registry.modes()
        for group in self.groups:
            paused = any(modes[p.writer].mode == "paused" for p in group.processors if p.writer in modes)
            if paused and not group.paused:
                await group.pause()
                log.info("group paused", group=group.name)
            elif group.paused and not paused:
                group.resume()
                log.info("group resumed", group=group.name)
        assert self._ownership is not None
        await self._ownership.acknowledge(
            {p.writer: modes[p.writer].revision for p in self.processors if p.writer in modes}
        )

    def _forget(self, customer: str) -> None:
        for group in self.groups:
            group.forget(customer)

    async def _settle(self, group: Group) -> GroupRecord:
        registry = self.bus.registry
        present = {}
        for stream in self.bus.namespace.streams:
            state = await self.bus.transport.stream_state(stream)
            present[stream] = state.last if state is not None else 0
        return await registry.settle_group(
            group.name,
            present=present,
            start=cast("Literal['now', 'beginning']", group.start_at),
            actions=group.reads_others(await self._published()),
        )

    async def _announce(self) -> None:
        """Has every group that reads what is published here deliver it from the first action on.

        The worker that runs such a group hears of the new writer too, but perhaps only once its position is past the
        first actions."""
        registry = self.bus.registry
        mine = {processor.writer: frozenset(processor.publishes) for processor in self.processors}
        readers: set[str] = set()
        for writer in await registry.writers():
            if any(name != writer.name and types & writer.reads for name, types in mine.items()):
                readers.add(writer.group)
        for name in readers:
            record = await registry.group(name)
            if record is not None and not record.actions:
                wide = await registry.settle_group(name, present={}, start="now", actions=True)
                await ensure_consumers(self.bus.transport, self.bus.namespace, wide)

    async def _published(self) -> Mapping[str, frozenset[str]]:
        """What each writer publishes, by name; under ``{name}~`` what it puts out for other customers, since that
        comes back to its own group as another writer's."""
        writers = await self.bus.registry.writers()
        return {
            **{writer.name: frozenset(writer.publishes) for writer in writers},
            **{f"{writer.name}~": frozenset(writer.relays) for writer in writers if writer.relays},
        }

    async def _watch_writers(self) -> None:
        """Obeys changes of modes. And a writer that registers later may publish what a group here folds: that group
        then has to see it."""
        assert self._relays is not None
        assert self._ownership is not None
        while True:
            try:
                async with contextlib.aclosing(self.bus.registry.bucket.watch("writer.")) as changes:
                    async for _ in changes:
                        await self._obey()
                        await self.widen()
                        if self._with_relays:
                            await self._relays.join(self._ownership)
            except SojournError as error:
                log.warning("the registry could not be read, will try again", reason=str(error))
            await asyncio.sleep(1)

    async def widen(self) -> None:
        """Has each group that now reads actions of others deliver them. Done by itself soon after one registers."""
        narrow = [group for group in self.groups if not group.actions]
        if not narrow:
            return
        published = await self._published()
        for group in narrow:
            if group.reads_others(published):
                await group.widen(await self._settle(group))

    async def _beat(self) -> None:
        assert self._relays is not None
        interval = ACK_WAIT / 6
        elapsed = 0.0
        with Watchdog(self.runners):
            while True:
                await asyncio.sleep(0.5)
                self.runners.sweep()
                elapsed += 0.5
                if elapsed >= interval:
                    elapsed = 0.0
                    for group in (*self.groups, self._relays):
                        group.beat()

    def _labels(self) -> list[str]:
        return [call.label for call in self.runners.calls.values()]
