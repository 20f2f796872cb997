"""One key in a worker: its deliveries wait here and are handled in order, one at a time."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import structlog

from sojourn.bus.delivery.calling import call_handler
from sojourn.bus.delivery.customer import Customer
from sojourn.bus.delivery.failure import dead_facts, is_transient, pause
from sojourn.bus.delivery.member import Member
from sojourn.bus.delivery.runners import Call
from sojourn.bus.delivery.turn import LaneInterrupted
from sojourn.bus.envelope import MAX_HOPS, Cause, cause_of, decode
from sojourn.bus.errors import (
    ConcurrencyError,
    DecodeError,
    HandlerError,
    PermanentError,
    SchemaError,
    SojournError,
    TimedOutError,
    UnavailableError,
)
from sojourn.bus.event import Event
from sojourn.bus.lane import Change, dead_change, output_change
from sojourn.bus.personal.key import handle, handling
from sojourn.bus.ports import Append, Delivery
from sojourn.bus.processor import Output, Recorded
from sojourn.bus.subjects import Address

if TYPE_CHECKING:
    from sojourn.bus.delivery.partition import Partition

log = structlog.get_logger("sojourn.worker")


class KeyQueue:
    """A key's deliveries in order, and what the group's processors keep of it in memory.

    A delivery stays at the head until every processor has closed it; only then is it acked and the next begun, so a
    key's next handler starts when the previous output is durable. Anything unexpected drops the memory and reads the
    key anew from the log.
    """

    __slots__ = (
        "_attempt",
        "_contested",
        "_hopeless",
        "_index",
        "_members",
        "_recorded",
        "_stale",
        "at",
        "busy",
        "calling",
        "customer",
        "partition",
        "queue",
        "waiting",
    )

    def __init__(self, partition: Partition, at: Address) -> None:
        self.partition = partition
        self.at = at
        self.queue: deque[Delivery] = deque()
        self.busy = False
        self._members: list[Member] | None = None
        self._recorded: Recorded | None = None
        self._index = 0
        self._attempt = 1
        self._contested = 0
        self._hopeless = False
        self._stale = False
        self.calling: Call | None = None
        self.waiting = False
        self.customer = Customer(partition.group, at)

    def drop(self) -> None:
        """Its memory does not count any more: ends a handler that is running, since its cause will come again."""
        if self.calling is not None:
            self.calling.task.cancel()

    def forget(self) -> None:
        """Its customer was erased: what is in memory goes once the handler that is running has ended.

        What that one puts out is sealed with the destroyed key, as what it was made of was: under the customer's next
        one it would be readable again.
        """
        self._stale = True

    async def step(self) -> None:
        """Handles the head of the queue as far as it goes without waiting for the committer."""
        if self.partition.discarded(self):
            return
        self.waiting = False
        if self._stale:
            self._reopen()
        delivery = self.queue[0]
        try:
            if self._members is None:
                self._members = await self.customer.open(delivery)
                if self.partition.discarded(self):
                    return
            members = self._members
            recorded = self._recorded
            if recorded is None:
                known = self.customer.key
                try:
                    recorded = self._recorded = await self.customer.read(partial(self.partition.recorded, delivery))
                    if self.partition.discarded(self):
                        return
                except (DecodeError, SchemaError) as error:
                    self._bury_undecoded(members, delivery, error)
                    return
                key = self.customer.key
                if known is not None and (key is None or key.id != known.id):
                    # An erasure that the watch has not told of yet: what was folded before has personal values.
                    self._stale = True
                    self._start_over(LaneInterrupted())
                    return
            handle(self.customer.key)
            while self._index < len(members):
                change, output = await self._handle(members[self._index], recorded, delivery)
                if self.partition.discarded(self):
                    return
                if change is not None:
                    self._submit(members[self._index], change, output, delivery)
                    return
                self._next_member()
        except (LaneInterrupted, SojournError) as error:
            self._start_over(error)
        except Exception as error:
            log.exception("the worker failed on a key and starts it over", customer=self.at.key)
            self._start_over(error)
        else:
            self._finish(delivery)
        finally:
            if handling.get() is not None:
                handling.set(None)  # the runner goes on with other customers

    def _next_member(self) -> None:
        self._index += 1
        self._attempt = 1

    async def _handle(
        self, member: Member, recorded: Recorded, delivery: Delivery
    ) -> tuple[Change | None, Output | None]:
        processor, lane = member.processor, member.lane
        envelope = recorded.envelope
        handled = delivery.sequence <= lane.closed
        fired: str | None = None
        if recorded.due:
            if recorded.writer != processor.writer:
                return None, None
            fired = _timer_name(delivery)
            timer = lane.timers.get(fired)
            if handled or timer is None or timer.generation != envelope.timer_generation:
                self.partition.group.counters.stale_timers += not handled
                return None, None
        elif recorded.writer == processor.writer:
            return None, None
        try:
            # On a retry the cause is folded already.
            if self._attempt == 1 and not recorded.due and envelope.type in processor.folds:
                self._observe(member, recorded, handled=handled)
            if handled:
                return None, None
            if envelope.type not in processor.handles:
                if fired is None:
                    return None, None
                raise PermanentError(
                    f"timer {fired!r} fired {envelope.type}, which {processor.writer} no longer handles"
                )
            if envelope.hops > MAX_HOPS:
                raise PermanentError(
                    f"{envelope.hops} causes deep, more than {MAX_HOPS}: handlers trigger each other in a circle"
                )
            output = await call_handler(self, member, recorded, self._attempt)
            if not output and fired is None:
                return None, None
            if self.customer.lacks(output):
                await self._equip(output)
            now = self.partition.group.clock.handling(envelope.time)
            change = output_change(
                member.writer, self.at, lane, _cause(recorded), output, now, fired=fired, sealer=self.customer.key
            )
            return change, output
        except Exception as error:  # noqa: BLE001 - whatever a handler raises has an end: a retry or a dead letter
            return self._failed(member, recorded, delivery, error, fired), None

    async def _equip(self, output: Output) -> None:
        try:
            await self.customer.equip(output)
        except PermanentError:
            raise
        except SojournError as error:
            # No fault of the handler, which is called again once there is a key, or a server.
            raise LaneInterrupted from error

    def _reopen(self) -> None:
        """Forgets what is in memory: the head is begun anew."""
        self._stale = False
        self.customer.key = None
        self._members = None
        self._recorded = None
        self._index = 0
        self._attempt = 1

    def _observe(self, member: Member, recorded: Recorded, *, handled: bool) -> None:
        try:
            member.resident.observe(recorded)
        except Exception as error:
            if handled:
                return  # It has its dead letter.
            raise HandlerError(
                f"{member.writer.name}'s state cannot take {recorded.envelope.type}: {type(error).__name__}: {error}"
            ) from error

    def _failed(
        self, member: Member, recorded: Recorded, delivery: Delivery, error: Exception, fired: str | None
    ) -> Change | None:
        """The dead letter of a failed handling, unless it is to be tried again."""
        processor = member.processor
        retry = processor.retry
        bound = log.bind(
            agent=processor.writer,
            customer=self.at.key,
            envelope=recorded.envelope.id,
            correlation=recorded.envelope.correlation_id,
            type=recorded.envelope.type,
            attempt=self._attempt,
        )
        if is_transient(error) and self._attempt < retry.attempts:
            seconds = pause(retry, self._attempt)
            bound.warning("handler failed, will be called again", error=type(error).__name__, wait=round(seconds, 3))
            self._attempt += 1
            raise _TryLater(seconds)
        bound.error("handler failed: dead letter", error=type(error).__name__)
        now = self.partition.group.clock.handling(recorded.envelope.time)
        facts = dead_facts(
            error,
            recorded=recorded,
            subject=delivery.subject,
            attempts=self._attempt,
            version=processor.version,
            now=now,
            key=self.customer.key,
        )
        return dead_change(member.writer, self.at, member.lane, delivery.sequence, facts, fired=fired)

    def _bury_undecoded(self, members: Sequence[Member], delivery: Delivery, error: PermanentError) -> None:
        """A stored message that nobody can read: each processor it is for records it in its lane, then it is acked."""
        group = self.partition.group
        tokens = delivery.subject.split(".")
        while self._index < len(members):
            member = members[self._index]
            if delivery.sequence > member.lane.closed and member.reads(tokens):
                log.error(
                    "unreadable message: dead letter", agent=member.writer.name, customer=self.at.key, reason=str(error)
                )
                facts = dead_facts(
                    error,
                    recorded=None,
                    subject=delivery.subject,
                    attempts=0,
                    version=member.processor.version,
                    now=group.clock.now(),
                )
                fired = _timer_name(delivery) if tokens[5] == "due" else None
                change = dead_change(member.writer, self.at, member.lane, delivery.sequence, facts, fired=fired)
                self._submit(member, change, None, delivery)
                return
            self._next_member()
        self._finish(delivery)

    def _submit(self, member: Member, change: Change, output: Output | None, delivery: Delivery) -> None:
        def done(result: list[int] | Exception) -> None:
            if self.partition.discarded(self):
                return
            if isinstance(result, Exception):
                self._refused(member, result, delivery)
            else:
                self._stored(member, change, output, result)

        self.partition.group.committer.submit(self.at.stream, change.appends, done)

    def _stored(self, member: Member, change: Change, output: Output | None, sequences: list[int]) -> None:
        cause = self.queue[0].sequence
        change.apply(member.lane, sequences)
        self._contested = 0
        self._hopeless = False
        group = self.partition.group
        group.counters.actions += change.actions
        group.counters.dead += output is None
        for event, append, sequence in zip(output.events if output else (), change.appends, sequences, strict=False):
            if type(event).__name__ in member.processor.folds:
                self._tell(member, append, sequence, type(event), cause)
        self._next_member()
        group.runners.push(self)

    def _tell(self, member: Member, append: Append, sequence: int, cls: type[Event], cause: int) -> None:
        # Called by the transport: nobody is being handled there as far as the logs know.
        before = handle(self.customer.key)
        try:
            # Decoded again, so that the state is the same as the one folded from the log.
            recorded = Recorded(decode(append.payload, cls, self.customer.reader), sequence, member.writer.name)
            member.resident.acted(recorded, cause)
        except Exception:
            # It is stored and stands; the state goes on without it, now as after a reload.
            log.exception(
                "an action cannot be folded", agent=member.writer.name, customer=self.at.key, type=cls.__name__
            )
        finally:
            handling.reset(before)

    def _refused(self, member: Member, error: Exception, delivery: Delivery) -> None:
        if isinstance(error, PermanentError) and not self._hopeless:
            # Nothing was stored, and nothing ever will be: this output is the handler's fault.
            self._hopeless = True
            facts = dead_facts(
                HandlerError(f"the output cannot be stored: {error}"),
                recorded=self._recorded,
                subject=delivery.subject,
                attempts=self._attempt,
                version=member.processor.version,
                now=self.partition.group.clock.now(),
                key=self.customer.key,
            )
            fired = _timer_name(delivery) if self._recorded is not None and self._recorded.due else None
            self._submit(
                member,
                dead_change(member.writer, self.at, member.lane, delivery.sequence, facts, fired=fired),
                None,
                delivery,
            )
            return
        self._start_over(error)

    def _start_over(self, error: BaseException) -> None:
        """Drops what is in memory and handles the head anew: its lane in the log tells what is already done."""
        if self.partition.discarded(self):
            return
        self.waiting = True
        if self.partition.stopped:
            self.partition.abandon(self)
            return
        if isinstance(error, _TryLater):
            asyncio.get_running_loop().call_later(error.seconds, self._again)
            return
        cause = error.__cause__ if isinstance(error, LaneInterrupted) else error
        if self._stale and cause is None:
            self._again()
            return
        self._reopen()
        self._hopeless = False
        self._contested += 1
        if isinstance(cause, ConcurrencyError) and self._contested >= 5:
            self.partition.restart(f"the lane of {self.at.key!r} is written by somebody else")
            return
        if not isinstance(cause, ConcurrencyError | UnavailableError | TimedOutError):
            self.partition.group.complain(self.at.key, cause)
        asyncio.get_running_loop().call_later(min(0.01 * 2 ** min(self._contested, 9), 5.0), self._again)

    def _again(self) -> None:
        if not self.partition.discarded(self):
            self.partition.group.runners.push(self)

    def _finish(self, delivery: Delivery) -> None:
        self.queue.popleft()
        self._recorded = None
        self._index = 0
        self._attempt = 1
        self._contested = 0
        self._hopeless = False
        if self._stale:
            self._reopen()
        self.partition.close(delivery, self)


class _TryLater(SojournError):
    """The handler is to be called again in a while."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds


def _timer_name(delivery: Delivery) -> str:
    return delivery.subject.split(".", 7)[7]


def _cause(recorded: Recorded) -> Cause:
    return cause_of(recorded.envelope, recorded.sequence)
