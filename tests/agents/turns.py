"""A turn without a bus: what a processor is given, and what it may ask for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

from sojourn.bus.envelope import Cause, cause_of, decode, encode
from sojourn.bus.event import Event, key_of
from sojourn.bus.processor import Recorded

START = datetime(2026, 1, 1, 12, tzinfo=UTC)


def recorded(event: Event, sequence: int = 1, *, writer: str | None = None, due: bool = False) -> Recorded:
    """An event as the log holds it."""
    document = encode(event, id=f"id-{sequence}", source="/test", key=key_of(event), time=START)
    return Recorded(decode(document, type(event)), sequence, writer, due)


class FakeTurn:
    """A `sojourn.bus.processor.Turn` whose journal is a dictionary, which a second attempt may be given."""

    def __init__(
        self,
        event: Event | Recorded,
        *,
        attempt: int = 1,
        journal: dict[str, bytes] | None = None,
        timers: dict[str, datetime] | None = None,
    ) -> None:
        self.recorded = event if isinstance(event, Recorded) else recorded(event)
        self.now = START
        self.attempt = attempt
        self.journal = {} if journal is None else journal
        self.timers = timers or {}

    @property
    def cause(self) -> Cause:
        return cause_of(self.recorded.envelope, self.recorded.sequence)

    def id(self, *parts: str | int) -> str:
        return "-".join(map(str, (self.recorded.sequence, *parts)))

    def timer(self, name: str) -> datetime | None:
        return self.timers.get(name)

    async def once(self, name: str, call: Callable[[], Awaitable[bytes]]) -> bytes:
        if name not in self.journal:
            self.journal[name] = await call()
        return self.journal[name]
