"""One key in a worker: its deliveries wait here and are handled in order, one at a time."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

import structlog

from sojourn.bus.crashpoints import AFTER_COMMIT, BEFORE_COMMIT, IN_PARK, IN_UNPARK, reach
from sojourn.bus.delivery.catchup import CatchUp
from sojourn.bus.delivery.customer import Customer
from sojourn.bus.delivery.handling import Handling, NotYet, Step, TryLater
from sojourn.bus.delivery.member import Member
from sojourn.bus.delivery.runners import Call
from sojourn.bus.delivery.turn import LaneInterrupted
from sojourn.bus.delivery.waking import crowded_change, is_crowd, is_event, woken
from sojourn.bus.errors import ConcurrencyError, PermanentError, SojournError, TimedOutError, UnavailableError
from sojourn.bus.lane import unparked_change
from sojourn.bus.personal.key import handling
from sojourn.bus.ports import Delivery
from sojourn.bus.subjects import Address
from sojourn.bus.verdicts import verdict_of

if TYPE_CHECKING:
    from sojourn.bus.delivery.partition import Partition

log = structlog.get_logger("sojourn.worker")


class KeyQueue:
    """A key's deliveries in order, and what the group's processors keep of it in memory.

    A delivery stays at the head until every processor has closed it; only then is it acked and the next begun, so a
    key's next handler starts when the previous output is durable. Anything unexpected drops the memory and reads the
    key anew from the log.

    A customer that has to wait for long, or has too much waiting, is *parked* by a record in its lane: its deliveries
    are acked, and read again from the log when it is woken (`catchup`).
    """

    __slots__ = (
        "_contested",
        "_ending",
        "_members",
        "_opened",
        "_stale",
        "_whole",
        "_work",
        "at",
        "busy",
        "calling",
        "catching",
        "customer",
        "partition",
        "queue",
        "size",
        "skipped",
        "waiting",
    )

    def __init__(self, partition: Partition, at: Address) -> None:
        self.partition = partition
        self.at = at
        self.queue: deque[Delivery] = deque()
        self.size = 0
        """Bytes of the payloads that wait."""
        self.busy = False
        self.calling: Call | None = None
        self.waiting = False
        self.catching: CatchUp | None = None
        self.customer = Customer(partition.group, at)
        self._members: list[Member] | None = None
        self._opened = 0
        self._whole = False
        self._work: Handling | None = None
        self._contested = 0
        self.skipped = 0
        self._stale = False
        self._ending = False

    def swallows(self, delivery: Delivery) -> bool:
        """Whether a delivery need not wait here: every processor has this customer parked, and will read it from the
        log. What wakes the customer is never swallowed."""
        members = self._members
        if members is None or self._ending:
            return False
        return all(member.lane.parked is not None for member in members) and is_event(delivery)

    def skip(self, sequence: int) -> None:
        """Notes that what was delivered up to a sequence is left to be read from the log."""
        self.skipped = max(self.skipped, sequence)

    def drop(self) -> None:
        """Its memory does not count any more: ends a handler that is running, since its cause will come again."""
        if self.calling is not None:
            self.calling.task.cancel()
        if self.catching is not None:
            self.catching.close()

    def forget(self) -> None:
        """Its customer was erased: what is in memory goes once the handler that is running has ended.

        What that one puts out is sealed with the destroyed key, as what it was made of was: under the customer's next
        one it would be readable again.
        """
        self._stale = True

    async def step(self) -> None:
        """Handles the head of the queue as far as it goes without waiting for the committer."""
        partition = self.partition
        if partition.discarded(self):
            return
        self.waiting = False
        if self.catching is not None and self._work is None and partition.stopped:
            partition.abandon(self)
            return
        if not partition.group.session.held:
            # Somebody else may be at it by now. Whether so is known soon, and the partition is then closed.
            self._start_over(UnavailableError(_LAPSED))
            return
        if self._stale:
            self._reopen()
        try:
            if self._members is None:
                self._whole = bool(self.queue) and is_event(self.queue[0])
                self._opened = self.queue[0].sequence if self._whole else self._delivered()
                self._members = await self.customer.open(self._opened, whole=self._whole)
                if partition.discarded(self):
                    return
            if self._work is None and not await self._begin(self._members):
                return
            work = self._work
            assert work is not None
            step = await work.proceed()
            if partition.discarded(self):
                return
            if step is not None:
                self._submit(step)
                return
        except NotYet:
            self.waiting = True
            if partition.stopped:
                partition.abandon(self)  # its turn would come once others are handled, which come to the next owner
        except (LaneInterrupted, SojournError) as error:
            self._start_over(error)
        except Exception as error:
            log.exception("the worker failed on a key and starts it over", customer=self.at.key)
            self._start_over(error)
        else:
            self._finish()
        finally:
            if handling.get() is not None:
                handling.set(None)  # the runner goes on with other customers

    def _delivered(self) -> int:
        """A sequence that the log has to show, since it was delivered here."""
        return max(self.skipped, self.queue[0].sequence if self.queue else 0)

    async def _begin(self, members: list[Member]) -> bool:
        """Chooses what to do next. False where nothing is to be handled at this moment."""
        if self.catching is None:
            for member in members:
                if member.lane.parked is not None and member.lane.eager:
                    if not is_crowd(self):
                        await self._catch_up(members, member)
                    break
        while (catching := self.catching) is not None:
            if self.partition.discarded(self):
                return False
            member = catching.member
            if catching.backlog:
                attempt = 1
                if catching.backlog[0].sequence == member.lane.parked and not catching.afresh:
                    attempt = member.lane.parked_attempts + 1
                self._work = Handling(self, catching.backlog[0], [member], catching=catching, attempt=attempt)
                return True
            if await catching.fill(self._delivered(), self.skipped) or catching.upto < self.skipped:
                continue  # Some may have come while the log was read.
            if self.partition.discarded(self):
                return False
            # What comes from now on is not in what was read: it waits here.
            self._ending = True
            now = self.partition.group.clock.now()
            change = unparked_change(member.writer, self.at, member.lane, catching.upto, now)
            self._submit(Step(member, change, None))
            return False
        if self.partition.discarded(self):
            return False
        if not self.queue:
            self._caught_up()
            self.partition.rest(self)
            return False
        self.partition.catching.discard(self)
        head = self.queue[0]
        if (waking := woken(members, head)) is not None:
            self._opened = max(self._opened, head.sequence)  # The lane that it concerns is read now.
            if verdict_of(head.payload) == "drop" and waking.lane.closed < (waking.lane.parked or 0):
                await self._give_up(members, waking)
            else:
                await self._catch_up(members, waking)
                if self.catching is not None:
                    self.catching.afresh = verdict_of(head.payload) is not None
            return self._work is not None or await self._begin(members)
        if not is_event(head):
            if self._opened < head.sequence:
                # An owner that froze may have parked the customer since: its record is older than what wakes it.
                self._reopen()
                self.partition.group.runners.push(self)
            else:
                self._finish_head(head)  # it came too late
            return False
        if is_crowd(self):
            self._park_all(members, head)
            return False
        if not self._whole:
            if not all(member.whole or member.lane.parked is not None for member in members):
                self._reopen()
                self.partition.group.runners.push(self)
                return False
            self._whole = True
        self._work = Handling(self, head, members)
        return True

    async def _catch_up(self, members: list[Member], member: Member) -> None:
        catching = await CatchUp.begin(self.partition.group.catching, self.customer, member)
        if self.partition.discarded(self):
            return
        members[members.index(member)] = catching.member
        self.catching = catching
        self.partition.catching.add(self)

    async def _give_up(self, members: list[Member], member: Member) -> None:
        """A person has decided that the first cause of a parked customer is not to be handled."""
        await self._catch_up(members, member)
        catching = self.catching
        while catching is not None and not catching.backlog and await catching.more():
            pass
        # Otherwise it has left the log, and the next one is nobody's decision.
        if catching is None or not catching.backlog or catching.backlog[0].sequence != member.lane.parked:
            return
        self._work = Handling(self, catching.backlog[0], [catching.member], catching=catching)
        self._work.given_up = True

    def _park_all(self, members: Sequence[Member], head: Delivery) -> None:
        """Leaves what waits to be read from the log, so that one busy customer does not fill the partition."""
        free = [member for member in members if member.lane.parked is None]
        if free:
            # One at a time, since each is an output of its own; the next call parks the next.
            now = self.partition.group.clock.now()
            self._submit(Step(free[0], crowded_change(free[0], self.at, head.sequence, now), None))
            return
        self._leave_to_the_log()
        self.partition.group.runners.push(self)

    def _leave_to_the_log(self) -> None:
        """Acks what waits, but for what wakes the customer: every processor has it parked."""
        self.partition.catching.add(self)
        keep: list[Delivery] = []
        for delivery in self.queue:
            if is_event(delivery):
                self.skip(delivery.sequence)
                self.partition.swallow(delivery)
            else:
                keep.append(delivery)
        self.queue = deque(keep)
        self.size = sum(len(one.payload) for one in keep)

    def _submit(self, step: Step) -> None:
        group = self.partition.group
        if not group.session.held:
            self._start_over(UnavailableError(_LAPSED))
            return
        reach(IN_UNPARK if step.change.ends else IN_PARK if step.change.parks is not None else BEFORE_COMMIT)
        group.uncommitted += 1

        def done(result: list[int] | Exception) -> None:
            group.uncommitted -= 1
            if self.partition.discarded(self):
                return
            if isinstance(result, Exception):
                self._refused(step, result)
            else:
                reach(AFTER_COMMIT)
                self._stored(step, result)

        group.committer.submit(self.at.stream, step.change.appends, done)

    def _stored(self, step: Step, sequences: list[int]) -> None:
        member, change, output = step
        work = self._work
        change.apply(member.lane, sequences)
        self._contested = 0
        group = self.partition.group
        group.counters.actions += change.actions
        if work is None:
            if change.ends:
                self._caught_up()
            elif all(one.lane.parked is not None for one in self._members or ()):
                self._leave_to_the_log()
            group.runners.push(self)
            return
        group.counters.dead += output is None and change.parks is None
        for event, append, sequence in zip(output.events if output else (), change.appends, sequences, strict=False):
            if type(event).__name__ in member.processor.folds:
                member.told(append.payload, sequence, type(event), self.customer.reader, work.delivery.sequence)
        if change.parks is not None:
            if work.catching is not None:
                # It waits again; whatever woke it is done with.
                self._work = None
                self._caught_up()
                group.runners.push(self)
                return
            self.skip(work.delivery.sequence)
        work.pass_on()
        group.runners.push(self)

    def _caught_up(self) -> None:
        if self.catching is not None:
            self.catching.close()
        self.catching = None
        self._ending = False
        self.partition.catching.discard(self)
        self.partition.group.progressed()

    def _refused(self, step: Step, error: Exception) -> None:
        work = self._work
        if isinstance(error, PermanentError) and work is not None and not work.hopeless:
            # Nothing was stored, and nothing ever will be: this output is the handler's fault.
            work.hopeless = True
            self._submit(work.refused(step.member, error))
            return
        self._start_over(error)

    def _reopen(self) -> None:
        """Forgets what is in memory: the head is begun anew."""
        self._stale = False
        self.customer.key = None
        self._members = None
        self._work = None
        if self.catching is not None:
            self.catching.close()
            self.catching = None  # The partition still knows that there is something to be read.
        self._ending = False

    def _start_over(self, error: BaseException) -> None:
        """Drops what is in memory and handles the head anew: its lane in the log tells what is already done."""
        if self.partition.discarded(self):
            return
        self.waiting = True
        if self.partition.stopped:
            self.partition.abandon(self)
            return
        if isinstance(error, TryLater):
            if crowd := self.catching is None and is_crowd(self):
                self._work = None  # Parked, it waits as well, and without filling the partition.
            asyncio.get_running_loop().call_later(0 if crowd else error.seconds, self.again)
            return
        cause = error.__cause__ if isinstance(error, LaneInterrupted) else error
        if self._stale and cause is None:
            self.again()
            return
        self._reopen()
        self._contested += 1
        if isinstance(cause, ConcurrencyError) and self._contested >= 5:
            self.partition.restart(f"the lane of {self.at.key!r} is written by somebody else")
            return
        if not isinstance(cause, ConcurrencyError | UnavailableError | TimedOutError):
            self.partition.group.complain(self.at.key, cause)
        asyncio.get_running_loop().call_later(min(0.01 * 2 ** min(self._contested, 9), 5.0), self.again)

    def again(self) -> None:
        """Is worth another step."""
        if not self.partition.discarded(self):
            self.partition.group.runners.push(self)

    def _finish(self) -> None:
        work, self._work = self._work, None
        assert work is not None
        self._contested = 0
        if work.catching is None:
            self._finish_head(work.delivery)
            return
        if self.catching is work.catching:
            work.catching.backlog.popleft()
        self.partition.group.counters.closed += 1
        self.partition.group.runners.push(self)

    def _finish_head(self, delivery: Delivery) -> None:
        self.queue.popleft()
        self.size -= len(delivery.payload)
        self._contested = 0
        if self._stale:
            self._reopen()
        self.partition.close(delivery, self)


_LAPSED = "this worker's session has run out"
