"""Measures lag: consumer info and direct reads, many at a time, shard by shard. Makes no consumer and moves none."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple, TypeVar

from pydantic import ValidationError

from sojourn.bus.client import Bus
from sojourn.bus.errors import NotFoundError, TransientError, UnavailableError
from sojourn.bus.intake import INGRESS
from sojourn.bus.lag.figures import Figures, GroupLag, Lag, PartitionLag, total
from sojourn.bus.lag.owners import read_owners
from sojourn.bus.lag.parked import Parked, ParkedKeys
from sojourn.bus.ports import Entry, StreamState
from sojourn.bus.registry import GroupRecord, Registration

PATIENCE = 5.0
"""Seconds after which a shard that does not answer is left out."""
_AT_ONCE = 32
"""Questions in flight for each shard."""

T = TypeVar("T")


class _Look(NamedTuple):
    """What was seen of one partition of one group. ``oldest`` is a time in nanoseconds, ``arrived`` the number of
    events stored since the look at the shard before, ``at`` and ``since`` times of the event loop."""

    waiting: tuple[int, int]
    oldest: int | None
    arrived: int | None
    since: float
    at: float


class _Unmeasured(NamedTuple):
    """Why something could not be measured."""

    reason: str


@dataclass(slots=True)
class _Shard:
    """One shard, and what the next look at it has to know of this one."""

    stream: str
    partitions: list[int]
    parked: ParkedKeys
    last: int | None = None
    at: float = 0.0
    looks: dict[tuple[str, int], _Look] = field(default_factory=dict)


class Meter:
    """Measures the lag of a namespace, again and again: rates are those since the measurement before.

    ``groups``: only these, by name; ``ingress`` stands for the foreign documents that wait to be filed.
    """

    def __init__(self, bus: Bus, groups: Collection[str] = (), *, patience: float = PATIENCE) -> None:
        self._bus = bus
        self._wanted = frozenset(groups)
        self._patience = patience
        self._shards = [_shard(bus, number, stream) for number, stream in enumerate(bus.namespace.streams)]
        self._ingress: _Look | None = None
        self._ingress_last: tuple[int, float] | None = None

    async def measure(self) -> Lag:
        """The lag now. A shard that does not answer in time is left out, and named.

        Raises `NotFoundError` for a group that is not there, `UnavailableError` or `TimedOutError` where nothing can be
        measured, `PermissionDenied`.
        """
        bus = self._bus
        entries: list[Entry]
        writers: list[Registration]
        owners: dict[tuple[str, int], str] | None
        entries, writers, owners = await _together(
            bus.registry.bucket.entries("group."), bus.registry.writers(), read_owners(bus.transport, bus.namespace)
        )
        records = {record.name: record for record in _records(entry.value for entry in entries)}
        members: dict[str, list[Registration]] = {name: [] for name in records}
        for writer in writers:
            members.setdefault(writer.group, []).append(writer)
        names = self._choose(sorted(members))
        chosen = [records[name] for name in names if name in records]
        of_writer = {writer.name: writer.group for name in names for writer in members[name]}
        failures: dict[str, str] = {}
        lags: dict[str, list[PartitionLag]] = {name: [] for name in names}
        looked: list[dict[tuple[str, int], Figures] | _Unmeasured]
        looked = await _together(*(self._bounded(self._look(one, chosen, of_writer)) for one in self._shards))
        for shard, result in zip(self._shards, looked, strict=True):
            if isinstance(result, _Unmeasured):
                failures[shard.stream] = result.reason
                continue
            for (group, partition), figures in result.items():
                worker = (owners or {}).get((group, partition))
                lags[group].append(PartitionLag(partition, figures, worker))
        if len(failures) == len(self._shards):
            raise UnavailableError(f"nothing could be measured: {next(iter(failures.values()))}")
        groups = [self._group(name, lags[name], members[name], name in records, failures) for name in names]
        if not self._wanted or INGRESS in self._wanted:
            groups += await self._measure_ingress(failures)
        truncated = any(shard.parked.truncated for shard in self._shards)
        return Lag(bus.namespace.name, datetime.now(UTC), tuple(groups), owners is not None, failures, truncated)

    def _choose(self, known: Sequence[str]) -> list[str]:
        missing = sorted(self._wanted - {INGRESS, *known})
        if missing:
            raise NotFoundError(f"there is no group named {missing[0]!r} (groups: {', '.join(known) or 'none yet'})")
        return [name for name in known if not self._wanted or name in self._wanted]

    def _group(
        self,
        name: str,
        partitions: list[PartitionLag],
        writers: Sequence[Registration],
        ran: bool,
        failures: Mapping[str, str],
    ) -> GroupLag:
        namespace = self._bus.namespace
        silent = [p for p in range(namespace.partitions) if ran and namespace.stream(p) in failures]
        return GroupLag(
            name,
            total(one.figures for one in partitions),
            tuple(sorted(partitions, key=lambda one: one.partition)),
            tuple(silent),
            tuple(writer.name for writer in writers),
            bool(writers) and all(writer.mode == "paused" for writer in writers),
            ran,
        )

    async def _look(
        self, shard: _Shard, groups: Sequence[GroupRecord], of_writer: Mapping[str, str]
    ) -> dict[tuple[str, int], Figures]:
        """The figures of a shard's partitions, for each group."""
        state = await self._state(shard.stream)
        before, since, at = shard.last, shard.at, asyncio.get_running_loop().time()
        namespace = self._bus.namespace
        parked = [one for one in await shard.parked.look(state.last) if one.writer in of_writer]
        gate = asyncio.Semaphore(_AT_ONCE)

        async def arrived(filter: str) -> int | None:
            if before is None:
                return None
            async with gate:
                return (await self._bus.transport.ahead(shard.stream, filter, before + 1)).matching

        async def look(partition: int) -> dict[tuple[str, int], _Look]:
            # Together, so that what came and what waits are of the same moment.
            filters = [namespace.group_filter(group.name, partition, actions=group.actions) for group in groups]
            kinds = sorted(set(filters))
            *counts, waits = await _together(
                *map(arrived, kinds),
                _together(*(self._waits(gate, shard.stream, partition, group) for group in groups)),
            )
            came: dict[str, Any] = dict(zip(kinds, counts, strict=True))
            now = asyncio.get_running_loop().time()
            return {
                (group.name, partition): _Look(waiting, oldest, came[filter], since, now)
                for group, filter, (waiting, oldest) in zip(groups, filters, waits, strict=True)
            }

        looks = {place: one for part in await _together(*map(look, shard.partitions)) for place, one in part.items()}
        stamps = await self._stamps(shard.stream, parked, of_writer)
        figures = {}
        for (group, partition), one in looks.items():
            keys = [key for key in parked if key.partition == partition and of_writer[key.writer] == group]
            ages = [time for time in (one.oldest, stamps.get((group, partition))) if time is not None]
            figures[group, partition] = _figures(one, shard.looks.get((group, partition)), len(keys), ages, state.time)
        shard.last, shard.at, shard.looks = state.last, at, looks
        return figures

    async def _waits(
        self, gate: asyncio.Semaphore, stream: str, partition: int, group: GroupRecord
    ) -> tuple[tuple[int, int], int | None]:
        """What is pending and in flight, and when the oldest of it was stored."""
        transport = self._bus.transport
        filter = self._bus.namespace.group_filter(group.name, partition, actions=group.actions)
        async with gate:
            lag = await transport.consumer_lag(stream, f"{group.name}-{partition}")
            if lag is None:
                # Not created yet: it will begin where the group does.
                ahead = await transport.ahead(stream, filter, group.start.get(stream, 0) + 1)
                return (ahead.matching, 0), ahead.first.timestamp if ahead.first is not None else None
            if not lag.pending and not lag.in_flight:
                return (0, 0), None
            # The first match after the ack floor is not handled: else the floor were higher.
            first = (await transport.ahead(stream, filter, lag.ack_floor + 1)).first
            return (lag.pending, lag.in_flight), first.timestamp if first is not None else None

    async def _stamps(
        self, stream: str, parked: Iterable[Parked], of_writer: Mapping[str, str]
    ) -> dict[tuple[str, int], int]:
        """For each group and partition, when the oldest event was stored that a parked customer waits with."""
        oldest: dict[tuple[str, int], Parked] = {}
        for one in parked:
            place = of_writer[one.writer], one.partition
            if place not in oldest or one.since < oldest[place].since:
                oldest[place] = one
        events = await _together(*(self._bus.transport.get(stream, one.since) for one in oldest.values()))
        return {
            place: event.timestamp if event is not None else one.stamp
            for (place, one), event in zip(oldest.items(), events, strict=True)
        }

    async def _measure_ingress(self, failures: dict[str, str]) -> list[GroupLag]:
        """The foreign documents that wait to be filed; nothing where there never was one."""
        result = await self._bounded(self._look_at_ingress())
        if isinstance(result, _Unmeasured):
            failures[self._bus.namespace.ingress_stream] = result.reason
            return []
        return [] if result is None else [GroupLag(INGRESS, result)]

    async def _look_at_ingress(self) -> Figures | None:
        bus, namespace = self._bus, self._bus.namespace
        state = await self._state(namespace.ingress_stream)
        if not state.last:
            return None
        loop = asyncio.get_running_loop()
        at = loop.time()
        cursors = await _together(
            *(
                bus.transport.last(stream, namespace.cursor(INGRESS, shard))
                for shard, stream in enumerate(namespace.streams)
            )
        )
        lowest = min(json.loads(one.payload)["position"] if one is not None else 0 for one in cursors)
        ahead = await bus.transport.ahead(namespace.ingress_stream, namespace.ingress_filter, lowest + 1)
        before = self._ingress_last
        # Filed documents are removed, so what came is not what is there, but what was numbered.
        arrived = state.last - before[0] if before is not None else None
        oldest = ahead.first.timestamp if ahead.first is not None else None
        look = _Look((ahead.matching, 0), oldest, arrived, before[1] if before is not None else 0.0, at)
        figures = _figures(look, self._ingress, 0, [oldest] if oldest is not None else [], state.time)
        self._ingress, self._ingress_last = look, (state.last, at)
        return figures

    async def _state(self, stream: str) -> StreamState:
        state = await self._bus.transport.stream_state(stream)
        if state is None:
            raise UnavailableError(f"stream {stream} is not there")
        return state

    async def _bounded(self, look: Awaitable[T]) -> T | _Unmeasured:
        try:
            async with asyncio.timeout(self._patience):
                return await look
        except TimeoutError:
            return _Unmeasured(f"no answer within {self._patience:g} s")
        except TransientError as error:
            return _Unmeasured(str(error))


