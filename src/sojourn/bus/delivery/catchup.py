"""Catching up: a parked customer's events, read again from the log and handled in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from sojourn.bus.delivery.customer import Customer
from sojourn.bus.delivery.member import Member
from sojourn.bus.lane import WAKE_UP
from sojourn.bus.ports import Delivery, Stored
from sojourn.bus.verdicts import verdict_of


class CatchUp:
    """What one processor still has to do for a customer that was parked. ``upto``: the sequence up to which the log
    was read; ``afresh``: a person has decided, so attempts count from the first again."""

    __slots__ = ("_customer", "afresh", "backlog", "member", "upto")

    def __init__(self, customer: Customer, member: Member, upto: int, stored: Iterable[Stored]) -> None:
        self._customer = customer
        self.member = member
        self.upto = upto
        self.afresh = False
        self.backlog: deque[Delivery] = deque()
        self._extend(stored)

    @classmethod
    async def begin(cls, customer: Customer, member: Member) -> CatchUp:
        """Reads the log and opens the processor's state anew, as of the first event to be handled."""
        stored = await customer.history()
        since = member.lane.since
        fresh = await customer.reopen(member, stored, since)
        upto = stored[-1].sequence if stored else since
        return cls(customer, fresh, upto, [message for message in stored if message.sequence >= since])

    async def more(self) -> None:
        """Reads what was stored since."""
        stored = await self._customer.history(self.upto + 1)
        if stored:
            self.upto = stored[-1].sequence
            self._extend(stored)

    def _extend(self, stored: Iterable[Stored]) -> None:
        for message in stored:
            tokens = message.subject.split(".")
            if tokens[1] == "log" and len(tokens) > 5 and self._concerns(tokens, message):
                self.backlog.append(
                    Delivery(message.subject, message.sequence, message.payload, message.timestamp, 0, "")
                )

    def _concerns(self, tokens: list[str], message: Stored) -> bool:
        if tokens[4] not in ("evt", "act") or not self.member.reads(tokens):
            return False
        if tokens[5] == "redrive":
            return verdict_of(message.payload) is None
        return not (tokens[5] == "due" and tokens[-1] == WAKE_UP)
