from __future__ import annotations

from decimal import Decimal

import pytest

from sojourn.bus.catalog import Catalog
from sojourn.bus.errors import ConfigurationError
from sojourn.bus.event import Event, Key
from sojourn.simulation.vocabulary import Vocabulary
from tests.simulation import shop

OFFERED = {"OrderPlaced": ("order_id", "amount", "items"), "CartEmptied": ("items",)}


def test_it_fills_the_fields_that_a_module_has_by_name() -> None:
    class OrderPlaced(Event):
        shopper: Key
        amount: float
        channel: str = "web"

    vocabulary = Vocabulary(Catalog([OrderPlaced]), OFFERED, who="tests")
    event = vocabulary.make("OrderPlaced", "c1", {"order_id": "1", "amount": Decimal("9.5"), "items": 2})
    assert event == OrderPlaced(shopper="c1", amount=9.5)
    assert "OrderPlaced" in vocabulary
    assert "CartEmptied" not in vocabulary


def test_a_module_without_any_of_the_types_is_refused_with_what_it_has() -> None:
    with pytest.raises(
        ConfigurationError, match=r"tests make events named OrderPlaced, CartEmptied.*it has ProductViewed"
    ):
        Vocabulary(Catalog([shop.ProductViewed]), OFFERED, who="tests")
    with pytest.raises(ConfigurationError, match="it has none at all"):
        Vocabulary(Catalog(), OFFERED, who="tests")


def test_a_field_that_nothing_is_known_for_is_refused_at_once_naming_its_line() -> None:
    class OrderPlaced(Event):
        customer_id: Key
        warehouse: str

    with pytest.raises(
        ConfigurationError, match=r"test_vocabulary\.py:\d+: OrderPlaced\.warehouse is required.*amount"
    ):
        Vocabulary(Catalog([OrderPlaced]), OFFERED, who="tests")


def test_a_field_of_another_type_is_refused_when_it_is_filled() -> None:
    class OrderPlaced(Event):
        customer_id: Key
        items: str

    vocabulary = Vocabulary(Catalog([OrderPlaced]), OFFERED, who="tests")
    with pytest.raises(ConfigurationError, match=r"tests cannot make a OrderPlaced.*items"):
        vocabulary.make("OrderPlaced", "c1", {"items": 2, "amount": 1, "order_id": "1"})
