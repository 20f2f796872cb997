from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sojourn.bus.catalog import Catalog
from sojourn.bus.envelope import Envelope, decode, encode
from sojourn.bus.errors import ConfigurationError
from sojourn.bus.event import Event, Key
from sojourn.simulation.population import Population, Response
from sojourn.simulation.shoppers import Shopper, shoppers
from sojourn.simulation.timeline import Happening
from tests.simulation.shop import CATALOG, CartAbandoned, CartUpdated, DiscountOffered, OrderPlaced

START = datetime(2026, 1, 5, tzinfo=UTC)
END = START + timedelta(days=14)


def crowd(customers: int, seed: int = 7, population: Population | None = None) -> list[Shopper]:
    return list(shoppers(customers, CATALOG, seed=seed, start=START, end=END, population=population))


def live(shopper: Shopper, percent: int | None = None) -> list[Happening]:
    """A shopper's life, with an offer for each abandoned cart where ``percent`` is given."""
    life: list[Happening] = []
    while (at := shopper.next_at()) is not None and at < END:
        life.append(shopper.take())
        if percent is not None and isinstance(life[-1].event, CartAbandoned):
            shopper.react(offer(shopper.key, percent, at))
    return life


def offer(key: str, percent: int, at: datetime) -> Envelope[Event]:
    event = DiscountOffered(customer_id=key, percent=percent)
    return decode(encode(event, id="1", source="/sim/a", key=key, time=at), DiscountOffered)


def test_the_same_seed_gives_the_same_lives_and_another_seed_others() -> None:
    lives = [[live(shopper) for shopper in crowd(40, seed)] for seed in (7, 7, 8)]
    assert lives[0] == lives[1]
    assert lives[0] != lives[2]


def test_a_shopper_does_not_depend_on_how_many_others_there_are() -> None:
    assert live(crowd(3)[1]) == live(crowd(30)[1])


def test_ids_are_each_events_own() -> None:
    ids = [happening.id for shopper in crowd(50) for happening in live(shopper)]
    assert len(ids) == len(set(ids)) > 0


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), percent=st.none() | st.integers(0, 100), visits=st.floats(0.1, 20))
def test_a_life_goes_forward_and_makes_sense(seed: int, percent: int | None, visits: float) -> None:
    for shopper in crowd(3, seed, Population(visits=visits)):
        life = live(shopper, percent)
        assert all(one.time <= two.time for one, two in pairwise(life))
        assert all(happening.time > START for happening in life)
        cart = 0
        for happening in life:
            match happening.event:
                case CartUpdated(cart_value=value, items=items):
                    assert value > 0 and items >= 1
                    cart = items
                case OrderPlaced(amount=amount, items=items):
                    assert items == cart and amount >= 0
                    cart = 0
                case CartAbandoned():
                    assert cart > 0


def test_people_abandon_buy_come_back_and_fall_silent() -> None:
    lives = [live(shopper) for shopper in crowd(400)]
    count = Counter(type(happening.event).__name__ for life in lives for happening in life)
    assert count["CartAbandoned"] > count["OrderPlaced"] > 100
    assert count["ProductViewed"] > count["CartUpdated"]
    silent_half = [life for life in lives if life and life[-1].time < START + timedelta(days=7)]
    assert 20 < len(silent_half) < 300
    night = sum(happening.time.hour in (2, 3, 4) for life in lives for happening in life)
    evening = sum(happening.time.hour in (19, 20, 21) for life in lives for happening in life)
    assert night * 5 < evening


def test_a_discount_brings_people_back_and_a_higher_one_more() -> None:
    orders = [
        sum(isinstance(happening.event, OrderPlaced) for shopper in crowd(400) for happening in live(shopper, percent))
        for percent in (None, 5, 30)
    ]
    assert orders[0] * 1.1 < orders[1] < orders[2]


def test_an_order_that_an_offer_brought_is_cheaper_by_its_percent() -> None:
    only_for_offers = Population(
        visits=2, fills_cart=1, buys=0, comes_back=0, fatigue=1, responses={"DiscountOffered": Response(1.0, 1.0)}
    )
    left, orders = Decimal(0), 0
    for happening in live(crowd(1, 7, only_for_offers)[0], 50):
        match happening.event:
            case CartAbandoned(cart_value=value):
                left = value
            case OrderPlaced(amount=amount):
                assert amount == (left / 2).quantize(amount)
                orders += 1
    assert orders > 3


def test_other_ways_to_respond_can_be_given() -> None:
    def never(action: Envelope[Event]) -> Response | None:
        return None

    deaf = list(shoppers(50, CATALOG, seed=7, start=START, end=END, response_to=never))
    assert [live(shopper, 30) for shopper in deaf] == [live(shopper) for shopper in crowd(50)]


def test_an_action_that_nobody_cares_for_changes_nothing() -> None:
    reference, shopper = crowd(1, 7, Population(visits=3))[0], crowd(1, 7, Population(visits=3, responses={}))[0]
    assert live(shopper, 50) == live(reference)


def test_only_the_events_that_a_module_has_are_made() -> None:
    orders = shoppers(200, Catalog([OrderPlaced]), seed=7, start=START, end=END)
    made = {type(happening.event) for shopper in orders for happening in live(shopper)}
    assert made == {OrderPlaced}


def test_an_order_says_what_it_cost_to_shops_that_call_it_a_total_too() -> None:
    class Abroad:
        class OrderPlaced(Event):
            customer_id: Key
            total: Decimal
            currency: str

    made = [
        [
            happening.event.model_dump()
            for happening in live(shopper)
            if happening.event.__class__.__name__ == "OrderPlaced"
        ]
        for kind in (Abroad.OrderPlaced, OrderPlaced)
        for shopper in shoppers(300, Catalog([kind, CartUpdated]), seed=7, start=START, end=END)
    ]
    abroad, home = made[:300], made[300:]
    assert sum(map(len, abroad)) > 50
    assert [[(one["total"], one["currency"]) for one in life] for life in abroad] == [
        [(one["amount"], "EUR") for one in life] for life in home
    ]


def test_shoppers_who_would_never_do_anything_end() -> None:
    population = Population(visits=50, buys=0, goes_silent=0)
    for shopper in shoppers(3, Catalog([OrderPlaced]), seed=1, start=START, end=END, population=population):
        assert shopper.next_at() is None


def test_a_module_that_speaks_another_language_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="the built-in shoppers make events named ProductViewed, CartUpdated"):
        shoppers(1, Catalog([DiscountOffered]), seed=1, start=START, end=END)
