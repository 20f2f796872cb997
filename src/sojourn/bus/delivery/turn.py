"""One handling of one cause: what a processor may ask of the bus while it runs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Protocol

from pydantic import JsonValue

from sojourn.bus.committer import Committer
from sojourn.bus.crashpoints import AFTER_ONCE, BEFORE_ONCE, reach
from sojourn.bus.envelope import Cause, cause_of
from sojourn.bus.errors import (
    ConfigurationError,
    HandlerError,
    PermanentError,
    SojournError,
    TooLargeError,
    TransientError,
)
from sojourn.bus.ids import derived_id
from sojourn.bus.lane import Lane, Sealed, Writer, once_change
from sojourn.bus.personal.key import CustomerKey
from sojourn.bus.processor import Recorded
from sojourn.bus.subjects import Address


class LaneInterrupted(BaseException):
    """The lane could not be extended while a handler ran: the handling ends and starts over from what is stored. A
    `BaseException`, so that no ``except Exception`` of a handler goes on with a result that is not durable."""


class Vault(Protocol):
    """Seals what is kept of a customer."""

    async def sealer(self) -> CustomerKey | None:
        """The key to seal with; None where what is kept is not personal."""
        ...

    async def unseal(self, text: str) -> bytes | None:
        """What was sealed; None where it was erased."""
        ...


class LaneTurn:
    """The `Turn` of one writer for one cause."""

    __slots__ = (
        "_at",
        "_cause",
        "_committer",
        "_lane",
        "_lock",
        "_valid",
        "_vault",
        "_writer",
        "attempt",
        "now",
        "recorded",
    )

    def __init__(
        self,
        recorded: Recorded,
        now: datetime,
        attempt: int,
        at: Address,
        lane: Lane,
        writer: Writer,
        committer: Committer,
        valid: Callable[[], bool],
        vault: Vault,
    ) -> None:
        self.recorded = recorded
        self.now = now
        self.attempt = attempt
        self._at = at
        self._lane = lane
        self._writer = writer
        self._committer = committer
        self._valid = valid
        self._vault = vault
        self._cause: Cause | None = None
        self._lock: asyncio.Lock | None = None

    @property
    def cause(self) -> Cause:
        if self._cause is None:
            self._cause = cause_of(self.recorded.envelope, self.recorded.sequence)
        return self._cause

    def id(self, *parts: str | int) -> str:
        return derived_id(
            self._writer.namespace.name, self._writer.name, self._at.stream, self.recorded.sequence, *parts
        )

    def timer(self, name: str) -> datetime | None:
        timer = self._lane.timers.get(name)
        return None if timer is None else timer.at

    async def once(self, name: str, call: Callable[[], Awaitable[bytes]]) -> bytes:
        cause = self.recorded.sequence
        journalled = self._lane.journalled(cause)
        if name in journalled:
            return await self._revived(name, journalled[name])
        result = await call()
        try:
            document = json.loads(result)
        except ValueError as error:
            raise HandlerError(f"the result of {name} is no JSON: {error}") from error
        if self._lock is None:
            self._lock = asyncio.Lock()
        async with self._lock:
            if not self._valid():
                raise LaneInterrupted
            # What is known of a customer with personal data may be found in the answer about that customer.
            try:
                key = await self._vault.sealer()
                kept = Sealed(key.seal(result, remember=False)) if key is not None else document
                append = once_change(self._writer, self._at, self._lane, cause, name, kept)
                reach(BEFORE_ONCE)
                [self._lane.tail] = await self._committer.store(self._at.stream, [append])
                reach(AFTER_ONCE)
            except TooLargeError as error:
                raise PermanentError(f"the result of {name} is too large to be journalled: {error}") from error
            except SojournError as error:
                raise LaneInterrupted from error
            if self._lane.journal_cause != cause:
                self._lane.journal_cause, self._lane.journal = cause, {}
            self._lane.journal[name] = kept
        return result

    async def _revived(self, name: str, kept: JsonValue | Sealed) -> bytes:
        if not isinstance(kept, Sealed):
            return json.dumps(kept).encode()
        try:
            result = await self._vault.unseal(kept.text)
        except (ConfigurationError, TransientError) as error:
            raise LaneInterrupted from error
        if result is not None:
            return result
        raise PermanentError(
            f"the result of {name} was erased with its customer while the event was being handled: "
            "whether the rest is still to be done, nobody can say"
        )
