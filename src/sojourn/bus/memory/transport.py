"""The in-memory transport."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice

from sojourn.bus.appends import check_append, check_batch
from sojourn.bus.clock import Clock, WallClock
from sojourn.bus.delivery.budget import Budget
from sojourn.bus.errors import (
    ClosedError,
    ConfigurationError,
    DuplicateError,
    NotFoundError,
    SojournError,
    TooLargeError,
    UnavailableError,
)
from sojourn.bus.grammar import check_name, overlaps
from sojourn.bus.memory.bucket import MemoryBucket
from sojourn.bus.memory.consumer import MemoryConsumer, MemoryFlow
from sojourn.bus.memory.stream import MemoryStream
from sojourn.bus.ports import Ahead, Append, ConsumerLag, Delivery, Receipt, Stored, StreamSpec, StreamState
from sojourn.bus.timers import Timers

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_PART = 256
"""Messages of one batch of `MemoryTransport.follow`."""


class MemoryTransport:
    """`sojourn.bus.ports.Transport` in memory, deterministic: what is sent is stored at once, in the order sent;
    answers and deliveries come from the event loop, never from within `send`.

    Timers do not fire by themselves: whoever advances the time takes them from ``timers`` and sends them to their
    targets. ``clock`` gives the timestamps of what is stored. Payloads alone count towards ``max_payload`` (bytes).
    """

    def __init__(self, timers: Timers, *, clock: Clock | None = None, max_payload: int = 1_048_576) -> None:
        self._timers = timers
        self._clock = clock or WallClock()
        self._max_payload = max_payload
        self._streams: dict[str, MemoryStream] = {}
        self._buckets: dict[str, MemoryBucket] = {}
        self._timestamp = 0
        self._closed = False

    @property
    def max_payload(self) -> int:
        """The largest message, in bytes."""
        return self._max_payload

    def send(self, stream: str, append: Append, done: Callable[[Receipt | Exception], None]) -> None:
        """Stores one message. See `sojourn.bus.ports.Log.send`."""
        outcome: Receipt | Exception
        try:
            outcome = self._store(stream, append)
        except SojournError as error:
            outcome = error
        asyncio.get_running_loop().call_soon(done, outcome)

    async def commit(self, stream: str, appends: Sequence[Append]) -> list[int]:
        """Stores all messages or none. See `sojourn.bus.ports.Log.commit`."""
        self._check_open()
        check_batch(appends)
        if len(appends) == 1:
            receipt = self._store(stream, appends[0])
            if receipt.duplicate:
                raise DuplicateError(
                    f"{stream}: message id {appends[0].message_id} is stored at {receipt.sequence}",
                    sequence=receipt.sequence,
                )
            sequences = [receipt.sequence]
        else:
            for append in appends:
                self._check_size(append)
            sequences = self._writable(stream).store_all(appends, self._now())
            self._timers.stored(stream, appends)
        # As on NATS, others have their turn before the answer is there.
        await asyncio.sleep(0)
        return sequences

    async def last(self, stream: str, filter: str) -> Stored | None:
        """The newest message matching ``filter``."""
        found = self._stream(stream)
        return found.get(found.tail(filter))

    async def get(self, stream: str, sequence: int) -> Stored | None:
        """The message with that sequence, or None."""
        return self._stream(stream).get(sequence)

    async def read(self, stream: str, filter: str, start: int = 1, limit: int = 0, size: int = 0) -> list[Stored]:
        """Messages matching ``filter`` from ``start`` on, ascending. See `sojourn.bus.ports.Log.read`."""
        found = islice(self._stream(stream).select(filter, start), limit or None)
        if not size:
            return list(found)
        messages = []
        for message in found:
            messages.append(message)
            size -= len(message.payload)
            if size <= 0:
                break
        return messages

    async def ahead(self, stream: str, filter: str, start: int = 1) -> Ahead:
        """How many messages match ``filter`` from ``start`` on, and the first."""
        found = self._stream(stream).select(filter, start)
        first = next(found, None)
        return Ahead(0 if first is None else 1 + sum(1 for _ in found), first)

    async def follow(
        self, stream: str, filter: str, *, start: int | datetime = 1, end: int | None = None
    ) -> AsyncGenerator[list[Stored], None]:
        """Messages as they come. See `sojourn.bus.ports.Log.follow`."""
        source = self._stream(stream)
        position = source.since(_nanoseconds(start)) if isinstance(start, datetime) else start
        wake = asyncio.Event()
        source.followers.append(wake)
        try:
            while not self._closed and (end is None or position <= end):
                if self._streams.get(stream) is not source:
                    raise NotFoundError(f"stream {stream} was deleted")
                wake.clear()
                last = source.last_sequence
                batch = list(islice(source.select(filter, position), _PART))
                position = batch[-1].sequence + 1 if len(batch) == _PART else last + 1
                if end is not None:
                    batch = [message for message in batch if message.sequence <= end]
                if batch:
                    yield batch
                elif position > last and (end is None or position <= end):
                    await wake.wait()
        finally:
            source.followers.remove(wake)

    async def ensure_consumer(self, stream: str, name: str, filter: str, *, start: int, max_ack_pending: int) -> None:
        """Creates the consumer or brings its filter up to date."""
        source = self._stream(stream)
        if (consumer := source.consumers.get(check_name(name))) is not None:
            consumer.refilter(filter)
            return
        source.consumers[name] = MemoryConsumer(source, name, filter, start=start, max_ack_pending=max_ack_pending)

    async def consumer_lag(self, stream: str, name: str) -> ConsumerLag | None:
        """Position and lag, or None."""
        consumer = self._find_consumer(stream, name)
        return consumer.lag() if consumer is not None else None

    def consume(
        self,
        stream: str,
        name: str,
        receive: Callable[[Delivery], None],
        broken: Callable[[str], None],
        budget: Budget | None = None,
        left: Callable[[], float] | None = None,
    ) -> MemoryFlow:
        """Opens the flow of a consumer. See `sojourn.bus.ports.Consumers.consume`."""
        return MemoryFlow(
            lambda: self._find_consumer(stream, name), f"{name} of {stream}", receive, broken, budget or Budget()
        )

    async def create_stream(self, spec: StreamSpec) -> None:
        """Creates the stream, or leaves the same one as it is. Raises `ConfigurationError`."""
        self._check_open()
        check_name(spec.name)
        there = self._streams.get(spec.name)
        if there is not None:
            if set(there.spec.subjects) != set(spec.subjects):
                raise ConfigurationError(
                    f"stream {spec.name} is there with other subjects: {', '.join(sorted(there.spec.subjects))} "
                    f"instead of {', '.join(sorted(spec.subjects))}; use another namespace, or delete the stream"
                )
            return
        for other in self._streams.values():
            if any(overlaps(mine, theirs) for mine in spec.subjects for theirs in other.spec.subjects):
                raise ConfigurationError(f"{spec.name}: subjects overlap with stream {other.spec.name}")
        self._streams[spec.name] = MemoryStream(spec)

    async def stream_state(self, name: str) -> StreamState | None:
        """The stream's state, or None."""
        self._check_open()
        stream = self._streams.get(name)
        return stream.state(_nanoseconds(self._clock.now())) if stream is not None else None

    async def delete_stream(self, name: str) -> None:
        """Deletes the stream and everything in it; one that is not there is no error."""
        self._check_open()
        stream = self._streams.pop(name, None)
        if stream is not None:
            stream.end("Consumer Deleted")

    async def delete_messages(self, stream: str, sequences: Sequence[int]) -> None:
        """Deletes single messages; those already gone are no error."""
        self._stream(stream).delete(sequences)

    async def purge(self, stream: str, upto: int) -> None:
        """Deletes every message up to the sequence ``upto``."""
        there = self._stream(stream)
        there.delete(range(there.state().first, min(upto, there.last_sequence) + 1))

    async def streams(self, prefix: str = "") -> list[str]:
        """Names of the streams that start with ``prefix``, sorted; a bucket's stream is ``KV_`` and its name."""
        self._check_open()
        names = [*self._streams, *(f"KV_{name}" for name in self._buckets)]
        return sorted(name for name in names if name.startswith(prefix))

    async def bucket(self, name: str, *, erasable: bool = False) -> MemoryBucket:
        """The bucket of that name, created where it is missing. See `sojourn.bus.ports.Transport.bucket`."""
        self._check_open()
        bucket = self._buckets.get(check_name(name))
        if bucket is None:
            bucket = self._buckets[name] = MemoryBucket(name, self._clock.now, erasable=erasable)
        elif erasable and not bucket.erasable:
            raise ConfigurationError(
                f"bucket {name} is there but not erasable; use another namespace, or delete the bucket and its values"
            )
        return bucket

    async def close(self) -> None:
        """Ends all flows and refuses everything from now on."""
        self._closed = True
        for stream in self._streams.values():
            stream.end(None)
        for bucket in self._buckets.values():
            bucket.close()

    def _store(self, stream: str, append: Append) -> Receipt:
        self._check_open()
        check_append(append)
        self._check_size(append)
        receipt = self._writable(stream).store(append, self._now())
        if not receipt.duplicate:
            self._timers.stored(stream, (append,))
        return receipt

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError("the transport is closed")

    def _check_size(self, append: Append) -> None:
        size = len(append.payload)
        if size > self._max_payload:
            raise TooLargeError(
                f"the message for {append.subject} has {size} bytes, the limit is {self._max_payload}; "
                "store the content elsewhere and refer to it",
                size=size,
                limit=self._max_payload,
            )

    def _stream(self, name: str) -> MemoryStream:
        self._check_open()
        if name not in self._streams:
            raise NotFoundError(f"there is no stream {name}")
        return self._streams[name]

    def _writable(self, name: str) -> MemoryStream:
        # As on NATS, where nobody answers a publish that no stream takes.
        if name not in self._streams:
            raise UnavailableError(f"no stream answers there: {name} does not exist")
        return self._streams[name]

    def _find_consumer(self, stream: str, name: str) -> MemoryConsumer | None:
        self._check_open()
        source = self._streams.get(stream)
        return source.consumers.get(name) if source is not None else None

    def _now(self) -> int:
        # Time may stand still but never goes back within a stream.
        self._timestamp = max(self._timestamp, _nanoseconds(self._clock.now()))
        return self._timestamp


def _nanoseconds(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(microseconds=1) * 1_000
