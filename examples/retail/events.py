"""What happens in the shop, and what the agents do about it."""

from __future__ import annotations

from decimal import Decimal
from enum import StrEnum

from sojourn import Event, Key


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
