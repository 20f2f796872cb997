"""A small shop: what its customers do, a journey, and three agents that follow them."""

from examples.retail.agents import CartRecovery, LapseWatch, Loyalty
from examples.retail.events import (
    CartAbandoned,
    CartForgotten,
    CartUpdated,
    CustomerLapsed,
    DiscountOffered,
    LapsePeriodEnded,
    LoyaltyTierReached,
    OrderPlaced,
    ProductViewed,
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
    "CustomerLapsed",
    "DiscountOffered",
    "LapsePeriodEnded",
    "LapseWatch",
    "Loyalty",
    "LoyaltyTierReached",
    "OrderPlaced",
    "ProductViewed",
    "SessionEnded",
    "Shopper",
    "Tier",
]
