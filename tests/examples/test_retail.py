from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from itertools import count

from examples.retail import (
    CartAbandoned,
    CartRecovery,
    CartUpdated,
    Currency,
    CustomerLapsed,
    DiscountOffered,
    LapseWatch,
    Loyalty,
    LoyaltyTierReached,
    OrderPlaced,
    Reason,
    Shopper,
    Tier,
)
from sojourn import days, hours
from sojourn.testing import Scenario

_numbers = count(1)


def order(amount: int = 20, currency: Currency = "EUR") -> OrderPlaced:
    return OrderPlaced(
        customer_id="ann", order_id=f"o{next(_numbers)}", total=Decimal(amount), currency=currency, items=2
    )


def cart(value: int) -> CartAbandoned:
    return CartAbandoned(customer_id="ann", cart_value=Decimal(value))


def offer(percent: int, reason: Reason, value: int) -> DiscountOffered:
    return DiscountOffered(customer_id="ann", percent=percent, reason=reason, cart_value=Decimal(value))


def lapsed(silent: int, orders: int) -> CustomerLapsed:
    return CustomerLapsed(customer_id="ann", days_silent=silent, orders=orders)


async def test_a_shopper_is_the_sum_of_what_she_did() -> None:
    async with Scenario() as s:
        await s.given(CartUpdated(customer_id="ann", cart_value=Decimal(70), items=3), ago=days(1))
        assert s.journey(Shopper, "ann").cart_value == 70
        await s.given(order(30), order(40), order(25, "USD"))
        shopper = s.journey(Shopper, "ann")
        assert shopper.cart_value == 0 and shopper.spent == {"EUR": 70, "USD": 25}
        assert (shopper.orders, shopper.last_order) == (3, s.now)


async def test_only_a_valuable_cart_gets_an_offer() -> None:
    async with Scenario(CartRecovery) as s:
        await s.when(cart(49))
        await s.advance(hours(1))
        s.then_nothing()
        await s.when(cart(50))
        s.then_nothing()
        await s.advance(hours(1))
        s.then(offer(10, "new", 50))


async def test_who_comes_back_is_left_alone() -> None:
    async with Scenario(CartRecovery) as s:
        await s.when(cart(80))
        await s.advance(hours(1) - timedelta(microseconds=1))
        await s.when(CartUpdated(customer_id="ann", cart_value=Decimal(90), items=4))
        await s.advance(hours(2))
        s.then_nothing()
        await s.when(cart(90))
        await s.when(order(90))
        await s.advance(hours(2))
        s.then_nothing()


async def test_a_customer_who_has_bought_gets_more() -> None:
    async with Scenario(CartRecovery) as s:
        await s.given(order())
        await s.when(cart(80))
        await s.advance(hours(1))
        s.then(offer(15, "returning", 80))


async def test_offers_are_three_days_apart() -> None:
    async with Scenario(CartRecovery) as s:
        await s.when(cart(80), cart(80))  # a burst of two gets one
        await s.advance(hours(1))
        s.then(offer(10, "new", 80))
        await s.advance(days(3) - hours(1) - timedelta(microseconds=1))
        await s.when(cart(80))
        await s.advance(hours(1))
        s.then_nothing()
        await s.advance(timedelta(microseconds=1))
        await s.when(cart(80))
        await s.advance(hours(1))
        s.then(offer(10, "new", 80))


async def test_nobody_gets_more_than_three_offers() -> None:
    async with Scenario(CartRecovery) as s:
        await s.given(*[offer(10, "new", 80)] * 3, ago=days(40))
        await s.when(cart(80))
        await s.advance(hours(1))
        s.then_nothing()


async def test_silence_is_noticed_twice() -> None:
    async with Scenario(LapseWatch) as s:
        await s.when(order())
        s.then_nothing()
        await s.advance(days(10) - hours(1))
        s.then_nothing()
        await s.advance(hours(1))
        s.then(lapsed(10, 1))
        await s.advance(days(80))
        s.then(lapsed(90, 1))
        await s.advance(days(400))
        s.then_nothing()


async def test_an_order_starts_the_count_anew() -> None:
    async with Scenario(LapseWatch) as s:
        await s.when(order())
        await s.advance(days(9))
        await s.when(order())
        await s.advance(days(9))
        s.then_nothing()
        await s.advance(days(1))
        s.then(lapsed(10, 2))
        await s.when(order())
        await s.advance(days(59))
        s.then(lapsed(10, 3))


async def test_loyalty_is_thanked_once_a_tier() -> None:
    async with Scenario(Loyalty) as s:
        await s.when(*[order() for _ in range(11)])
        s.then(
            *[
                LoyaltyTierReached(customer_id="ann", tier=tier, orders=orders)
                for tier, orders in ((Tier.BRONZE, 2), (Tier.SILVER, 5), (Tier.GOLD, 10))
            ]
        )


async def test_the_three_do_not_disturb_each_other() -> None:
    async with Scenario(CartRecovery, LapseWatch, Loyalty) as s:
        await s.when(order(), order(), cart(90))
        s.then(LoyaltyTierReached(customer_id="ann", tier=Tier.BRONZE, orders=2))
        await s.advance(hours(1))
        s.then(offer(15, "returning", 90))
        await s.advance(days(10))
        s.then(lapsed(10, 2))
