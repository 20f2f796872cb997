"""The ports between Sojourn and what carries its messages: small protocols, each with a NATS adapter and a twin.

`Transport` is what an adapter offers: `Log` (store and read), `Consumers` (deliveries of durable consumers),
`Buckets` (small shared facts) and the administration of streams. One contract suite runs on every adapter
(``tests/bus/contract.py``). Sequences are stream sequences, counted by the server from 1; 0 means "before everything".
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from sojourn.bus.delivery.budget import Budget

ACK_WAIT = 60.0
"""Seconds after which the server delivers again what was neither acked nor reported as in progress."""


class Expectation(NamedTuple):
    """What a writer believes of its lane: ``sequence`` is that of the last message matching ``filter`` (0: none).

    The server compares filter *texts*, so all writers of a lane send the same one.
    """

    filter: str
    sequence: int


class Schedule(NamedTuple):
    """Deliver the message to ``target``, a subject of the same stream, at ``at`` (aware, UTC; past times fire at
    once)."""

    at: datetime
    target: str


@dataclass(frozen=True, slots=True)
class Append:
    """One message to store.

    With ``schedule`` it is held under ``subject`` (a later one there replaces it) until it fires. ``unschedule`` names
    a timer subject whose pending message is dropped once this one is stored. ``message_id`` is for publishers only:
    appends to a lane carry an expectation instead.
    """

    subject: str
    payload: bytes
    expect: Expectation | None = None
    message_id: str | None = None
    schedule: Schedule | None = None
    unschedule: str | None = None


class Receipt(NamedTuple):
    """Where a message was stored. ``duplicate``: its id was stored before, at ``sequence``, and nothing was added."""

    sequence: int
    duplicate: bool = False


class Stored(NamedTuple):
    """One message as a stream holds it. ``timestamp``: when it was stored, in nanoseconds since the epoch, UTC."""

    subject: str
    sequence: int
    payload: bytes
    timestamp: int


class Ahead(NamedTuple):
    """What lies ahead of a position: how many messages match, and the ``first`` of them (None where there is none)."""

    matching: int
    first: Stored | None


class Delivery(NamedTuple):
    """One message as a durable consumer delivers it.

    ``consumer_sequence`` counts this consumer's deliveries from 1 after each reset; a gap means that somebody else
    was served. ``token`` is the adapter's own (on NATS the reply subject) and goes back in `Consumption.ack`.
    """

    subject: str
    sequence: int
    payload: bytes
    timestamp: int
    consumer_sequence: int
    token: str


class Log(Protocol):
    """Stores and reads messages of streams."""

    @property
    def max_payload(self) -> int:
        """The largest message (payload and headers together) that the server takes, in bytes."""
        ...

    def send(self, stream: str, append: Append, done: Callable[[Receipt | Exception], None]) -> None:
        """Stores one message, pipelined: returns at once, messages of one caller are stored in the order sent.

        ``done`` is called exactly once, from the event loop: with a receipt, or with one of `ConcurrencyError`
        (the expectation was wrong, or cannot be evaluated), `TooLargeError`, `PermissionDenied`, `TimedOutError`
        (it may or may not be stored) and `UnavailableError` (likewise).
        """
        ...

    async def commit(self, stream: str, appends: Sequence[Append]) -> list[int]:
        """Stores all of 1 to 1,000 messages or none, and returns their sequences, which are consecutive.

        The whole batch costs one fsync. Raises `ConcurrencyError` (a lane has moved: ``actual`` is that lane's real
        tail), `DuplicateError` (a member's message id is stored), `BusyError` (too many open batches), `TooLargeError`,
        `PermissionDenied`, `TimedOutError` and `UnavailableError` (both: it may or may not be stored).
        """
        ...

    async def last(self, stream: str, filter: str) -> Stored | None:
        """The newest message matching ``filter`` (wildcards allowed), read from the stream's leader: never stale."""
        ...

    async def get(self, stream: str, sequence: int) -> Stored | None:
        """The message with that sequence; None where there is none (any more)."""
        ...

    async def read(self, stream: str, filter: str, start: int = 1, limit: int = 0, size: int = 0) -> list[Stored]:
        """Messages matching ``filter`` from ``start`` on, ascending: at most ``limit``, and none after the one with
        which their payloads reach ``size`` bytes together; all there are where both are 0."""
        ...

    async def ahead(self, stream: str, filter: str, start: int = 1) -> Ahead:
        """How many messages match ``filter`` from ``start`` on, and the first of them: one question, no consumer. On a
        replicated stream any replica may answer. Raises `NotFoundError` where there is no such stream."""
        ...

    def follow(
        self, stream: str, filter: str, *, start: int | datetime = 1, end: int | None = None
    ) -> AsyncGenerator[list[Stored], None]:
        """Messages matching ``filter`` from a sequence or moment on, in order, without gaps or repetition, in batches
        as they come; survives reconnects. Ends after sequence ``end`` was passed (whether or not that one matches);
        never where ``end`` is None. Makes no durable consumer. Whoever leaves it early closes it (``aclosing``).
        Raises `NotFoundError` where there is no such stream (any more)."""
        ...


class Consumption(Protocol):
    """The open flow of one durable consumer."""

    async def restart(self) -> None:
        """Resets the consumer to its ack floor and pulls anew; the next delivery has consumer sequence 1.
        Deliveries of before the reset no longer arrive."""
        ...

    def ack(self, token: str) -> None:
        """Closes one delivery. Fire and forget: an ack that is lost means a redelivery, which every reader meets."""
        ...

    def progress(self, token: str) -> None:
        """Tells the server that the delivery is still being worked on, which restarts its ack_wait."""
        ...

    async def close(self) -> None:
        """Stops pulling and waits until acks sent before have left. Not acked deliveries come again to the next
        owner."""
        ...


class Consumers(Protocol):
    """Durable pull consumers with explicit acks, unlimited deliveries and exactly one filter."""

    async def ensure_consumer(self, stream: str, name: str, filter: str, *, start: int, max_ack_pending: int) -> None:
        """Creates the consumer, to start at sequence ``start``, if it is not there; if it is, only its filter is
        brought up to date (its position stays)."""
        ...

    async def consumer_lag(self, stream: str, name: str) -> ConsumerLag | None:
        """Position and lag as the server sees them; None where there is no such consumer."""
        ...

    def consume(
        self,
        stream: str,
        name: str,
        receive: Callable[[Delivery], None],
        broken: Callable[[str], None],
        budget: Budget | None = None,
        left: Callable[[], float] | None = None,
    ) -> Consumption:
        """Opens the flow; nothing comes before `Consumption.restart`. ``receive`` is called from the event loop for
        each delivery and must not block. ``broken`` is called with a reason (reconnected, consumer gone, silence)
        whenever deliveries may have been missed; the caller then restarts.

        ``budget`` bounds the bytes of deliveries that are in memory or under way, for all flows that share it; one of
        its own where there is none. A delivery counts until it is acked, and until a restart or the close.

        ``left`` tells the seconds for which this process surely owns the consumer: what it has asked for ends by then,
        so that a process which stops in the middle does not take its successor's deliveries."""
        ...


class ConsumerLag(NamedTuple):
    """A durable consumer as the server sees it. Sequences are of the stream; ``pending`` counts messages not delivered
    yet."""

    ack_floor: int
    delivered: int
    pending: int
    in_flight: int


class Entry(NamedTuple):
    """One key of a bucket. ``revision`` is its stream sequence; ``value`` is None for a deleted or expired key."""

    key: str
    value: bytes | None
    revision: int


class Bucket(Protocol):
    """A key-value bucket. Keys match ``[-/_=.a-zA-Z0-9]+`` and neither start nor end with a dot.

    An *erasable* bucket leaves nothing behind: a value that is replaced, deleted or erased is overwritten where it is
    stored. It knows no TTLs, since what expires is only forgotten, not overwritten."""

    async def get(self, key: str) -> Entry | None:
        """The newest value, or None where there is none, or it was deleted or has expired."""
        ...

    async def put(self, key: str, value: bytes, *, expect: int | None = None, ttl: int | None = None) -> int:
        """Writes and returns the new revision. ``expect`` is the revision that must be the newest (0: no value yet,
        deleted or expired ones included); otherwise `ConcurrencyError`. ``ttl`` in whole seconds, of this value
        only; erasable buckets refuse it with a `PermanentError`."""
        ...

    async def create(self, values: Mapping[str, bytes]) -> set[str]:
        """Writes the value of each key that has none (deleted, expired and erased ones have none) and returns those
        keys; the others had one, which stays. In an erasable bucket up to 1,000 keys are one atomic write.

        After a `TransientError` any of them may be written or not: called again, it returns only what it then wrote.
        """
        ...

    async def delete(self, key: str, *, expect: int | None = None) -> None:
        """Deletes the key; one that is not there is no error. ``expect`` as in `put`."""
        ...

    async def erase(self, key: str) -> bool:
        """Removes the key and all its revisions, markers of deletions included, and overwrites their bytes; True where
        there was one. Interrupted, it is finished by calling it again: until then the newest revision stands. Watchers
        are not told; a `create` or `put` afterwards begins anew. Raises `ConfigurationError` where the bucket is not
        erasable."""
        ...

    async def entries(self, prefix: str = "") -> list[Entry]:
        """All living entries whose key starts with ``prefix``, ordered by key."""
        ...

    def watch(self, prefix: str = "") -> AsyncGenerator[Entry, None]:
        """Every change from now on, deletions and expiries included; survives reconnects without missing the newest
        value of a key. First come all living entries."""
        ...


@dataclass(frozen=True, slots=True)
class StreamSpec:
    """A stream to create: file storage, S2 compression, atomic batches, direct reads, schedules and TTLs, no limits.

    ``log``: False for the stream of foreign documents, which needs neither batches nor schedules.
    """

    name: str
    subjects: tuple[str, ...]
    log: bool = True
    metadata: dict[str, str] = field(default_factory=dict)


class StreamState(NamedTuple):
    """A stream as it is. ``first`` and ``last`` are sequences (first = last + 1 where it is empty). ``time`` is that of
    the clock which also stamps what is stored: nanoseconds since the epoch, UTC."""

    first: int
    last: int
    messages: int
    metadata: dict[str, str]
    time: int


class Streams(Protocol):
    """The administration of streams."""

    async def create_stream(self, spec: StreamSpec) -> None:
        """Creates the stream; one of that name and the same subjects is left as it is. Raises `ConfigurationError`."""
        ...

    async def stream_state(self, name: str) -> StreamState | None:
        """The stream's state from its leader, or None."""
        ...

    async def delete_stream(self, name: str) -> None:
        """Deletes the stream and everything in it; one that is not there is no error."""
        ...

    async def delete_messages(self, stream: str, sequences: Sequence[int]) -> None:
        """Deletes single messages securely: their bytes are overwritten. Those already gone are no error."""
        ...

    async def purge(self, stream: str, upto: int) -> None:
        """Deletes every message up to the sequence ``upto``, at a price that does not depend on their number.

        Nothing of them is left on disk where nothing is left in the stream. Bytes of those that share a block of its
        file with messages that stay may remain until these are gone, too (nats-server 2.15)."""
        ...

    async def streams(self, prefix: str = "") -> list[str]:
        """Names of the streams that start with ``prefix``, sorted."""
        ...


class Transport(Log, Consumers, Streams, Protocol):
    """Everything an adapter offers."""

    async def bucket(self, name: str, *, erasable: bool = False) -> Bucket:
        """The bucket of that name, created where it is missing (file storage, one value per key, TTL markers).

        ``erasable``: it must be one that leaves nothing behind (see `Bucket`), or is created so; without it, a bucket
        that is there is taken as it is. Raises `ConfigurationError` where it was created otherwise."""
        ...

    async def close(self) -> None:
        """Sends what is buffered and disconnects; open flows end, pending sends get a `ClosedError`."""
        ...
