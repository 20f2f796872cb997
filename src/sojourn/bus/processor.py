"""The port between the bus and what runs on it: agents, sagas and projections are processors.

The partition worker delivers a key's envelopes in order, one at a time; a `Processor` opens a `Resident` per key,
which folds what it is shown and turns a cause into an `Output`. The worker makes that output durable, exactly once,
before the key goes on.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal, NamedTuple, Protocol

from sojourn.bus.envelope import Cause, Envelope
from sojourn.bus.event import Event


class Recorded(NamedTuple):
    """An envelope at its place in the log. ``writer`` is None for behaviour, else who wrote the action; ``due`` marks a
    timer that fired, ``redriven`` a dead letter's original that was put back, with a sequence of its own. Handlers see
    both, folds do not; ``writer`` is then whom it is for."""

    envelope: Envelope[Event]
    sequence: int
    writer: str | None = None
    due: bool = False
    redriven: bool = False


class SetTimer(NamedTuple):
    """Deliver ``event`` back to this writer at ``at``; replaces an open timer of that name."""

    name: str
    event: Event
    at: datetime


class CancelTimer(NamedTuple):
    """Drop the timer of that name, if one is open."""

    name: str


@dataclass(slots=True)
class Output:
    """What a processor did about one cause: stored all together, or not at all. Timers in the order they were asked
    for.

    ``events`` are of the customer whose event is handled; ``others`` of other customers, each named by its event's key:
    stored with the rest, and taken to them by the relay (`sojourn.bus.relay`), in order and once.
    """

    events: list[Event] = field(default_factory=list)
    timers: list[SetTimer | CancelTimer] = field(default_factory=list)
    others: list[Event] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.events or self.timers or self.others)


NOTHING = Output()
"""The output of a handler that did nothing: leaves no record. Never changed."""


@dataclass(frozen=True, slots=True)
class Retry:
    """How often and how fast a handler that raised a transient error is called again, holding only its key.

    ``attempts`` counts the first call; waits double from ``initial`` up to ``maximum``, each with up to half of itself
    as jitter.
    """

    attempts: int = 5
    initial: timedelta = timedelta(milliseconds=200)
    maximum: timedelta = timedelta(seconds=30)


class Turn(Protocol):
    """One handling of one cause by one writer: what the bus offers while it runs."""

    @property
    def recorded(self) -> Recorded:
        """The cause."""
        ...

    @property
    def now(self) -> datetime:
        """When the cause counts as handled (`Clock.handling`)."""
        ...

    @property
    def attempt(self) -> int:
        """1 for the first call, counted in this process."""
        ...

    @property
    def cause(self) -> Cause:
        """The cause, as what the handler publishes will name it."""
        ...

    def id(self, *parts: str | int) -> str:
        """An identifier that is the same on every attempt of this handling, in every process."""
        ...

    def timer(self, name: str) -> datetime | None:
        """When the open timer of that name is due; None where none is open."""
        ...

    async def once(self, name: str, call: Callable[[], Awaitable[bytes]]) -> bytes:
        """The journalled result of ``name``: on the first attempt ``call``'s, made durable before this returns;
        afterwards the stored one. Names are unique within a turn."""
        ...


class Resident(Protocol):
    """What a processor keeps in memory of one key. Dropped at any time, and opened anew from the log."""

    def observe(self, recorded: Recorded) -> None:
        """Folds an envelope of this key, in stream order. Called for the processor's `Processor.folds` types, the
        cause itself included, before `run`. Raises `PermanentError` where the fold fails; the resident is then
        dropped."""
        ...

    def acted(self, recorded: Recorded, cause: int) -> None:
        """Told of each action of this writer for this key once it is durable (``cause``: the sequence that it
        answers), and of the stored ones, in order, when the resident is opened. Its sequence may be above causes still
        to be handled."""
        ...

    def run(self, turn: Turn) -> Output | Awaitable[Output]:
        """Handles a cause of one of the `Processor.handles` types."""
        ...


class Processor(Protocol):
    """An agent, saga or projection as the worker sees it."""

    @property
    def kind(self) -> Literal["agent", "saga", "projection"]: ...

    @property
    def writer(self) -> str:
        """The name of its lanes; unique in the namespace."""
        ...

    @property
    def group(self) -> str:
        """Whose position it shares; its own name unless it was given one."""
        ...

    @property
    def version(self) -> int: ...

    @property
    def start(self) -> Literal["now", "beginning"]:
        """Where a group that never ran before begins."""
        ...

    @property
    def handles(self) -> Mapping[str, type[Event]]:
        """Event types that `Resident.run` is called for, by name."""
        ...

    @property
    def folds(self) -> Mapping[str, type[Event]]:
        """Event types that its state is made of, by name."""
        ...

    @property
    def publishes(self) -> Mapping[str, type[Event]]:
        """Event types it may put out as actions or set as timers, by name."""
        ...

    @property
    def retry(self) -> Retry: ...

    @property
    def on_poison(self) -> Literal["dead", "park"]:
        """What becomes of an event that cannot be handled: a dead letter, and its customer goes on; or its customer is
        parked until an operator decides."""
        ...

    @property
    def timeout(self) -> timedelta:
        """The longest one call of a handler may take."""
        ...

    @property
    def description(self) -> Mapping[str, Any]:
        """What the registry tells of it: JSON values."""
        ...

    def open(self, key: str) -> Resident:
        """A resident for a key of which nothing is known yet."""
        ...
