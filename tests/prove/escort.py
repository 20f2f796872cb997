"""The agent under test in the crash proof: it says what it knew when it acted."""

from __future__ import annotations

import asyncio

from sojourn import Agent, Context, Event, Journey, Key, agent, evolve, on

VALUABLE = 50


class CartUpdated(Event):
    """A cart has a new value. ``number`` counts the customer's events; ``note`` makes one as large as a test likes."""

    customer_id: Key
    number: int
    value: int
    note: str = ""


class OfferMade(Event):
    """What the agent did, and the state it saw."""

    customer_id: Key
    number: int
    seen: int
    total: int
    offers: int


class Basket(Journey):
    """Counts and sums what happened, the agent's own offers included."""

    seen: int = 0
    total: int = 0
    offers: int = 0

    @evolve(CartUpdated)
    def updated(self, event: CartUpdated) -> None:
        self.seen += 1
        self.total += event.value

    @evolve(OfferMade)
    def offered(self, event: OfferMade) -> None:
        self.offers += 1


def valuable(event: CartUpdated, basket: Basket) -> bool:
    return event.value > VALUABLE


@agent("escort", start="beginning")
class Escort(Agent[Basket]):
    """Answers every valuable cart with one offer."""

    @on(CartUpdated, where=valuable)
    async def offer(self, event: CartUpdated, basket: Basket, ctx: Context) -> OfferMade:
        if event.number % 3 == 0:
            # Some handlings take a while, so that kills meet them half-way.
            await asyncio.sleep(0.002)
        return OfferMade(
            customer_id=event.customer_id,
            number=event.number,
            seen=basket.seen,
            total=basket.total,
            offers=basket.offers,
        )
