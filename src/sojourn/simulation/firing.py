"""Firing timers of virtual time: storing their messages where the server would have delivered them."""

from __future__ import annotations

import asyncio
from functools import partial
from time import monotonic
from typing import NamedTuple

from pydantic_core import from_json

from sojourn.bus.committer import Committer
from sojourn.bus.errors import DuplicateError, TransientError
from sojourn.bus.ports import Append
from sojourn.bus.publisher import PATIENCE
from sojourn.bus.timers import DueTimer

_PAUSE = 0.2
"""Between two attempts to store through an outage, in seconds of the wall clock."""


class _Unsure(NamedTuple):
    """A message of which nobody knows whether it is stored."""

    stream: str
    append: Append
    reason: TransientError


class Firing:
    """Fires timers, pipelined: `fire` returns at once, `flush` when all of them are stored."""

    def __init__(self, committer: Committer) -> None:
        self._committer = committer
        self._unanswered = 0
        self._again: list[_Unsure] = []
        self._failure: Exception | None = None
        self._settled = asyncio.Event()

    def fire(self, timer: DueTimer) -> None:
        """Stores a timer's message under its target."""
        # The timer's own id: a retry of a store that did happen is refused as a duplicate for the server's two minutes.
        self._submit(timer.stream, Append(timer.target, timer.payload, message_id=from_json(timer.payload)["id"]))

    async def flush(self) -> None:
        """Waits until what was fired is stored, through an outage of up to a minute. Raises the first reason why
        something is not."""
        deadline = monotonic() + PATIENCE
        while True:
            while self._unanswered:
                self._settled.clear()
                await self._settled.wait()
            if self._failure is not None:
                raise self._failure
            if not self._again:
                return
            again, self._again = self._again, []
            if monotonic() >= deadline:
                raise again[0].reason
            await asyncio.sleep(_PAUSE)
            for stream, append, _ in again:
                self._submit(stream, append)

    def _submit(self, stream: str, append: Append) -> None:
        self._unanswered += 1
        self._committer.submit(stream, [append], partial(self._answered, stream, append))

    def _answered(self, stream: str, append: Append, result: list[int] | Exception) -> None:
        self._unanswered -= 1
        if isinstance(result, TransientError):
            self._again.append(_Unsure(stream, append, result))
        elif isinstance(result, Exception) and not isinstance(result, DuplicateError):
            self._failure = result
        if not self._unanswered:
            self._settled.set()
