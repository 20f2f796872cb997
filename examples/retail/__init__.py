"""A small shop: what its customers do, a journey, and three agents that follow them.

It is in its third version, and still reads what the first two wrote: `examples.retail.history`.
"""

from examples.retail import history
from examples.retail.agents import CartRecovery, LapseWatch, Loyalty
from examples.retail.events import (
    CartAbandoned,
    CartForgotten,
    CartUpdated,
    Currency,
    CustomerLapsed,
    DiscountOffered,
    LapsePeriodEnded,
    LoyaltyTierReached,
    OrderPlaced,
    ProductViewed,
    Reason,
    SessionEnded,
    Tier,
)
from examples.retail.journey import CourtedShopper, Shopper

__all__ = [
    "CartAbandoned",
    "CartForgotten",
    "CartRecovery",
    "CartUpdated",
    "CourtedShopper",
    "Currency",
    "CustomerLapsed",
    "DiscountOffered",
    "LapsePeriodEnded",
    "LapseWatch",
    "Loyalty",
    "LoyaltyTierReached",
    "OrderPlaced",
    "ProductViewed",
    "Reason",
    "SessionEnded",
    "Shopper",
    "Tier",
    "history",
]
