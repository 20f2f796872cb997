"""Catching up: a parked customer's events, read again from the log and handled in order."""

from __future__ import annotations

from collections import deque

from sojourn.bus.delivery.customer import PAGE, Customer
from sojourn.bus.delivery.member import Member
from sojourn.bus.lane import WAKE_UP
from sojourn.bus.ports import Delivery, Stored
from sojourn.bus.verdicts import verdict_of


class CatchUp:
    """What one processor still has to do for a customer that was parked. ``upto``: the sequence up to which the log
    was read, a page at a time; ``afresh``: a person has decided, so attempts count from the first again."""

    __slots__ = ("_customer", "afresh", "backlog", "member", "upto")

    def __init__(self, customer: Customer, member: Member, upto: int) -> None:
        self._customer = customer
        self.member = member
        self.upto = upto
        self.afresh = False
        self.backlog: deque[Delivery] = deque()

    @classmethod
    async def begin(cls, customer: Customer, member: Member) -> CatchUp:
        """Opens the processor's state anew, as of the first event to be handled."""
        since = member.lane.since
        return cls(customer, await customer.reopen(member, since), since - 1)

    async def more(self) -> bool:
        """Reads what comes next in the log; False where that was all."""
        page = await self._customer.history(self.upto + 1)
        for message in page:
            tokens = message.subject.split(".")
            if tokens[1] == "log" and len(tokens) > 5 and self._concerns(tokens, message):
                self.backlog.append(
                    Delivery(message.subject, message.sequence, message.payload, message.timestamp, 0, "")
                )
        if page:
            self.upto = page[-1].sequence
        return len(page) == PAGE

    def _concerns(self, tokens: list[str], message: Stored) -> bool:
        if tokens[4] not in ("evt", "act") or not self.member.reads(tokens):
            return False
        if tokens[5] == "redrive":
            return verdict_of(message.payload) is None
        return not (tokens[5] == "due" and tokens[-1] == WAKE_UP)
