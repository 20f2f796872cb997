"""One partition of one group: the flow of its consumer, and the keys that wait in it.

The order guarantee is contiguity: consumer sequences run 1, 2, 3 … after this worker's own reset. Anything else (a
gap, a redelivery that is not held, a reconnect) means that somebody else may have been served: everything not
committed is discarded and the consumer is reset to its ack floor. What was done meanwhile stands in the lanes, so
nothing happens twice.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog
from pydantic_core import from_json

from sojourn.bus.crashpoints import BEFORE_ACK, reach
from sojourn.bus.delivery.keyqueue import KeyQueue
from sojourn.bus.delivery.probation import CRASHES
from sojourn.bus.delivery.waking import LEAST_ROOM
from sojourn.bus.envelope import decode
from sojourn.bus.errors import DecodeError, UnknownTypeError
from sojourn.bus.ports import Consumption, Delivery
from sojourn.bus.processor import Recorded
from sojourn.bus.reading import Reader
from sojourn.bus.subjects import NO_KEY, Address, unescape_key
from sojourn.bus.verdicts import verdict_of

if TYPE_CHECKING:
    from sojourn.bus.delivery.group import Group

_FILED = frozenset({"file", "filed"})

log = structlog.get_logger("sojourn.worker")


class Partition:
    """Delivers what comes to the keys it belongs to, and acks what they have closed."""

    def __init__(self, group: Group, number: int, *, suspect: int = 0, crashes: int = 0) -> None:
        self.group = group
        self.number = number
        self.stream = group.namespace.stream(number)
        self.consumer = f"{group.name}-{number}"
        self.suspect = suspect
        self.crashes = crashes
        self.catching: set[KeyQueue] = set()
        self._left: dict[Address, int] = {}
        self._held: list[KeyQueue] = []
        self._consumption: Consumption | None = None
        self._keys: dict[str, KeyQueue] = {}
        self._open: dict[int, str] = {}
        self._next = 0
        self._delivered = 0
        self._acked = 0
        self._beaten = 0
        self._restarting: asyncio.Task[None] | None = None
        self._deaf = True
        self._repeat = False
        self._stopped = False

    async def start(self, after: int) -> None:
        """Opens the flow from the ack floor; nothing up to the sequence ``after`` concerns the group. Raises what the
        transport raises."""
        self._acked = after
        group = self.group
        self._consumption = group.transport.consume(
            self.stream,
            self.consumer,
            self.receive,
            self.restart,
            budget=group.budget,
            left=lambda: group.session.left,
        )
        self._discard()
        self._deaf = False
        await self._reset(self._consumption)

    def stop(self) -> None:
        """Takes no more deliveries, and drops those that were not begun: they come again to the next owner."""
        self._stopped = True
        for queue in list(self._keys.values()):
            while len(queue.queue) > 1:
                self._open.pop(queue.queue.pop().sequence, None)
            if queue.waiting or not queue.customer.known:
                self.abandon(queue)

    async def settled(self, seconds: float) -> bool:
        """Waits until what was begun is closed; False where that takes longer than so many seconds."""
        try:
            async with asyncio.timeout(seconds):
                while not self.idle and self._restarting is None:  # noqa: ASYNC110 - once in a partition's life here
                    await asyncio.sleep(0.005)
        except TimeoutError:
            return False
        return True

    @property
    def stopped(self) -> bool:
        """Whether it takes no more deliveries."""
        return self._stopped

    def abandon(self, queue: KeyQueue) -> None:
        """Forgets a key whose head will not be handled here any more: it comes again."""
        if self.discarded(queue):
            return
        self._keys.pop(queue.at.token, None)
        self.catching.discard(queue)
        queue.drop()
        for delivery in queue.queue:
            self._open.pop(delivery.sequence, None)

    async def shut(self) -> None:
        """Ends the flow, after acks sent before have left."""
        self._stopped = True
        restarting = self._restarting
        if restarting is not None:
            restarting.cancel()
            await asyncio.wait([restarting])
        # Whoever is still at it here must not go on beside the next owner.
        self._discard()
        if self._consumption is not None:
            await self._consumption.close()

    @property
    def floor(self) -> int:
        """Everything up to this sequence that concerns the group is closed."""
        return next(iter(self._open)) - 1 if self._open else max(self._delivered, self._acked)

    @property
    def idle(self) -> bool:
        """Whether no delivery is waiting or being handled, and no customer catching up."""
        return not self._open and not self.catching

    @property
    def room(self) -> int:
        """Bytes that one customer's deliveries may take: a tenth of what a partition has of the worker's budget."""
        return max(self.group.budget.limit // (10 * max(1, len(self.group.partitions))), LEAST_ROOM)

    def receive(self, delivery: Delivery) -> None:
        """Takes one delivery, from the transport's callback."""
        if self._stopped or self._deaf:
            return
        if delivery.consumer_sequence != self._next:
            self.restart(f"deliveries {self._next} to {delivery.consumer_sequence - 1} went to somebody else")
            return
        self._next += 1
        sequence = delivery.sequence
        if sequence <= self._delivered and self._delivered:
            if sequence in self._open:
                self._open[sequence] = delivery.token
            else:
                self.restart(f"sequence {sequence} came again")
            return
        self._delivered = sequence
        tokens = delivery.subject.split(".")
        # A document that was filed anew comes by itself.
        if not self.group.wants(tokens) or (tokens[5] == "redrive" and verdict_of(delivery.payload) in _FILED):
            assert self._consumption is not None
            self._consumption.ack(delivery.token)
            self.group.counters.skipped += 1
            self.group.progressed()
            return
        self._open[sequence] = delivery.token
        queue = self._keys.get(tokens[3]) or self._queue(tokens[3])
        if queue.swallows(delivery):
            queue.skip(sequence)
            self.swallow(delivery)
            return
        queue.queue.append(delivery)
        queue.size += len(delivery.payload)
        if not queue.busy:
            queue.busy = True
            self.group.runners.push(queue)

    def _queue(self, token: str) -> KeyQueue:
        try:
            key = unescape_key(token)
        except DecodeError:
            # All that have no usable key wait in one queue and share a lane, since not everything can be a subject.
            key = token = NO_KEY
        if token not in self._keys:
            self._keys[token] = self.group.queue(self, Address(key, token, self.number, self.stream))
        return self._keys[token]

    def recorded(self, delivery: Delivery, reader: Reader) -> Recorded:
        """Decodes a delivery. Raises `DecodeError` and `SchemaError`, and what ``reader`` lacks."""
        tokens = delivery.subject.split(".")
        writer: str | None = None
        due = redriven = False
        type = tokens[-1]
        if tokens[4] == "act":
            writer = tokens[5]
        elif len(tokens) > 6:
            due, redriven, writer = tokens[5] == "due", tokens[5] == "redrive", tokens[6]
            try:
                type = str(from_json(delivery.payload)["type"])
            except (ValueError, LookupError, TypeError) as error:
                what = "a timer's" if due else "a redriven"
                raise DecodeError(f"{what} message that is no event: {error}") from error
        cls = self.group.types.get(type)
        if cls is None:
            raise UnknownTypeError(f"no processor of group {self.group.name} knows the event type {type!r}", type=type)
        envelope = decode(delivery.payload, cls, reader)
        if envelope.type != type:
            raise DecodeError(f"the document says it is a {envelope.type}, its subject says {type}")
        key = unescape_key(tokens[3])
        at = self.group.namespace.locate_token(key, tokens[3])
        if at.partition != self.number:
            raise DecodeError(f"customer {key!r} belongs to partition {at.partition}, its subject says {self.number}")
        if envelope.key != key:
            raise DecodeError(f"the document belongs to customer {envelope.key!r}, its subject to {key!r}")
        return Recorded(envelope, delivery.sequence, writer, due, redriven)

    def on_probation(self, sequence: int) -> bool:
        """Whether an event may be what its last owners died of."""
        return self.crashes >= CRASHES and sequence <= self.suspect

    def hold(self, queue: KeyQueue, sequence: int) -> bool:
        """Whether an event has to wait until all suspects are closed: were it the one that kills, they would gather
        attempts for it. The key is then called again."""
        if self.crashes < CRASHES or sequence <= self.suspect:
            return False
        if self.floor >= self.suspect:
            self._acquit()
            return False
        self._held.append(queue)
        return True

    def _acquit(self) -> None:
        self.crashes = 0
        held, self._held = self._held, []
        for queue in held:
            queue.again()

    def close(self, delivery: Delivery, queue: KeyQueue) -> None:
        """A delivery is done with: acks it, and lets its key go on."""
        reach(BEFORE_ACK)
        self._ack(delivery)
        self.group.counters.closed += 1
        self.rest(queue)

    def swallow(self, delivery: Delivery) -> None:
        """Acks a delivery of a parked customer, which is read from the log later."""
        self._ack(delivery)
        self.group.progressed()

    def rest(self, queue: KeyQueue) -> None:
        """Lets a key go on, or rest where nothing waits."""
        if queue.queue or queue.catching is not None:
            self.group.runners.push(queue)
        else:
            queue.busy = False
            keys = self._keys
            # Moved to the end: the least recently used are the first.
            keys[queue.at.token] = keys.pop(queue.at.token)
            if len(keys) > self.group.resident_limit:
                self._evict()
        self.group.progressed()

    def _ack(self, delivery: Delivery) -> None:
        token = self._open.pop(delivery.sequence, None)
        if token is not None and self._consumption is not None:
            self._consumption.ack(token)
        if self._held and self.floor >= self.suspect:
            self._acquit()

    def forget(self, token: str) -> None:
        """Drops what is in memory of a customer that was erased; one that is being handled, as soon as it is not."""
        queue = self._keys.get(token)
        if queue is not None and queue.busy:
            queue.forget()
        elif queue is not None:
            del self._keys[token]

    def discarded(self, queue: KeyQueue) -> bool:
        """Whether a key's memory was dropped since: what it is still doing has no effect any more."""
        return self._keys.get(queue.at.token) is not queue

    def restart(self, reason: str) -> None:
        """Discards what is not committed and begins again at the ack floor."""
        if self._stopped:
            return
        if self._restarting is not None:
            self._repeat = True
            return
        # A reconnect concerns all partitions alike, and whoever connected is told of it.
        tell = log.debug if reason == "reconnected" else log.info
        tell("partition starts over", group=self.group.name, partition=self.number, reason=reason)
        self.group.counters.restarts += 1
        self._deaf = True
        self._discard()
        self._restarting = asyncio.create_task(self._restart())

    def beat(self) -> None:
        """Tells the server that what has been open since the last beat is still being worked on."""
        if self._restarting is not None or self._consumption is None:
            return
        for sequence, token in self._open.items():
            if sequence > self._beaten:
                break
            self._consumption.progress(token)
        self._beaten = self._delivered

    def _discard(self) -> None:
        dropped, self._keys = self._keys, {}
        for queue in self.catching:
            self._left[queue.at] = max(queue.skipped, self._left.get(queue.at, 0))
        self.catching = set()
        self._held = []
        for queue in dropped.values():
            queue.drop()
        self._open = {}
        self._delivered = 0
        self._beaten = 0
        self._next = 1

    async def _restart(self) -> None:
        assert self._consumption is not None
        wait = 0.05
        try:
            while True:
                self._repeat = False
                self._discard()
                # The old flow ends with the call, so what arrives from now on is of the new one.
                self._deaf = False
                try:
                    await self._until_held()
                    await self._reset(self._consumption)
                except Exception as error:  # noqa: BLE001 - whatever it was, a partition that gave up would be silent
                    self._deaf = True
                    log.warning(
                        "partition waits for the server",
                        group=self.group.name,
                        partition=self.number,
                        error=type(error).__name__,
                        reason=str(error),
                    )
                    await asyncio.sleep(wait)
                    wait = min(wait * 2, 2.0)
                else:
                    if not self._repeat:
                        self._resume()
                        return
        finally:
            self._restarting = None

    def _resume(self) -> None:
        """Goes on with the customers that were catching up: nothing of theirs may be delivered again."""
        left, self._left = self._left, {}
        for at, skipped in left.items():
            if (known := self._keys.get(at.token)) is not None:
                known.skip(skipped)
                continue
            queue = self._keys[at.token] = KeyQueue(self, at)
            queue.skip(skipped)
            queue.busy = True
            self.catching.add(queue)
            self.group.runners.push(queue)

    async def _until_held(self) -> None:
        # Resetting the consumer of another owner would set it back; whether the session has lapsed is soon known, and
        # the partition is then closed.
        while not self.group.session.held:  # noqa: ASYNC110 - a session has no event for its renewal
            await asyncio.sleep(0.05)

    async def _reset(self, consumption: Consumption) -> None:
        await consumption.restart()
        # What was closed before is not delivered again, so nothing else would tell how far the group is.
        lag = await self.group.transport.consumer_lag(self.stream, self.consumer)
        if lag is not None:
            self._acked = max(self._acked, lag.ack_floor)
            self.group.progressed()

    def _evict(self) -> None:
        surplus = len(self._keys) - self.group.resident_limit
        for token, queue in list(self._keys.items()):
            if surplus <= 0:
                break
            if not queue.busy:
                del self._keys[token]
                surplus -= 1
