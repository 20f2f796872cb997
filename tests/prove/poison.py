"""The escort of the proofs with faults that single events set off: one ends the process, one fails for ever."""

from __future__ import annotations

import os
import signal

from sojourn import Agent, Context, agent, on
from tests.prove.escort import Basket, CartUpdated, OfferMade, valuable

DEADLY = "deadly"
BROKEN = "broken"


@agent("escort", start="beginning")
class Escort(Agent[Basket]):
    """Answers every valuable cart with one offer, if it can."""

    @on(CartUpdated, where=valuable)
    async def offer(self, event: CartUpdated, basket: Basket, ctx: Context) -> OfferMade:
        if event.note == DEADLY:
            # As the kernel does to whoever takes too much memory: nothing can be caught.
            os.kill(os.getpid(), signal.SIGKILL)
        if event.note == BROKEN:
            raise KeyError(event.note)
        return OfferMade(
            customer_id=event.customer_id,
            number=event.number,
            seen=basket.seen,
            total=basket.total,
            offers=basket.offers,
        )
