"""A shop with two agents, copied to where a test's command runs."""

from __future__ import annotations

import asyncio
from decimal import Decimal

from sojourn import Agent, Context, Event, Journey, Key, agent, evolve, on


class CartAbandoned(Event):
    customer_id: Key
    cart_value: Decimal


class OrderPlaced(Event):
    customer_id: Key
    amount: Decimal = Decimal(0)


class DiscountOffered(Event):
    customer_id: Key
    percent: int


class ThanksSent(Event):
    customer_id: Key
    note: str


class Cart(Journey):
    offers: int = 0

    @evolve(DiscountOffered)
    def offered(self, event: DiscountOffered) -> None:
        self.offers += 1


@agent("win-back", version=3)
class WinBack(Agent[Cart]):
    """Wins back customers who abandon a cart."""

    @on(CartAbandoned)
    async def offer(self, event: CartAbandoned, cart: Cart, ctx: Context) -> DiscountOffered:
        if event.cart_value < 0:
            raise ValueError("a cart cannot be worth less than nothing")
        ctx.log.info("offering", seen=event)
        return DiscountOffered(customer_id=event.customer_id, percent=10 + cart.offers)


@agent("thanks")
class Thanks(Agent):
    """Says thank you."""

    @on(OrderPlaced)
    async def thank(self, event: OrderPlaced, ctx: Context) -> ThanksSent:
        if event.amount == 13:
            await asyncio.sleep(1)
        if event.amount == 666:
            await asyncio.sleep(60)
        return ThanksSent(customer_id=event.customer_id, note="thank you, come again")
