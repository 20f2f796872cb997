"""What parks a customer that has too much waiting, and what wakes it."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from sojourn.bus.delivery.member import Member
from sojourn.bus.envelope import format_time
from sojourn.bus.lane import WAKE_UP, Change, parked_change, wake_generation
from sojourn.bus.ports import Delivery
from sojourn.bus.subjects import NO_KEY, Address
from sojourn.bus.verdicts import verdict_of

if TYPE_CHECKING:
    from sojourn.bus.delivery.keyqueue import KeyQueue

CROWD = 50
"""Deliveries of one key in memory, beyond which the rest is left in the log: a tenth of what a partition may hold."""

LEAST_ROOM = 256 * 1024
"""Bytes that one key's deliveries may take whatever else there is."""

SAFETY = timedelta(seconds=5)
"""When a customer that was parked for its crowd is woken, should nobody have caught up with it by then."""


def is_event(delivery: Delivery) -> bool:
    """Whether it is an event, and neither a wake-up nor a verdict on a parked customer."""
    # Asked of every delivery: what wakes a customer has more tokens than a plain event or an action.
    if delivery.subject.count(".") < 7:
        return True
    tokens = delivery.subject.split(".", 7)
    if tokens[5] == "due":
        return tokens[-1] != WAKE_UP
    return tokens[5] != "redrive" or verdict_of(delivery.payload) is None


def woken(members: Iterable[Member], delivery: Delivery) -> Member | None:
    """Whom it wakes: a processor that has the customer parked, by this very timer, or by the record that it is a
    verdict on."""
    if delivery.subject.count(".") < 7 or is_event(delivery):
        return None
    tokens = delivery.subject.split(".")
    for member in members:
        lane = member.lane
        if lane.parked is None or tokens[6] != member.writer.name:
            continue
        if tokens[5] == "redrive":
            if tokens[-1] == str(lane.parked_at):
                return member
        elif (timer := lane.timers.get(WAKE_UP)) is not None and timer.generation == wake_generation(delivery.payload):
            return member
    return None


def is_crowd(queue: KeyQueue) -> bool:
    """Whether more of a customer waits in memory than it may."""
    waiting = len(queue.queue)
    if waiting <= CROWD and (waiting <= 1 or queue.size <= LEAST_ROOM or queue.size <= queue.partition.room):
        return False
    # Messages without a usable key wait together, and no customer's history has them.
    return queue.at.token != NO_KEY


def crowded_change(member: Member, at: Address, since: int, now: datetime) -> Change:
    """The record that leaves a customer's events to the log from a sequence on, to be read at once."""
    facts = {"reason": "too much was waiting", "error": None, "time": format_time(now)}
    return parked_change(member.writer, at, member.lane, since, facts, wake=now + SAFETY, eager=True)
