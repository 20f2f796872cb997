"""One stream in memory, indexed so that a lane's tail or a customer's messages are found without a scan."""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import islice

from sojourn.bus.appends import conflict
from sojourn.bus.errors import DuplicateError, SojournError, UnavailableError
from sojourn.bus.grammar import matcher
from sojourn.bus.memory.consumer import MemoryConsumer, literal_head
from sojourn.bus.ports import Append, Receipt, Stored, StreamSpec, StreamState


class MemoryStream:
    """Messages by sequence, with the sequences of each fourth token (the key) and of each first three (the partition).

    Message ids are remembered for ever, not for a time: there is no clock that both twins share.
    """

    def __init__(self, spec: StreamSpec) -> None:
        self.spec = spec
        self.last_sequence = 0
        self.consumers: dict[str, MemoryConsumer] = {}
        self.followers: list[asyncio.Event] = []
        """Set whenever something was stored, and when the stream or the transport ends."""
        self._subjects = [matcher(filter) for filter in spec.subjects]
        self._messages: dict[int, Stored] = {}
        self._all: list[int] = []
        self._by_key: dict[str, list[int]] = {}
        self._by_head: dict[str, list[int]] = {}
        self._ids: dict[str, int] = {}
        self._tails: dict[str, tuple[int, int]] = {}
        self._awake: dict[MemoryConsumer, None] = {}
        self._scheduled = False

    def store(self, append: Append, timestamp: int) -> Receipt:
        """Stores one message. Raises `ConcurrencyError`, `UnavailableError` where the stream has no such subject."""
        self._check_subject(append)
        if append.message_id is not None and (sequence := self._ids.get(append.message_id)) is not None:
            return Receipt(sequence, True)
        if (refusal := self._refusal(append, (append,))) is not None:
            raise refusal
        return Receipt(self._add(append, timestamp))

    def store_all(self, appends: Sequence[Append], timestamp: int) -> list[int]:
        """Stores all messages or none. Raises `ConcurrencyError`, `DuplicateError` and `UnavailableError`.

        Expectations are of the stream before the batch, as on nats-server 2.15.1: two members that expect the same
        of one wildcard lane are both stored, while one that expects something of an earlier member's very subject
        cannot be evaluated."""
        ids: set[str] = set()
        subjects: set[str] = set()
        for append in appends:
            self._check_subject(append)
            if append.message_id is not None:
                if append.message_id in self._ids or append.message_id in ids:
                    raise DuplicateError(
                        f"{self.spec.name}: message id {append.message_id} is stored already; leave that member out"
                    )
                ids.add(append.message_id)
            if append.expect is not None and append.expect.filter in subjects:
                raise conflict(self.spec.name, appends, None)
            if (refusal := self._refusal(append, appends)) is not None:
                raise refusal
            subjects.add(append.subject)
        return [self._add(append, timestamp) for append in appends]

    def get(self, sequence: int) -> Stored | None:
        return self._messages.get(sequence)

    def tail(self, filter: str) -> int:
        """The sequence of the newest message matching ``filter``; 0 where there is none."""
        index = self.index(filter)
        tail, seen = self._tails.get(filter, (0, 0))
        matches = matcher(filter)
        for position in range(len(index) - 1, seen - 1, -1):
            message = self._messages.get(index[position])
            if message is not None and matches(message.subject):
                tail = message.sequence
                break
        self._tails[filter] = (tail, len(index))
        return tail

    def select(self, filter: str, start: int) -> Iterator[Stored]:
        """Messages matching ``filter`` from ``start`` on, ascending; not to be kept across an await."""
        index = self.index(filter)
        matches = matcher(filter)
        for sequence in islice(index, bisect_left(index, start), None):
            message = self._messages.get(sequence)
            if message is not None and matches(message.subject):
                yield message

    def since(self, timestamp: int) -> int:
        """The first sequence stored at or after ``timestamp`` (nanoseconds)."""
        position = bisect_left(self._all, timestamp, key=self._timestamp)
        return self._all[position] if position < len(self._all) else self.last_sequence + 1

    def delete(self, sequences: Sequence[int]) -> None:
        for sequence in sequences:
            self._messages.pop(sequence, None)
        self._tails.clear()

    def index(self, filter: str) -> Sequence[int]:
        """Ascending sequences among which all matches of ``filter`` are, and as few others as the index allows."""
        tokens = filter.split(".")
        if len(tokens) > 3 and tokens[3] not in {"*", ">"}:
            return self._by_key.get(tokens[3], ())
        head = literal_head(filter)
        return self._all if head is None else self._by_head.get(head, ())

    def state(self, time: int = 0) -> StreamState:
        first = next(iter(self._messages), self.last_sequence + 1)
        return StreamState(first, self.last_sequence, len(self._messages), dict(self.spec.metadata), time)

    def wake(self, consumer: MemoryConsumer) -> None:
        """Has the consumer deliver what it can, from the event loop, later than the caller's own code."""
        self._awake[consumer] = None
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._deliver)

    def end(self, reason: str | None) -> None:
        """Ends all flows: of a stream that is deleted, which is a ``reason``, or when the transport closes."""
        for consumer in self.consumers.values():
            consumer.end(reason)
        for follower in self.followers:
            follower.set()

    def _deliver(self) -> None:
        self._scheduled = False
        awake, self._awake = self._awake, {}
        for consumer in awake:
            if consumer.deliver():
                self.wake(consumer)

    def _add(self, append: Append, timestamp: int) -> int:
        self.last_sequence = sequence = self.last_sequence + 1
        self._messages[sequence] = Stored(append.subject, sequence, append.payload, timestamp)
        self._all.append(sequence)
        tokens = append.subject.split(".", 4)
        if len(tokens) > 3:
            self._by_key.setdefault(tokens[3], []).append(sequence)
        head = ".".join(tokens[:3])
        self._by_head.setdefault(head, []).append(sequence)
        if append.message_id is not None:
            self._ids[append.message_id] = sequence
        for consumer in self.consumers.values():
            if consumer.wants(head):
                self.wake(consumer)
        for follower in self.followers:
            follower.set()
        return sequence

    def _check_subject(self, append: Append) -> None:
        if not any(matches(append.subject) for matches in self._subjects):
            raise UnavailableError(f"{append.subject} is not a subject of stream {self.spec.name}")

    def _refusal(self, append: Append, appends: Sequence[Append]) -> SojournError | None:
        expect = append.expect
        if expect is None or (actual := self.tail(expect.filter)) == expect.sequence:
            return None
        return conflict(self.spec.name, appends, actual)

    def _timestamp(self, sequence: int) -> int:
        message = self._messages.get(sequence)
        return message.timestamp if message is not None else 0
