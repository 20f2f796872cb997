"""Which customers are parked in a shard: those whose lane has a ``parked`` record after its last ``unparked`` one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from pydantic_core import from_json

from sojourn.bus.ports import Log, Stored

LIMIT = 5_000
"""Records of one kind and partition that a first look reads at most, the latest ones: some 20 questions and 5 pages."""


class Parked(NamedTuple):
    """A parked customer of one writer. ``since`` is the sequence of the first event that waits, ``stamp`` the time at
    which its parking was recorded, in nanoseconds."""

    partition: int
    token: str
    writer: str
    since: int
    stamp: int


class ParkedKeys:
    """What is known of a shard's ``partitions``; each look reads only what was stored since the one before.

    ``truncated``: the first look left records out, so a customer parked long ago may be missing.
    """

    def __init__(self, log: Log, stream: str, namespace: str, partitions: Sequence[int]) -> None:
        self.truncated = False
        self._log = log
        self._stream = stream
        self._namespace = namespace
        self._next = 1
        self._known: dict[int, dict[tuple[str, str], Parked]] = {partition: {} for partition in partitions}

    async def look(self, last: int) -> list[Parked]:
        """Those parked as of the sequence ``last``. Raises what reading raises; nothing is lost by it."""
        if last >= self._next:
            # One after the other: a first question takes the server some 0.1 s for 100,000 customers of a partition, in
            # which their stream does nothing else (2.15).
            for partition, known in self._known.items():
                records = await self._records(partition, "parked")
                if records or known:
                    records += await self._records(partition, "unparked")
                for record in sorted(records, key=lambda one: one.sequence):
                    if record.sequence <= last:
                        _take(record, partition, known)
            self._next = last + 1
        return [one for known in self._known.values() for one in known.values()]

    async def _records(self, partition: int, kind: str) -> list[Stored]:
        filter, start = f"{self._namespace}.lane.{partition}.*.act.*.{kind}", self._next
        matching = (await self._log.ahead(self._stream, filter, start)).matching
        if not matching:
            return []
        if matching > LIMIT:
            start, matching = await self._latest(filter, start), LIMIT
            self.truncated = True
        # With its limit the server stops at the last one, and does not search the rest of the stream for more.
        return await self._log.read(self._stream, filter, start, matching)

    async def _latest(self, filter: str, low: int) -> int:
        """The sequence from which on there are just as many records as may be read."""
        last = await self._log.last(self._stream, filter)
        high = last.sequence if last is not None else low
        while low < high:
            middle = (low + high) // 2
            if (await self._log.ahead(self._stream, filter, middle)).matching > LIMIT:
                low = middle + 1
            else:
                high = middle
        return low


def _take(record: Stored, partition: int, known: dict[tuple[str, str], Parked]) -> None:
    *_, token, _, writer, kind = record.subject.split(".")
    known.pop((token, writer), None)
    if kind != "parked":
        return
    try:
        since = int(from_json(record.payload)["from"])
    except (ValueError, LookupError, TypeError):
        since = 0  # not Sojourn's, or of another time: parked all the same, since when is not known
    known[token, writer] = Parked(partition, token, writer, since, record.timestamp)
