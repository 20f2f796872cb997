"""The escort of the proofs, asking somebody else before it acts: its handlers call once."""

from __future__ import annotations

from sojourn import Agent, Context, agent, on
from tests.prove.escort import Basket, CartUpdated, OfferMade, valuable


async def ask(number: int) -> int:
    """What an outside service would be asked, and paid, for."""
    return number


@agent("escort", start="beginning")
class Escort(Agent[Basket]):
    """Answers every valuable cart with one offer, for which it asks twice."""

    @on(CartUpdated, where=valuable)
    async def offer(self, event: CartUpdated, basket: Basket, ctx: Context) -> OfferMade:
        number = await ctx.once(ask, event.number)
        return OfferMade(
            customer_id=event.customer_id,
            number=await ctx.once(ask, number),
            seen=basket.seen,
            total=basket.total,
            offers=basket.offers,
        )
