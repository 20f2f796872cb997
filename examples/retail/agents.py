"""Three agents of a shop.

Each decides by what the customer did and by what it did itself, never by what another agent did meanwhile: so the same
customers get the same treatment whichever agent is faster.
"""

from __future__ import annotations

from collections.abc import Iterator

from examples.retail.events import (
    CartAbandoned,
    CartForgotten,
    CartUpdated,
    CustomerLapsed,
    DiscountOffered,
    LapsePeriodEnded,
    LoyaltyTierReached,
    OrderPlaced,
    Reason,
    Tier,
)
from examples.retail.journey import CourtedShopper, Shopper
from sojourn import Agent, Context, agent, days, hours, on

VALUABLE = 50
PATIENCE = hours(1)
NEW: tuple[int, Reason] = (10, "new")
RETURNING: tuple[int, Reason] = (15, "returning")
MOST_OFFERS = 3
BETWEEN_OFFERS = days(3)

FIRST_SILENCE = days(10)
LONG_SILENCE = days(90)

TIERS = {2: Tier.BRONZE, 5: Tier.SILVER, 10: Tier.GOLD}


def valuable(event: CartAbandoned) -> bool:
    """Whether a cart is worth an offer."""
    return event.cart_value >= VALUABLE


@agent("cart-recovery")
class CartRecovery(Agent[CourtedShopper]):
    """Offers a discount on a valuable cart that was abandoned for an hour, but not too often."""

    @on(CartAbandoned, where=valuable)
    def abandoned(self, event: CartAbandoned, shopper: CourtedShopper, ctx: Context) -> None:
        """Many come back by themselves: wait for that."""
        forgotten = CartForgotten(customer_id=event.customer_id, cart_value=event.cart_value)
        ctx.later(forgotten, at=ctx.envelope.time + PATIENCE, name="cart")

    @on(CartUpdated)
    def returned(self, event: CartUpdated, shopper: CourtedShopper, ctx: Context) -> None:
        """The customer is back: no need to call."""
        ctx.cancel("cart")

    @on(OrderPlaced)
    def bought(self, event: OrderPlaced, shopper: CourtedShopper, ctx: Context) -> None:
        """The cart is sold."""
        ctx.cancel("cart")

    @on(CartForgotten)
    def offer(self, event: CartForgotten, shopper: CourtedShopper, ctx: Context) -> DiscountOffered | None:
        """More for those who have bought before; at most three offers, days apart."""
        if shopper.offers >= MOST_OFFERS:
            return None
        if shopper.last_offer is not None and ctx.now - shopper.last_offer < BETWEEN_OFFERS:
            return None
        percent, reason = RETURNING if shopper.orders else NEW
        return DiscountOffered(
            customer_id=event.customer_id, percent=percent, reason=reason, cart_value=event.cart_value
        )


def still_silent(event: LapsePeriodEnded, shopper: Shopper) -> bool:
    """Whether nothing was ordered since the timer was set."""
    return shopper.orders == event.orders


@agent("lapse-watch")
class LapseWatch(Agent[Shopper]):
    """Notices customers who have stopped ordering, after 10 days and again after 90."""

    @on(OrderPlaced)
    def ordered(self, event: OrderPlaced, shopper: Shopper, ctx: Context) -> None:
        """Starts to count anew: the timer of the order before is replaced."""
        period = LapsePeriodEnded(customer_id=event.customer_id, orders=shopper.orders)
        ctx.later(period, at=ctx.envelope.time + FIRST_SILENCE, name="lapse")

    @on(LapsePeriodEnded, where=still_silent)
    def silent(self, event: LapsePeriodEnded, shopper: Shopper, ctx: Context) -> Iterator[CustomerLapsed]:
        """Says so, and once more when the silence has become long."""
        assert shopper.last_order is not None  # the timer was set by an order
        silence = ctx.now - shopper.last_order
        yield CustomerLapsed(customer_id=event.customer_id, days_silent=silence.days, orders=shopper.orders)
        if silence < LONG_SILENCE:
            ctx.later(event, at=shopper.last_order + LONG_SILENCE, name="lapse")


@agent("loyalty")
class Loyalty(Agent[Shopper]):
    """Thanks customers when their orders reach a tier."""

    @on(OrderPlaced)
    async def thank(self, event: OrderPlaced, shopper: Shopper) -> LoyaltyTierReached | None:
        """The journey counts this order already."""
        tier = TIERS.get(shopper.orders)
        if tier is None:
            return None
        return LoyaltyTierReached(customer_id=event.customer_id, tier=tier, orders=shopper.orders)
