"""A catalog knows event classes by name, and no two of one name."""

from __future__ import annotations

import types

import pytest

from sojourn.bus.catalog import Catalog
from sojourn.bus.errors import DefinitionError
from sojourn.bus.event import Event, Key


class OrderPlaced(Event):
    customer_id: Key


class CartAbandoned(Event):
    customer_id: Key


class ShopEvent(Event, abstract=True):
    customer_id: Key


def another_order_placed() -> type[Event]:
    class OrderPlaced(Event, version=2):
        customer_id: Key

    return OrderPlaced


def test_classes_are_found_by_name_and_come_sorted() -> None:
    catalog = Catalog([OrderPlaced, CartAbandoned, OrderPlaced])
    assert catalog.get("OrderPlaced") is OrderPlaced
    assert catalog.get("Unheard") is None
    assert list(catalog) == [CartAbandoned, OrderPlaced]
    assert len(catalog) == 2


def test_two_classes_of_one_name_are_refused_with_both_places() -> None:
    other = another_order_placed()
    with pytest.raises(DefinitionError, match="two event classes are named OrderPlaced") as caught:
        Catalog([OrderPlaced]) | [other]
    assert str(caught.value).count("test_catalog.py:") == 2
    assert "rename one of them" in str(caught.value)


def test_an_abstract_base_is_refused() -> None:
    with pytest.raises(DefinitionError, match="ShopEvent is an abstract base"):
        Catalog([ShopEvent])


def test_of_a_module_come_its_events_and_nothing_else() -> None:
    module = types.ModuleType("shop")
    vars(module).update(
        Event=Event,
        ShopEvent=ShopEvent,
        OrderPlaced=OrderPlaced,
        Ordered=OrderPlaced,
        number=1,
        cls=int,
        alias=list[int],
    )
    assert list(Catalog.of_module(module)) == [OrderPlaced]


def test_a_union_leaves_both_as_they_were() -> None:
    one, other = Catalog([OrderPlaced]), Catalog([CartAbandoned])
    assert list(one | other) == [CartAbandoned, OrderPlaced]
    assert (len(one), len(other)) == (1, 1)
