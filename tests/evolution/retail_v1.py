"""The retail example as its version 1 was: what still runs somewhere, and what the oldest part of a log was written by.

Kept as it was; only its parts were put into one file.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from enum import StrEnum

from sojourn import Agent, Context, Envelope, Event, Journey, Key, agent, days, evolve, hours, on


class ShopEvent(Event, abstract=True):
    """Anything that happens to one customer of the shop. Amounts are in the shop's currency."""

    customer_id: Key


# Behaviour: what customers do.


class ProductViewed(ShopEvent):
    """A customer looked at a product."""

    product: str


class CartUpdated(ShopEvent):
    """A customer's cart changed; the value and number of items are those after the change."""

    cart_value: Decimal
    items: int


class CartAbandoned(ShopEvent):
    """A customer left with items in the cart."""

    cart_value: Decimal


class OrderPlaced(ShopEvent):
    """A customer bought ``items`` articles for ``amount``."""

    order_id: str
    amount: Decimal
    items: int


class SessionEnded(ShopEvent):
    """A customer left the shop, with or without having bought."""


# Actions: what agents do.


class DiscountOffered(ShopEvent):
    """A customer was offered that many percent off the abandoned cart."""

    percent: int


class CustomerLapsed(ShopEvent):
    """A customer has not ordered for that many days, after that many orders."""

    days_silent: int
    orders: int


class Tier(StrEnum):
    """What loyalty is worth."""

    BRONZE = "bronze"
    SILVER = "silver"
    GOLD = "gold"


class LoyaltyTierReached(ShopEvent):
    """A customer's orders, counted up to this one, reached a tier."""

    tier: Tier
    orders: int


# Timers: what agents tell themselves.


class CartForgotten(ShopEvent):
    """A customer did not come back to an abandoned cart for an hour."""

    cart_value: Decimal


class LapsePeriodEnded(ShopEvent):
    """Nothing was ordered for a while since the customer's ``orders``-th order."""

    orders: int


class Shopper(Journey):
    """One customer's cart and orders: a fold of behaviour alone."""

    cart_value: Decimal = Decimal(0)
    orders: int = 0
    spent: Decimal = Decimal(0)
    last_order: datetime | None = None

    @evolve(CartUpdated)
    def cart_changed(self, event: CartUpdated) -> None:
        """Remembers what is in the cart now."""
        self.cart_value = event.cart_value

    @evolve(OrderPlaced)
    def ordered(self, event: OrderPlaced, envelope: Envelope[OrderPlaced]) -> None:
        """Counts the order, at the time at which it was placed, and empties the cart."""
        self.cart_value = Decimal(0)
        self.orders += 1
        self.spent += event.amount
        self.last_order = max(self.last_order or envelope.time, envelope.time)


class CourtedShopper(Shopper):
    """A shopper, and what was offered."""

    offers: int = 0
    last_offer: datetime | None = None

    @evolve(DiscountOffered)
    def offered(self, event: DiscountOffered, envelope: Envelope[DiscountOffered]) -> None:
        """Counts the offer."""
        self.offers += 1
        self.last_offer = envelope.time


VALUABLE = 50
PATIENCE = hours(1)
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
        return DiscountOffered(customer_id=event.customer_id, percent=15 if shopper.orders else 10)


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
