"""Which customers are parked in a shard: those whose lane has a ``parked`` record after its last ``unparked`` one."""

from __future__ import annotations

from typing import NamedTuple

from pydantic_core import from_json

from sojourn.bus.ports import Log, Stored

LIMIT = 20_000
"""Records of each kind that a first look reads at most, the latest ones: some 20 questions and 20 pages."""


class Parked(NamedTuple):
    """A parked customer of one writer. ``since`` is the sequence of the first event that waits, ``stamp`` the time at
    which its parking was recorded, in nanoseconds."""

    partition: int
    token: str
    writer: str
    since: int
    stamp: int


class ParkedKeys:
    """What is known of a shard; each look reads only what was stored since the one before.

    ``truncated``: the first look left records out, so a customer parked long ago may be missing.
    """

    def __init__(self, log: Log, stream: str, namespace: str) -> None:
        self.truncated = False
        self._log = log
        self._stream = stream
        self._prefix = f"{namespace}.lane.*.*.act.*"
        self._next = 1
        self._known: dict[tuple[str, str], Parked] = {}

    async def look(self, last: int) -> list[Parked]:
        """Those parked as of the sequence ``last``. Raises what reading raises; nothing is lost by it."""
        if last >= self._next:
            records = [*await self._records("parked"), *await self._records("unparked")]
            for record in sorted(records, key=lambda one: one.sequence):
                if record.sequence <= last:
                    self._take(record)
            self._next = last + 1
        return list(self._known.values())

    async def _records(self, kind: str) -> list[Stored]:
        filter, start = f"{self._prefix}.{kind}", self._next
        matching = (await self._log.ahead(self._stream, filter, start)).matching
        if not matching:
            return []
        if matching > LIMIT:
            start = await self._latest(filter, start)
            self.truncated = True
        return await self._log.read(self._stream, filter, start)

    async def _latest(self, filter: str, low: int) -> int:
        """A sequence from which on there are at most as many records as may be read, and not many fewer."""
        last = await self._log.last(self._stream, filter)
        high = last.sequence if last is not None else low
        while low < high:
            middle = (low + high) // 2
            if (await self._log.ahead(self._stream, filter, middle)).matching > LIMIT:
                low = middle + 1
            else:
                high = middle
        return low

    def _take(self, record: Stored) -> None:
        _, _, partition, token, _, writer, kind = record.subject.split(".")
        self._known.pop((token, writer), None)
        if kind != "parked":
            return
        try:
            since = int(from_json(record.payload)["from"])
        except (ValueError, LookupError, TypeError):
            since = 0  # not Sojourn's, or of another time: parked all the same, since when is not known
        self._known[token, writer] = Parked(int(partition), token, writer, since, record.timestamp)
