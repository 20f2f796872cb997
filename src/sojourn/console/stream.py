"""The stream of actions over all shards: chosen by subject, history first, then as it comes."""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import datetime

from pydantic_core import from_json

from sojourn.bus.ports import Log, Stored, Transport
from sojourn.bus.registry import Registry
from sojourn.bus.subjects import Namespace, parse_log_subject, split_writer

Show = Callable[[str, Stored], None]
"""Called with a stream's name and a message of it."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which actions are wanted; an empty part means all. ``customers`` are keys."""

    agents: frozenset[str] = frozenset()
    customers: frozenset[str] = frozenset()
    types: frozenset[str] = frozenset()

    def filter(self, namespace: Namespace, *, own: bool = False) -> str:
        """The one subject filter that the server applies: exact wherever a part names a single thing. ``own``: of an
        agent, what it did for the customer whose handling it was.
        """
        place = "*.*"
        if len(self.customers) == 1:
            at = namespace.locate(next(iter(self.customers)))
            place = f"{at.partition}.{at.token}"
        # An agent has another lane for each customer whose handling put something out for others: no filter names all.
        writer = _one(self.agents) if own else "*"
        return f"{namespace.name}.log.{place}.act.{writer}.{_one(self.types)}"

    def streams(self, namespace: Namespace) -> list[str]:
        """The streams that can hold what is wanted."""
        if not self.customers:
            return namespace.streams
        return sorted({namespace.locate(customer).stream for customer in self.customers})

    def chooser(self, namespace: Namespace, *, relayed: bool = False) -> Callable[[str], bool]:
        """Decides on subjects what the filter could not: parts that name several things. ``relayed``: only what came
        from another customer's handling.
        """
        tokens = {namespace.locate(customer).token for customer in self.customers}

        def wanted(subject: str) -> bool:
            parsed = parse_log_subject(subject)
            return (
                parsed is not None
                and (not self.agents or split_writer(parsed.writer or "")[0] in self.agents)
                and (not self.types or parsed.name in self.types)
                and (not tokens or parsed.token in tokens)
                and (not relayed or split_writer(parsed.writer or "")[1] is not None)
            )

        return wanted


async def show_stream(
    transport: Transport,
    namespace: Namespace,
    selection: Selection,
    show: Show,
    *,
    since: datetime | None,
    follow: bool,
    registry: Registry | None = None,
) -> None:
    """Shows what was stored from ``since`` on (None: nothing of before), in the order of storing.

    With ``follow`` it goes on with what comes, as it comes, without a gap or a repetition between the two. The
    ``registry`` tells whether an agent ever put out anything for other customers: of one that did not, the server sends
    nothing but its own actions.
    """
    wanted = selection.chooser(namespace)
    lasts: dict[str, int] = {}
    for stream in selection.streams(namespace):
        state = await transport.stream_state(stream)
        lasts[stream] = state.last if state is not None else 0
    # After that: it is registered before the first of them is stored.
    own = registry is not None and len(selection.agents) == 1 and not await _relays(registry, selection)
    filter = selection.filter(namespace, own=own)
    if since is not None:
        async for stream, stored in _history(transport, filter, since, lasts):
            if wanted(stored.subject):
                show(stream, stored)
    if not follow:
        return
    async with asyncio.TaskGroup() as tasks:
        for stream, last in lasts.items():
            tasks.create_task(_follow(transport, stream, filter, last + 1, wanted, show))
        if own and registry is not None:
            await _relaying(registry, selection)
            everybody, relayed = selection.filter(namespace), selection.chooser(namespace, relayed=True)
            for stream, last in lasts.items():
                # From where this began: nobody knows how much was relayed before that was heard of.
                tasks.create_task(_follow(transport, stream, everybody, last + 1, relayed, show))


async def _relays(registry: Registry, selection: Selection) -> bool:
    """Whether one of the agents ever put out events for other customers."""
    return any(writer.relays for writer in await registry.writers() if writer.name in selection.agents)


async def _relaying(registry: Registry, selection: Selection) -> None:
    """Returns once one of the agents puts out events for other customers."""
    keys = {f"writer.{agent}" for agent in selection.agents}
    changes = registry.bucket.watch("writer.")
    try:
        async for entry in changes:
            if entry.key in keys and entry.value is not None and from_json(entry.value).get("relays"):
                return
    finally:
        await changes.aclose()


async def _follow(log: Log, stream: str, filter: str, start: int, wanted: Callable[[str], bool], show: Show) -> None:
    batches = log.follow(stream, filter, start=start)
    try:
        async for batch in batches:
            for stored in batch:
                if wanted(stored.subject):
                    show(stream, stored)
    finally:
        await _close(batches)


async def _history(log: Log, filter: str, since: datetime, lasts: dict[str, int]) -> AsyncIterator[tuple[str, Stored]]:
    """Everything stored from ``since`` up to ``lasts``, merged by the time at which it was stored."""
    async with AsyncExitStack() as stack:
        sources = [
            _Source(stream, log.follow(stream, filter, start=since, end=last))
            for stream, last in lasts.items()
            if last > 0
        ]
        for source in sources:
            stack.push_async_callback(_close, source.batches)
        await asyncio.gather(*(source.fill() for source in sources))
        heap = [(source.waiting[0].timestamp, order) for order, source in enumerate(sources) if source.waiting]
        heapq.heapify(heap)
        while heap:
            _, order = heap[0]
            source = sources[order]
            yield source.stream, source.waiting.popleft()
            if not source.waiting:
                await source.fill()
            if source.waiting:
                heapq.heapreplace(heap, (source.waiting[0].timestamp, order))
            else:
                heapq.heappop(heap)


@dataclass(slots=True)
class _Source:
    stream: str
    batches: AsyncIterator[list[Stored]]
    waiting: deque[Stored]

    def __init__(self, stream: str, batches: AsyncIterator[list[Stored]]) -> None:
        self.stream, self.batches, self.waiting = stream, batches, deque()

    async def fill(self) -> None:
        """Fetches the next batch; ``waiting`` stays empty at the end."""
        while not self.waiting:
            try:
                self.waiting.extend(await anext(self.batches))
            except StopAsyncIteration:
                return


async def _close(batches: AsyncIterator[list[Stored]]) -> None:
    # At once, not when the interpreter gets to it: by then its connection would be gone.
    if isinstance(batches, AsyncGenerator):
        await batches.aclose()


def _one(names: Iterable[str]) -> str:
    match list(names):
        case [name]:
            return name
    return "*"
