"""The handling of one cause: what each processor that it is for makes of it, until all have closed it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, NamedTuple

import structlog

from sojourn.bus.breaker import Handler
from sojourn.bus.crashpoints import AFTER_ATTEMPT, BEFORE_ATTEMPT, reach
from sojourn.bus.delivery.calling import call_handler
from sojourn.bus.delivery.failure import dead_facts, hosts_of, is_transient, pause, retry_after
from sojourn.bus.delivery.member import Member
from sojourn.bus.delivery.probation import ATTEMPTS
from sojourn.bus.delivery.turn import LaneInterrupted
from sojourn.bus.envelope import MAX_HOPS, Cause, cause_of
from sojourn.bus.errors import DecodeError, HandlerError, PermanentError, SchemaError, SojournError
from sojourn.bus.lane import Change, attempt_change, dead_change, output_change, parked_change
from sojourn.bus.personal.key import CustomerKey, handle
from sojourn.bus.ports import Delivery
from sojourn.bus.processor import Output, Recorded

if TYPE_CHECKING:
    from sojourn.bus.delivery.catchup import CatchUp
    from sojourn.bus.delivery.keyqueue import KeyQueue

log = structlog.get_logger("sojourn.worker")

PATIENCE = 60.0
"""Seconds that a customer waits in memory for a handler's next attempts; one that would wait longer is parked."""

BRIEF = 5.0
"""The same on a virtual clock, where waiting is somebody else's business."""


_LONGEST = 366 * 86_400.0


