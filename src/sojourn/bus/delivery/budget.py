"""The memory that a process has for deliveries: a bound in bytes that all its flows share.

A flow takes bytes before it asks the server for messages, and gives them back as deliveries are acked or dropped, so
that what is in memory and what is on its way never exceed the limit together.

Half of the limit is split evenly: each flow's own part is there for it whatever the others do. The other half is lent,
to each flow at most a quarter of what is then left to lend (the dynamic thresholds of shared-memory switches: Choudhury
and Hahne, IEEE/ACM Transactions on Networking 6(2), 1998). So one flow whose handlers hang comes to rest at a fifth of
it, and however many hang, the others go on with their own parts at least.

A message larger than all this allows still gets through: a flow that has nothing may take what one message needs in
one of four slots beside the limit. So no flow starves while others are acked, and memory stays below the limit and
four times the largest message.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

LIMIT = 64 * 1024 * 1024
"""Bytes of messages (subjects, headers and payloads) that a process holds or has asked for, by default."""

SLOTS = 4
"""Messages that may be beside the limit at a time: those too large for what a flow would get from it."""

_LENT = 4
"""A flow may owe this part of what is left to lend."""


@dataclass(slots=True, eq=False)
class Share:
    """One flow's part in a `Budget`: the bytes it has taken, and what it waits for."""

    room: Callable[[], None]
    taken: int = 0
    least: int = 0
    slot: bool = False


class Budget:
    """What the flows of one process share. Used from one event loop."""

    def __init__(self, limit: int = LIMIT) -> None:
        self.limit = limit
        self.used = 0
        """Bytes that are taken, by all flows together."""
        self._shares: set[Share] = set()
        self.waiting: dict[Share, None] = {}
        """Flows that would ask for more messages, had they room for them; who waits longest comes first."""
        self._own = limit // 2
        self._lent = 0
        self._slots = 0
        self._beside = 0
        self._waking = False

    def join(self, room: Callable[[], None]) -> Share:
        """A flow's share. ``room`` is called from the event loop once `take`, refused before, would give something."""
        share = Share(room)
        self._shares.add(share)
        self._divide()
        return share

    def leave(self, share: Share) -> None:
        """Gives everything back, for good."""
        self.give(share, share.taken)
        self.waiting.pop(share, None)
        self._shares.discard(share)
        self._divide()

    def take(self, share: Share, least: int, most: int) -> int:
        """Takes as many of ``most`` bytes as there are for this flow, at least ``least``; or none, and calls
        `Share.room` once that would be different."""
        granted = min(self._allowed(share), most)
        if granted < least:
            if not self._slot_free(share):
                share.least = least
                self.waiting[share] = None
                return 0
            share.slot = True
            self._slots += 1
            granted = least
        self.waiting.pop(share, None)
        self._change(share, granted)
        return granted

    def give(self, share: Share, size: int) -> None:
        """Gives back bytes that were taken."""
        self._change(share, -min(size, share.taken))
        self._tell()

    def charge(self, share: Share, size: int) -> None:
        """Counts bytes that are in memory already, whether or not there was room for them."""
        self._change(share, size)

    def _divide(self) -> None:
        self._own = self.limit // 2 // max(len(self._shares), 1)
        # What flows owe depends on how large their own parts are.
        self._lent = sum(self._owed(share) for share in self._shares)
        self._tell()

    def _allowed(self, share: Share) -> int:
        if share.slot:
            self._end_slot(share)
            if share.slot:
                return 0
        left = (self.limit - self.limit // 2 - self._lent) // _LENT
        rest = self._own - share.taken
        allowed = rest + max(0, left) if rest > 0 else max(0, left + rest)
        # Own parts shrink when flows join: what others took before is still with them.
        return min(allowed, max(0, self.limit - self.used + self._beside))

    def _slot_free(self, share: Share) -> bool:
        return share.taken == 0 and self._slots < SLOTS

    def _owed(self, share: Share) -> int:
        # What is in a slot is beside the limit.
        return 0 if share.slot else max(0, share.taken - self._own)

    def _change(self, share: Share, size: int) -> None:
        before = share.taken
        share.taken = after = before + size
        self.used += size
        if share.slot:
            self._beside += size
            self._end_slot(share)
            self._lent += self._owed(share)
        # For each message: nothing more is asked where a flow stays within its own part.
        elif before > self._own or after > self._own:
            self._lent += max(0, after - self._own) - max(0, before - self._own)

    def _end_slot(self, share: Share) -> None:
        fits = share.taken <= self._own and self.used - self._beside + share.taken <= self.limit
        if share.slot and (fits or not share.taken):
            share.slot = False
            self._slots -= 1
            self._beside -= share.taken

    def _tell(self) -> None:
        if self.waiting and not self._waking:
            self._waking = True
            asyncio.get_running_loop().call_soon(self._wake)

    def _wake(self) -> None:
        self._waking = False
        for share in list(self.waiting):
            if share in self.waiting and (self._allowed(share) >= share.least or self._slot_free(share)):
                del self.waiting[share]
                share.room()
