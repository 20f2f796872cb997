"""What happens in the shop, and what the agents do about it.

This is version 3 of the shop. Events say which version they are where that is not the first;
`examples.retail.history` reads those that older versions of the shop have left in the log.
"""

from __future__ import annotations

from decimal import Decimal
from enum import StrEnum
from typing import Literal

from sojourn import Event, Key, Personal

Currency = Literal["EUR", "GBP", "USD"]
"""What the shop is paid in."""

Reason = Literal["new", "returning"]
"""Why an offer is made: to win a customer who has not bought yet, or to thank one who has."""


class ShopEvent(Event, abstract=True, owner="shop"):
    """Anything that happens to one customer of the shop."""

    customer_id: Key


# Behaviour: what customers do.


class ProductViewed(ShopEvent, version=2):
    """A customer looked at a product, on the web or in the app."""

    product: str
    channel: str = "web"


class CartUpdated(ShopEvent, version=2):
    """A customer's cart changed; the value and number of items are those after the change."""

    cart_value: Decimal
    items: int
    voucher: str | None = None


class CartAbandoned(ShopEvent):
    """A customer left with items in the cart."""

    cart_value: Decimal


class OrderPlaced(ShopEvent, version=3):
    """A customer bought ``items`` articles for ``total``; ``email`` is where the receipt went."""

    order_id: str
    total: Decimal
    currency: Currency
    items: int
    email: Personal[str] | None = None


class SessionEnded(ShopEvent):
    """A customer left the shop, with or without having bought."""


# Actions: what agents do.


class DiscountOffered(ShopEvent, version=3):
    """A customer was offered that many percent off the abandoned cart, which was worth ``cart_value``."""

    percent: int
    reason: Reason
    cart_value: Decimal | None = None


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
