"""The worker: runs processors on a bus, from their registration to their last ack."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Literal, Self, cast

import structlog

from sojourn.bus.catalog import Catalog
from sojourn.bus.client import Bus
from sojourn.bus.delivery.group import Group, ensure_consumers, group_processors
from sojourn.bus.delivery.lease import TTL, Lease
from sojourn.bus.delivery.runners import Runners
from sojourn.bus.delivery.watchdog import Watchdog
from sojourn.bus.errors import SojournError
from sojourn.bus.event import Event, spec_of
from sojourn.bus.ids import uuid7
from sojourn.bus.ingress import Ingress
from sojourn.bus.ports import ACK_WAIT, Append
from sojourn.bus.processor import Processor
from sojourn.bus.registry import GroupRecord

log = structlog.get_logger("sojourn.worker")

DRAIN = 7.0
"""Seconds that a leaving worker waits for handlers that are running."""

CLOSE = 0.5
"""Seconds that handlers have to end in once they are cancelled."""

FAREWELL = 1.5
"""Seconds for the last acks and the return of the leases. Together leaving stays within ten: a service manager that was
told to stop a worker kills it then."""


class Worker:
    """Runs processors until its block ends::

        async with Worker(bus, processors, catalog=catalog) as worker:
            await worker.wait()

    Entering registers the processors and takes their groups; a group that another worker holds is taken as soon as
    that one leaves or dies. Leaving hands them over: no new deliveries, running handlers finish (7 s at most), outputs
    are committed, acks sent.
    """

    def __init__(
        self,
        bus: Bus,
        processors: Sequence[Processor],
        *,
        catalog: Iterable[type[Event]] = (),
        name: str | None = None,
        ingress: bool = True,
        concurrency: int = 1000,
    ) -> None:
        self.bus = bus
        self.name = name or f"worker-{uuid7()[-12:]}"
        self.processors = tuple(processors)
        self.catalog = Catalog(catalog)
        for processor in self.processors:
            for cls in (*processor.handles.values(), *processor.folds.values(), *processor.publishes.values()):
                self.catalog.add(cls)
        self.runners = Runners(concurrency)
        self.groups: list[Group] = []
        self._progress = asyncio.Event()
        self._behind: dict[int, tuple[int, int]] = {}
        self._tasks: asyncio.TaskGroup | None = None
        self._stack = contextlib.AsyncExitStack()
        self._stopping = asyncio.Event()
        self._with_ingress = ingress
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
        for group in self.groups:
            group.stop()
        try:
            if not isinstance(error, asyncio.CancelledError):
                drained = await self.runners.drain(DRAIN, lambda: all(group.idle for group in self.groups))
                if not drained:
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
        for name, members in group_processors(self.processors).items():
            self.groups.append(
                Group(
                    name,
                    members,
                    transport=bus.transport,
                    namespace=bus.namespace,
                    committer=bus.committer,
                    schemas=bus.schemas,
                    keys=bus.keys,
                    clock=bus.clock,
                    runners=self.runners,
                    lease=Lease(leases, f"group.{name}", self.name),
                    progress=self._progress,
                )
            )
        bus.committer.observers.append(self._stored)
        bus.keys.on_erased.append(self._forget)
        for group in self.groups:
            # Fixed before anything is handled: what is stored from now on is theirs.
            await self._settle(group)
        ready: list[asyncio.Future[None]] = [asyncio.get_running_loop().create_future() for _ in self.groups]
        self._running = asyncio.create_task(self._run(ready, leases_ingress=Lease(leases, "ingress", self.name)))
        # Whoever waits to be caught up hears of the worker's end.
        self._running.add_done_callback(lambda _: self._progress.set())
        for future in ready:
            await asyncio.wait([future, self._running], return_when=asyncio.FIRST_COMPLETED)
            if self._running.done():
                await self._running

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
        """Waits until every group of this worker has closed everything that this process's committer stored so far,
        what the handling of that led to included."""
        while True:
            self._progress.clear()
            if not self._lagging():
                return
            assert self._running is not None
            if self._running.done():
                await self._running
            await self._progress.wait()

    def _lagging(self) -> bool:
        for number, (behaviour, anything) in list(self._behind.items()):
            for group in self.groups:
                need = anything if group.actions else behaviour
                if not group.partitions or group.partitions[number].floor < need:
                    return True
            del self._behind[number]
        return False

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

    async def _run(self, ready: list[asyncio.Future[None]], *, leases_ingress: Lease) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._beat())
                tasks.create_task(self._watch_writers())
                for group, future in zip(self.groups, ready, strict=True):
                    tasks.create_task(self._hold(group, future))
                if self._with_ingress:
                    tasks.create_task(Ingress(self.bus, self.catalog, leases_ingress).run())
        finally:
            try:
                async with asyncio.timeout(FAREWELL):
                    await asyncio.gather(*(self._give_back(group) for group in self.groups))
            except TimeoutError:
                log.warning("the server does not answer: leases are left to expire")

    async def _give_back(self, group: Group) -> None:
        await group.close()
        await group.lease.release()

    async def _hold(self, group: Group, ready: asyncio.Future[None]) -> None:
        """Runs a group whenever this worker holds its lease."""
        announced = False
        while True:
            try:
                held = await group.lease.acquire()
            except SojournError as error:
                held = group.lease.held
                log.warning("lease not renewed", group=group.name, reason=str(error))
            if held and not group.partitions and not self._stopping.is_set():
                try:
                    await group.open(await self._settle(group))
                    await self._widen()  # whoever registered while it opened
                except SojournError as error:
                    log.warning("group could not start, will try again", group=group.name, reason=str(error))
                    await group.close()
                else:
                    log.info("group runs here", group=group.name, agents=[p.writer for p in group.processors])
            elif not held and group.partitions:
                log.warning("group given up: its lease is lost", group=group.name, holder=group.lease.holder)
                await group.close()
            elif not held and not announced:
                announced = True
                log.info("group runs elsewhere; standing by", group=group.name, holder=group.lease.holder)
            if not ready.done() and (group.partitions or not held):
                ready.set_result(None)
            await asyncio.sleep(TTL / 3 if group.partitions else TTL / 10)

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
        readers: dict[str, bool] = {}
        for writer in await registry.writers():
            reads = any(name != writer.name and types & writer.reads for name, types in mine.items())
            readers[writer.group] = reads or readers.get(writer.group, False)
        for name, reads in readers.items():
            record = await registry.group(name)
            if reads and record is not None and not record.actions:
                wide = await registry.settle_group(name, present={}, start="now", actions=True)
                await ensure_consumers(self.bus.transport, self.bus.namespace, wide)

    async def _published(self) -> Mapping[str, frozenset[str]]:
        return {writer.name: frozenset(writer.publishes) for writer in await self.bus.registry.writers()}

    async def _watch_writers(self) -> None:
        """A writer that registers later may publish what a group here folds: that group then has to see it."""
        while True:
            try:
                async with contextlib.aclosing(self.bus.registry.bucket.watch("writer.")) as changes:
                    async for _ in changes:
                        await self._widen()
            except SojournError as error:
                log.warning("the registry could not be read, will try again", reason=str(error))
            await asyncio.sleep(1)

    async def _widen(self) -> None:
        narrow = [group for group in self.groups if group.partitions and not group.actions]
        if not narrow:
            return
        published = await self._published()
        for group in narrow:
            if group.reads_others(published):
                await group.widen(await self._settle(group))

    async def _beat(self) -> None:
        interval = ACK_WAIT / 6
        elapsed = 0.0
        with Watchdog(self.runners):
            while True:
                await asyncio.sleep(0.5)
                self.runners.sweep()
                elapsed += 0.5
                if elapsed >= interval:
                    elapsed = 0.0
                    for group in self.groups:
                        group.beat()

    def _labels(self) -> list[str]:
        return [call.label for call in self.runners.calls.values()]
