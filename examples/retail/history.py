"""How the shop's events became what they are, and how those of older versions are read.

A log is for ever: what version 1 of the shop wrote is still there, as it was written. Each function here makes the data
of one version into those of the next, so that handlers and journeys only ever meet the newest.

- `OrderPlaced` had order_id, amount and items; version 2 made a total and a currency of the amount, version 3 knows
  three currencies, and may hold the customer's email;
- `DiscountOffered` had a percentage; version 2 gives the reason too, version 3 the value of the cart;
- `CartUpdated` and `ProductViewed` got a voucher and a channel in their version 2;
- everything else is as it was.

A field that may be missing (email, cart_value, voucher, channel) needs a new version, but no function: what was written
without it is read as it is. A docstring needs neither.
"""

from __future__ import annotations

from typing import Any

from examples.retail.events import DiscountOffered, OrderPlaced
from sojourn import upcast

SIGNS = {"€": "EUR", "£": "GBP", "$": "USD"}


@upcast(OrderPlaced, from_version=1)
def order_with_currency(data: dict[str, Any]) -> dict[str, Any]:
    """Version 1 sold in euros and did not say so. The amount is called a total since it may include postage; that of
    version 1 had none to include."""
    data["total"] = data.pop("amount")
    data["currency"] = "EUR"
    return data


@upcast(OrderPlaced, from_version=2)
def order_with_known_currency(data: dict[str, Any]) -> dict[str, Any]:
    """Version 2 took any text for a currency, and the tills wrote what they liked: eur, EUR or €."""
    written = data["currency"].strip()
    data["currency"] = SIGNS.get(written, written.upper())
    return data


@upcast(DiscountOffered, from_version=1)
def offer_with_reason(data: dict[str, Any]) -> dict[str, Any]:
    """Version 1 gave no reason, but 15 percent to those who had bought before, and to nobody else."""
    data["reason"] = "returning" if data["percent"] == 15 else "new"
    return data
