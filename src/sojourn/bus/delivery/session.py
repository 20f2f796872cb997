"""A worker's session: one entry in the bucket ``{NS}_leases`` that says it lives, and what its life protects.

``member.{token}`` is renewed with its time to live and an expected revision on every write; its worker counts from
before it sent the renewal, on the monotonic clock, so it never believes in itself longer than the server does. Claims
of partitions (`ownership`) name the token and count as long as the entry is there: one renewal, however many partitions
a worker runs. A session that lapsed never comes back; the worker begins another, with another token.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from time import monotonic
from typing import Any

from sojourn.bus.delivery.processes import is_gone, this_process
from sojourn.bus.errors import ConcurrencyError
from sojourn.bus.ports import Bucket, Entry

TTL = 5
"""Seconds after which a worker that does not renew its session counts as dead."""

PREFIX = "member."


@dataclass(frozen=True, slots=True)
class Member:
    """A living worker as its entry tells of it. ``groups``: those whose code it has; ``modes``: the revision of each
    writer's registration whose mode it obeys."""

    token: str
    worker: str
    groups: frozenset[str]
    modes: Mapping[str, int]
    process: Mapping[str, object]
    revision: int

    @property
    def gone(self) -> bool:
        """Its process is known to have ended."""
        return is_gone(self.process)


class Session:
    """This worker's membership. ``groups`` and ``modes`` are told with the next renewal."""

    def __init__(self, bucket: Bucket, worker: str, groups: Iterable[str], *, ttl: int = TTL) -> None:
        self.worker = worker
        self.life = secrets.token_hex(8)
        """What tells this worker from all others, and stays when its session lapses and another begins."""
        self.token = secrets.token_hex(8)
        self.modes: dict[str, int] = {}
        self._bucket = bucket
        self.groups = sorted(groups)
        self._ttl = ttl
        self._revision = 0
        self._until = 0.0

    @property
    def left(self) -> float:
        """Seconds for which it surely counts; 0 where it does not."""
        return max(0.0, self._until - monotonic())

    @property
    def held(self) -> bool:
        return monotonic() < self._until

    @property
    def began(self) -> bool:
        """Whether it was ever stored: from then on it can lapse."""
        return self._revision > 0

    async def renew(self) -> bool:
        """Begins the session or renews it. False where it has lapsed: whatever its claims protected belongs to others
        now, and `restart` begins another. Raises what the bucket raises; it then counts as long as before."""
        for _ in range(3):
            sent = monotonic()
            try:
                self._revision = await self._bucket.put(self._key, self._value(), expect=self._revision, ttl=self._ttl)
            except ConcurrencyError:
                # Nobody else writes here: it has expired, or the answer to an earlier renewal was lost.
                entry = await self._bucket.get(self._key)
                if entry is None or entry.value is None:
                    self._until = 0.0
                    return False
                self._revision = entry.revision
            else:
                self._until = sent + self._ttl
                return True
        self._until = 0.0
        return False

    def restart(self) -> None:
        """Forgets a session that has lapsed; the next renewal begins another."""
        self.token = secrets.token_hex(8)
        self.modes = {}
        self._revision, self._until = 0, 0.0

    async def end(self) -> None:
        """Leaves, so that nobody waits for its expiry. Raises what the bucket raises."""
        self._until = 0.0
        await self._bucket.delete(self._key)

    @property
    def _key(self) -> str:
        return f"{PREFIX}{self.token}"

    def _value(self) -> bytes:
        document = {"worker": self.worker, "groups": self.groups, "modes": self.modes, **this_process()}
        return json.dumps(document).encode()


def read_member(entry: Entry) -> Member | None:
    """The member behind an entry of the bucket; None for one that has left, and for what is no member's."""
    if entry.value is None or not entry.key.startswith(PREFIX):
        return None
    try:
        document: dict[str, Any] = json.loads(entry.value)
        return Member(
            entry.key.removeprefix(PREFIX),
            str(document["worker"]),
            frozenset(document["groups"]),
            {str(writer): int(revision) for writer, revision in document["modes"].items()},
            {name: document.get(name) for name in ("host", "pid", "born")},
            entry.revision,
        )
    except (ValueError, LookupError, TypeError, AttributeError):
        return None
