"""A whole agent. Run it: `sojourn run examples.quickstart`."""

from decimal import Decimal

from sojourn import Agent, Event, Journey, Key, agent, evolve, on


class CartAbandoned(Event):
    """A customer left with items in the cart."""

    customer_id: Key
    cart_value: Decimal


class DiscountOffered(Event):
    """A customer was offered a discount."""

    customer_id: Key
    percent: int


class Cart(Journey):
    """What is known of one customer."""

    offers: int = 0

    @evolve(DiscountOffered)
    def offered(self, event: DiscountOffered) -> None:
        self.offers += 1


@agent("win-back")
class WinBack(Agent[Cart]):
    """Wins back customers who abandon a valuable cart, three times at most."""

    @on(CartAbandoned)
    def offer(self, event: CartAbandoned, cart: Cart) -> DiscountOffered | None:
        if event.cart_value < 50 or cart.offers >= 3:
            return None
        return DiscountOffered(customer_id=event.customer_id, percent=10)
