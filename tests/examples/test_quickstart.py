from __future__ import annotations

from decimal import Decimal

from examples.quickstart import Cart, CartAbandoned, DiscountOffered, WinBack
from sojourn.testing import Scenario


async def test_a_valuable_cart_is_won_back() -> None:
    async with Scenario(WinBack) as s:
        await s.when(CartAbandoned(customer_id="ann", cart_value=Decimal(80)))
        s.then(DiscountOffered(customer_id="ann", percent=10))


async def test_a_cheap_cart_is_let_go() -> None:
    async with Scenario(WinBack) as s:
        await s.when(CartAbandoned(customer_id="ann", cart_value=Decimal(20)))
        s.then_nothing()


async def test_nobody_gets_more_than_three_offers() -> None:
    async with Scenario(WinBack) as s:
        await s.given(*[DiscountOffered(customer_id="ann", percent=10)] * 2)
        await s.when(*[CartAbandoned(customer_id="ann", cart_value=Decimal(80))] * 3)
        s.then(DiscountOffered(customer_id="ann", percent=10))
        assert s.journey(Cart, "ann").offers == 3
