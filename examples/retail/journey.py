"""What the shop knows of a customer."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

from pydantic import Field

from examples.retail.events import CartUpdated, Currency, DiscountOffered, OrderPlaced
from sojourn import Envelope, Journey, evolve


class Shopper(Journey):
    """One customer's cart and orders: a fold of behaviour alone."""

    cart_value: Decimal = Decimal(0)
    orders: int = 0
    spent: dict[Currency, Decimal] = Field(default_factory=dict)
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
        self.spent[event.currency] = self.spent.get(event.currency, Decimal(0)) + event.total
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