def _shard(bus: Bus, number: int, stream: str) -> _Shard:
    namespace = bus.namespace
    partitions = [p for p in range(namespace.partitions) if namespace.shard_of(p) == number]
    return _Shard(stream, partitions, ParkedKeys(bus.transport, stream, namespace.name, partitions))


def _figures(look: _Look, before: _Look | None, parked: int, times: Collection[int], now: int) -> Figures:
    pending, in_flight = look.waiting
    oldest = max(0.0, (now - min(times)) / 1e9) if times else None
    arriving = leaving = None
    if before is not None and look.arrived is not None and look.at > max(before.at, look.since):
        arriving = look.arrived / (look.at - look.since)
        more = (sum(look.waiting) - sum(before.waiting)) / (look.at - before.at)
        # The two looks at a busy shard are not quite of the same moments.
        leaving = max(0.0, arriving - more)
    return Figures(pending, in_flight, parked, oldest, arriving, leaving)


async def _together(*questions: Awaitable[Any]) -> list[Any]:
    """All answers; the first failure only once every other question is answered, so that none is left behind."""
    answers = await asyncio.gather(*questions, return_exceptions=True)
    for answer in answers:
        if isinstance(answer, BaseException):
            raise answer
    return answers


def _records(values: Iterable[bytes | None]) -> Iterable[GroupRecord]:
    for value in values:
        try:
            yield GroupRecord.model_validate_json(value or b"")
        except ValidationError:
            continue  # of a later version: nothing is known of its position
