"""What older versions of the shop wrote, read as version 3 of it: documents as they stand in a log."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest

from examples.retail import CartUpdated, DiscountOffered, OrderPlaced, ProductViewed
from sojourn.bus.envelope import Envelope, decode
from sojourn.bus.errors import SchemaError
from sojourn.bus.event import Event


def read(cls: type[Event], version: int, **data: Any) -> Envelope[Event]:
    document = {
        "specversion": "1.0",
        "id": "1",
        "source": "/shop",
        "type": cls.__name__,
        "subject": "ann",
        "time": "2024-05-01T12:00:00Z",
        "schemaversion": version,
        "correlationid": "1",
        "data": {"customer_id": "ann", **data},
    }
    return decode(json.dumps(document).encode(), cls)


def test_an_order_of_version_1_was_in_euros() -> None:
    envelope = read(OrderPlaced, 1, order_id="o1", amount="19.90", items=2)
    assert envelope.schema_version == 1
    assert envelope.event == OrderPlaced(
        customer_id="ann", order_id="o1", total=Decimal("19.90"), currency="EUR", items=2, email=None
    )


@pytest.mark.parametrize(
    ("written", "currency"), [("EUR", "EUR"), ("eur", "EUR"), ("€", "EUR"), ("£", "GBP"), (" usd", "USD"), ("$", "USD")]
)
def test_an_order_of_version_2_says_its_currency_in_many_ways(written: str, currency: str) -> None:
    event = read(OrderPlaced, 2, order_id="o1", total="19.90", currency=written, items=2).event
    assert isinstance(event, OrderPlaced)
    assert (event.total, event.currency) == (Decimal("19.90"), currency)


def test_a_currency_that_nobody_knows_is_refused_as_such() -> None:
    with pytest.raises(SchemaError, match=r"brought up from version 2: data does not fit OrderPlaced: data\.currency"):
        read(OrderPlaced, 2, order_id="o1", total="19.90", currency="thaler", items=2)


@pytest.mark.parametrize(("percent", "reason"), [(10, "new"), (15, "returning")])
def test_the_reason_of_an_offer_of_version_1_shows_in_its_percentage(percent: int, reason: Any) -> None:
    expected = DiscountOffered(customer_id="ann", percent=percent, reason=reason, cart_value=None)
    assert read(DiscountOffered, 1, percent=percent).event == expected
    assert read(DiscountOffered, 2, percent=percent, reason=reason).event == expected


def test_what_may_be_missing_is_read_without_an_upcaster() -> None:
    assert CartUpdated.__sojourn_upcasters__ == {} == ProductViewed.__sojourn_upcasters__
    assert read(CartUpdated, 1, cart_value="70", items=3).event == CartUpdated(
        customer_id="ann", cart_value=Decimal(70), items=3, voucher=None
    )
    assert read(ProductViewed, 1, product="rug").event == ProductViewed(customer_id="ann", product="rug", channel="web")
