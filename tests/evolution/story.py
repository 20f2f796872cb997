"""What happened in the shop while it was at its versions 1 and 2: written by the code of that time."""

from __future__ import annotations

from decimal import Decimal

from tests.evolution import retail_v1 as v1
from tests.evolution import retail_v2 as v2
from tests.evolution.world import World


async def write(world: World) -> None:
    """March 2024 with version 1, April with version 2. Nobody runs afterwards; timers are open."""
    async with world.runs(v1) as bus:
        await world.happens(
            bus,
            ("2024-03-01 10:00", v1.ProductViewed(customer_id="ann", product="rug")),
            ("2024-03-01 10:02", v1.CartUpdated(customer_id="ann", cart_value=Decimal("80.00"), items=2)),
            ("2024-03-01 10:30", v1.CartAbandoned(customer_id="ann", cart_value=Decimal("80.00"))),
            ("2024-03-01 12:00", order_v1("ann", "a-1", "72.00", 2)),
            ("2024-03-02 08:00", order_v1("bob", "b-1", "5.00", 1)),
            ("2024-03-05 09:00", order_v1("ann", "a-2", "19.90", 1)),
            ("2024-03-10 20:00", v1.CartAbandoned(customer_id="ann", cart_value=Decimal(60))),
        )
        await world.until("2024-04-01 00:00")
    async with world.runs(v2) as bus:
        await world.happens(
            bus,
            ("2024-04-02 10:00", order_v2("ann", "a-3", "30.00", "€", 1)),
            ("2024-04-03 12:00", v2.CartAbandoned(customer_id="eve", cart_value=Decimal("99.00"))),
            ("2024-04-04 09:00", order_v2("eve", "e-1", "90.00", "usd", 3)),
        )
        await world.until("2024-05-01 00:00")


def order_v1(customer: str, order: str, amount: str, items: int) -> v1.OrderPlaced:
    """An order as version 1 knows it."""
    return v1.OrderPlaced(customer_id=customer, order_id=order, amount=Decimal(amount), items=items)


def order_v2(customer: str, order: str, total: str, currency: str, items: int) -> v2.OrderPlaced:
    """An order as version 2 knows it."""
    return v2.OrderPlaced(customer_id=customer, order_id=order, total=Decimal(total), currency=currency, items=items)
