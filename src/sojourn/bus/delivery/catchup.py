"""Catching up: a parked customer's events, read again from the log and handled in order."""

from __future__ import annotations

from collections import deque

from sojourn.bus.delivery.customer import Customer
from sojourn.bus.delivery.member import Member
from sojourn.bus.delivery.pages import Pages
from sojourn.bus.errors import UnavailableError
from sojourn.bus.lane import WAKE_UP
from sojourn.bus.ports import Delivery, Stored
from sojourn.bus.verdicts import verdict_of


class CatchUp:
    """What one processor still has to do for a customer that was parked. ``upto``: the sequence up to which the log
    was read, a page at a time; ``afresh``: a person has decided, so attempts count from the first again."""

    __slots__ = ("_closed", "_customer", "_pages", "_size", "afresh", "backlog", "member", "upto")

    def __init__(self, pages: Pages, customer: Customer, member: Member, upto: int) -> None:
        self._pages = pages
        self._customer = customer
        self._size = 0
        self._closed = False
        self.member = member
        self.upto = upto
        self.afresh = False
        self.backlog: deque[Delivery] = deque()

    @classmethod
    async def begin(cls, pages: Pages, customer: Customer, member: Member) -> CatchUp:
        """Opens the processor's state anew, as of the first event to be handled. Raises `UnavailableError` where the
        log shows by now that the customer is not parked any more: what was read before came from a replica that was
        behind."""
        since = member.lane.since
        fresh = await customer.reopen(member, since)
        if fresh.lane.parked is None:
            raise UnavailableError("the log did not show yet that the customer is parked no longer")
        return cls(pages, customer, fresh, since - 1)

    async def fill(self, delivered: int, skipped: int) -> bool:
        """Reads on until the backlog has something; False where the log has no more. Raises `UnavailableError` where it
        does not show yet what was ``delivered``, or ``skipped``: whoever shows so little may lack more."""
        while not self.backlog:
            if await self.more() or self.backlog:
                continue
            if self._closed:
                break
            for sequence in (skipped, delivered):
                if self.upto < sequence:
                    await self._customer.look_for(sequence)
            self.upto = max(self.upto, skipped)
            break
        return bool(self.backlog)

    async def more(self) -> bool:
        """Reads what comes next in the log, once the backlog is empty; False where that was all."""
        self._give_back()
        page = await self._customer.history(self._pages, self.upto + 1)
        self._size = page.size
        if self._closed:
            self._give_back()
            return False
        for message in page.messages:
            tokens = message.subject.split(".")
            if tokens[1] == "log" and len(tokens) > 5 and self._concerns(tokens, message):
                self.backlog.append(
                    Delivery(message.subject, message.sequence, message.payload, message.timestamp, 0, "")
                )
        if page.messages:
            self.upto = page.messages[-1].sequence
        return page.more

    def close(self) -> None:
        """Gives back what the backlog has in memory: nobody goes on with it."""
        self._closed = True
        self.backlog.clear()
        self._give_back()

    def _give_back(self) -> None:
        size, self._size = self._size, 0
        self._pages.give(size)

    def _concerns(self, tokens: list[str], message: Stored) -> bool:
        if tokens[4] not in ("evt", "act") or not self.member.reads(tokens):
            return False
        if tokens[5] == "redrive":
            return verdict_of(message.payload) is None
        return not (tokens[5] == "due" and tokens[-1] == WAKE_UP)