class TryLater(SojournError):
    """The handler is to be called again in a while."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds


class NotYet(SojournError):
    """Others on probation come first; whoever waits is called."""


class Step(NamedTuple):
    """A change to be stored before the handling goes on. ``output``: what a handler put out."""

    member: Member
    change: Change
    output: Output | None


class Handling:
    """One cause on its way through ``members``. ``catching``: it was read again from the log for one of them."""

    __slots__ = (
        "_attempt",
        "_index",
        "_members",
        "_queue",
        "_waited",
        "catching",
        "delivery",
        "given_up",
        "hopeless",
        "recorded",
    )

    def __init__(
        self,
        queue: KeyQueue,
        delivery: Delivery,
        members: Sequence[Member],
        *,
        catching: CatchUp | None = None,
        attempt: int = 1,
    ) -> None:
        self._queue = queue
        self._members = members
        self._index = 0
        self._attempt = attempt
        self._waited = 0.0
        self.delivery = delivery
        self.catching = catching
        self.recorded: Recorded | None = None
        self.hopeless = False
        self.given_up = False

    async def proceed(self) -> Step | None:
        """What is to be stored next; None once the cause is closed for everybody. Raises `TryLater`, `NotYet`,
        `LaneInterrupted`, and whatever the transport raises."""
        queue = self._queue
        recorded = self.recorded
        if recorded is None:
            known = queue.customer.key
            try:
                read = partial(queue.partition.recorded, self.delivery)
                recorded = self.recorded = await queue.customer.read(read)
            except (DecodeError, SchemaError) as error:
                return self._undecoded(error)
            key = queue.customer.key
            if known is not None and (key is None or key.id != known.id):
                # An erasure that the watch has not told of yet: what was folded before has personal values.
                queue.forget()
                raise LaneInterrupted
        handle(queue.customer.key)
        while self._index < len(self._members):
            member = self._members[self._index]
            if queue.partition.discarded(queue):
                return None
            if member.lane.parked is not None and self.catching is None:
                queue.skip(self.delivery.sequence)
            elif (step := await self._handle(member, recorded)) is not None:
                return step
            self.pass_on()
        return None

    def pass_on(self) -> None:
        """The current processor has closed the cause, or it is not for it."""
        self._index += 1
        self._attempt = 1
        self._waited = 0.0
        self.hopeless = False

    def refused(self, member: Member, error: Exception) -> Step:
        """The dead letter of an output that can never be stored."""
        return self._bury(member, HandlerError(f"the output cannot be stored: {error}"))

    async def _handle(self, member: Member, recorded: Recorded) -> Step | None:
        queue, processor, lane = self._queue, member.processor, member.lane
        envelope = recorded.envelope
        handled = recorded.sequence <= lane.closed
        fired: str | None = None
        if recorded.due:
            if recorded.writer != processor.writer:
                return None
            fired = self.fired
            timer = lane.timers.get(fired or "")
            if handled or timer is None or timer.generation != envelope.timer_generation:
                queue.partition.group.counters.stale_timers += not handled
                return None
        elif (recorded.writer == processor.writer) is not recorded.redriven:
            return None
        try:
            story = not (recorded.due or recorded.redriven)
            # On a retry, and where a customer caught up, the cause is folded already.
            if recorded.sequence > member.seen and story and envelope.type in processor.folds:
                self._observe(member, recorded, handled=handled)
            if handled:
                return None
            if self.given_up:
                raise PermanentError("given up by an operator")
            if envelope.type not in processor.handles:
                if recorded.redriven and envelope.type not in processor.folds:
                    raise PermanentError(f"it was redriven, and {processor.writer} no longer handles {envelope.type}")
                if fired is None:
                    return None
                raise PermanentError(
                    f"timer {fired!r} fired {envelope.type}, which {processor.writer} no longer handles"
                )
            if envelope.hops > MAX_HOPS:
                raise PermanentError(
                    f"{envelope.hops} causes deep, more than {MAX_HOPS}: handlers trigger each other in a circle"
                )
            output = await self._call(member, recorded)
            if not output and fired is None and not lane.tried(recorded.sequence):
                return None
            # Done with, on probation, is done for good: it comes again as long as one before it is not.
            if queue.customer.lacks(output):
                await self._equip(output)
            sealers = await self._introduce(member, output) if output.others else {}
            now = queue.partition.group.clock.handling(envelope.time)
            change = output_change(
                member.writer,
                queue.at,
                lane,
                _cause(recorded),
                output,
                now,
                fired=fired,
                sealer=queue.customer.key,
                sealers=sealers,
            )
            return Step(member, change, output)
        except (TryLater, NotYet):
            raise
        except Exception as error:  # noqa: BLE001 - whatever a handler raises has an end: a retry or a dead letter
            return self._failed(member, recorded, error)

    @property
    def tokens(self) -> list[str]:
        """Of its subject."""
        return self.delivery.subject.split(".")

    @property
    def fired(self) -> str | None:
        """The name of the timer whose message is the cause."""
        return self.delivery.subject.split(".", 7)[7] if self.tokens[5] == "due" else None

    async def _call(self, member: Member, recorded: Recorded) -> Output:
        """Calls the handler, unless its endpoint is down, or others come first."""
        queue = self._queue
        group, partition = queue.partition.group, queue.partition
        breakers, handler = group.breakers, Handler(member.writer.name, recorded.envelope.type)
        seconds = breakers.may_call(handler, queue.at.token, monotonic())
        if seconds:
            raise TryLater(seconds)
        came = recorded.sequence
        if self.catching is not None and queue.queue:
            # What woke the customer, or waits behind it, stays open until then: it is a suspect for whatever is read.
            came = min(came, queue.queue[0].sequence)
        probation = partition.on_probation(came)
        if probation or partition.crashes:
            try:
                if probation:
                    await self._begin_on_probation(member, recorded)
                elif partition.hold(queue, came):
                    raise NotYet
            except BaseException:
                breakers.gave_up(handler, queue.at.token, monotonic())
                raise
        try:
            output = await call_handler(queue, member, recorded, self._attempt)
        except Exception as error:
            if is_transient(error):
                now = monotonic()
                after = retry_after(error, group.clock.now())
                counts = breakers.failed(handler, queue.at.token, now, hosts=hosts_of(error), after=after)
                if not counts:
                    # It was let through, or under way, while the endpoint was down.
                    raise TryLater(max(breakers.may_call(handler, queue.at.token, now), 0.01)) from error
            else:
                breakers.gave_up(handler, queue.at.token, monotonic())
            raise
        except BaseException:
            breakers.gave_up(handler, queue.at.token, monotonic())
            raise
        finally:
            if probation:
                group.probation.leave()
        breakers.succeeded(handler, queue.at.token, monotonic())
        return output

    async def _begin_on_probation(self, member: Member, recorded: Recorded) -> None:
        queue, lane = self._queue, member.lane
        group = queue.partition.group
        tried = lane.tried(recorded.sequence)
        session = group.session.life
        # Begun before by this very process, it has not killed it.
        begun = tried > 0 and lane.attempt_session == session
        if tried - begun >= ATTEMPTS:
            self._attempt = queue.partition.crashes
            raise PermanentError(
                f"its worker died {queue.partition.crashes} times in a row while it was being handled: not run again"
            )
        cause = (queue.at.stream, recorded.sequence, member.writer.name)
        if not group.probation.enter(cause, tried - begun, queue.again):
            raise NotYet
        try:
            if begun:
                return
            append = attempt_change(member.writer, queue.at, lane, recorded.sequence, session)
            reach(BEFORE_ATTEMPT)
            [lane.tail] = await group.committer.store(queue.at.stream, [append])
            reach(AFTER_ATTEMPT)
        except BaseException as error:
            group.probation.leave()
            if isinstance(error, SojournError):
                raise LaneInterrupted from error
            raise
        lane.attempt_cause, lane.attempts, lane.attempt_session = recorded.sequence, tried + 1, session

    async def _equip(self, output: Output) -> None:
        try:
            await self._queue.customer.equip(output)
        except PermanentError:
            raise
        except SojournError as error:
            # No fault of the handler, which is called again once there is a key, or a server.
            raise LaneInterrupted from error

    async def _introduce(self, member: Member, output: Output) -> Mapping[str, CustomerKey]:
        """What it takes to put out events of other customers: returns the keys that they are sealed with."""
        queue = self._queue
        group = queue.partition.group
        try:
            sealers = await queue.customer.sealers(output.others)
            if group.relaying is not None:
                await group.relaying(group, member.writer.name, {type(event).__name__ for event in output.others})
        except PermanentError:
            raise
        except SojournError as error:
            raise LaneInterrupted from error
        return sealers

    def _observe(self, member: Member, recorded: Recorded, *, handled: bool) -> None:
        member.seen = recorded.sequence
        try:
            member.resident.observe(recorded)
        except Exception as error:
            if handled:
                return  # It has its dead letter.
            raise HandlerError(
                f"{member.writer.name}'s state cannot take {recorded.envelope.type}: {type(error).__name__}: {error}"
            ) from error

    def _failed(self, member: Member, recorded: Recorded, error: Exception) -> Step:
        """What becomes of a failed handling: another attempt, now or later, a dead letter, or a decision of a
        person."""
        queue, processor = self._queue, member.processor
        if self.given_up:
            return self._bury(member, error)
        group = queue.partition.group
        retry = processor.retry
        bound = log.bind(
            agent=processor.writer,
            customer=queue.at.key,
            envelope=recorded.envelope.id,
            correlation=recorded.envelope.correlation_id,
            type=recorded.envelope.type,
            attempt=self._attempt,
        )
        if is_transient(error) and self._attempt < retry.attempts:
            seconds = pause(retry, self._attempt, retry_after(error, group.clock.now()))
            if self._waited + seconds <= (BRIEF if group.clock.virtual else PATIENCE):
                bound.warning(
                    "handler failed, will be called again", error=type(error).__name__, wait=round(seconds, 3)
                )
                self._attempt += 1
                self._waited += seconds
                raise TryLater(seconds)
            bound.warning("handler failed: the customer is parked", error=type(error).__name__, wait=round(seconds))
            group.counters.parked += 1
            return self._park(member, error, seconds)
        if processor.on_poison == "park":
            bound.error("handler failed: the customer is parked until somebody decides", error=type(error).__name__)
            group.counters.parked += 1
            return self._park(member, error, None)
        bound.error("handler failed: dead letter", error=type(error).__name__)
        return self._bury(member, error)

    def _park(self, member: Member, error: Exception, seconds: float | None) -> Step:
        queue = self._queue
        now = queue.partition.group.clock.now()
        wake = None if seconds is None else now + timedelta(seconds=min(seconds, _LONGEST))
        facts = self._facts(member, error)
        change = parked_change(
            member.writer, queue.at, member.lane, self.delivery.sequence, facts, wake=wake, attempts=self._attempt
        )
        return Step(member, change, None)

    def _bury(self, member: Member, error: Exception) -> Step:
        facts = self._facts(member, error)
        change = dead_change(
            member.writer, self._queue.at, member.lane, self.delivery.sequence, facts, fired=self.fired
        )
        return Step(member, change, None)

    def _facts(self, member: Member, error: Exception) -> dict[str, object]:
        clock, recorded = self._queue.partition.group.clock, self.recorded
        return dead_facts(
            error,
            recorded=recorded,
            subject=self.delivery.subject,
            attempts=self._attempt if recorded is not None else 0,
            version=member.processor.version,
            now=clock.handling(recorded.envelope.time) if recorded is not None else clock.now(),
            key=self._queue.customer.key if recorded is not None else None,
        )

    def _undecoded(self, error: PermanentError) -> Step | None:
        """A stored message that nobody can read: each processor it is for records it in its lane."""
        while self._index < len(self._members):
            member = self._members[self._index]
            if member.lane.parked is not None and self.catching is None:
                self._queue.skip(self.delivery.sequence)
            elif self.delivery.sequence > member.lane.closed and member.reads(self.tokens):
                log.error(
                    "unreadable message: dead letter",
                    agent=member.writer.name,
                    customer=self._queue.at.key,
                    reason=str(error),
                )
                return self._bury(member, error)
            self.pass_on()
        return None


def _cause(recorded: Recorded) -> Cause:
    return cause_of(recorded.envelope, recorded.sequence)
