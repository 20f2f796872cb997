"""Versions of the shop one after the other on one log, and side by side: what is handled, and what is refused."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from examples import retail
from sojourn.bus.deadletters import dead_letters
from sojourn.bus.errors import SchemaError
from sojourn.bus.event import Event
from tests.evolution import retail_v1 as v1
from tests.evolution import story
from tests.evolution.story import order_v1, order_v2
from tests.evolution.world import World, at
from tests.nats_server import NatsServer


@pytest.fixture
def world(nats_server: NatsServer) -> World:
    return World(nats_server)


def briefly(actions: list[dict[str, Any]]) -> list[tuple[str, str, int, dict[str, Any]]]:
    """Actions by their time, type and version, with what they hold."""
    return [(one["time"][:16], one["type"], one["schemaversion"], one["data"]) for one in actions]


def order(customer: str, total: str, currency: retail.Currency, email: str | None = None) -> retail.OrderPlaced:
    return retail.OrderPlaced(
        customer_id=customer, order_id="x-1", total=Decimal(total), currency=currency, items=2, email=email
    )


async def test_version_3_goes_on_where_2_ended_while_older_shops_still_sell(world: World) -> None:
    await story.write(world)
    async with world.bus() as bus:
        before = len(await world.documents(bus, family="act"))
    async with world.runs(retail) as new, world.bus() as old, world.bus() as older:
        await world.happens(
            older,
            ("2024-05-01 09:00", order_v1("ann", "a-4", "10.00", 1)),
            ("2024-05-02 09:00", order_v1("ann", "a-5", "12.50", 1)),
        )
        await world.happens(old, ("2024-05-02 18:00", order_v2("eve", "e-2", "20.00", "$", 1)))
        await world.happens(
            older, ("2024-05-03 10:00", v1.CartAbandoned(customer_id="ann", cart_value=Decimal("70.00")))
        )
        await world.happens(new, ("2024-05-04 12:00", order("ann", "40.00", "GBP", email="ann@example.org")))
        await world.until("2024-06-01 00:00")

        actions = await world.documents(new, family="act")
        assert briefly(actions[before:]) == [
            ("2024-05-02T09:00", "LoyaltyTierReached", 1, {"customer_id": "ann", "tier": "silver", "orders": 5}),
            ("2024-05-02T18:00", "LoyaltyTierReached", 1, {"customer_id": "eve", "tier": "bronze", "orders": 2}),
            (
                "2024-05-03T11:00",
                "DiscountOffered",
                3,
                {"customer_id": "ann", "percent": 15, "reason": "returning", "cart_value": "70.00"},
            ),
            ("2024-05-12T18:00", "CustomerLapsed", 1, {"customer_id": "eve", "days_silent": 10, "orders": 2}),
            ("2024-05-14T12:00", "CustomerLapsed", 1, {"customer_id": "ann", "days_silent": 10, "orders": 6}),
            # Of a timer that version 1 set after an order of version 1.
            ("2024-05-31T08:00", "CustomerLapsed", 1, {"customer_id": "bob", "days_silent": 90, "orders": 1}),
        ]
        assert await world.journeys(new, retail.CourtedShopper, "ann", "eve") == [
            retail.CourtedShopper(
                cart_value=Decimal(0),
                orders=6,
                spent={"EUR": Decimal("144.40"), "GBP": Decimal("40.00")},
                last_order=at("2024-05-04 12:00"),
                offers=3,
                last_offer=at("2024-05-03 11:00"),
            ),
            retail.CourtedShopper(
                cart_value=Decimal(0),
                orders=2,
                spent={"USD": Decimal("110.00")},
                last_order=at("2024-05-02 18:00"),
                offers=1,
                last_offer=at("2024-04-03 13:00"),
            ),
        ]
        written = await world.documents(new, family="evt")
        assert [one["schemaversion"] for one in written[-5:]] == [1, 1, 2, 1, 3]
        assert "ann@example.org" not in str(written)
        assert [letter async for letter in dead_letters(new)] == []


def abandoned(value: int) -> Event:
    return retail.CartAbandoned(customer_id="ann", cart_value=Decimal(value))


async def test_version_1_runs_on_beside_version_3_reads_what_it_can_and_tells_what_it_cannot(world: World) -> None:
    async with (
        world.runs(v1, only={"cart-recovery"}),
        world.runs(retail, only={"lapse-watch", "loyalty"}) as new,
    ):
        await world.happens(
            new,
            ("2024-03-10 10:00", abandoned(70)),
            # Back again, with a voucher that version 1 knows nothing of: no offer.
            (
                "2024-03-10 10:20",
                retail.CartUpdated(customer_id="ann", cart_value=Decimal(75), items=3, voucher="SPRING"),
            ),
            ("2024-03-10 13:00", abandoned(75)),
            ("2024-03-11 09:00", order("ann", "75.00", "EUR")),
            # After an order that it could not read, ann is new to it.
            ("2024-03-20 10:00", abandoned(90)),
        )
        await world.until("2024-03-22 00:00")

        assert briefly(await world.documents(new, family="act")) == [
            ("2024-03-10T14:00", "DiscountOffered", 1, {"customer_id": "ann", "percent": 10}),
            ("2024-03-20T11:00", "DiscountOffered", 1, {"customer_id": "ann", "percent": 10}),
            ("2024-03-21T09:00", "CustomerLapsed", 1, {"customer_id": "ann", "days_silent": 10, "orders": 1}),
        ]
        [letter] = [letter async for letter in dead_letters(new)]
        told = (letter.writer, letter.customer, letter.type, letter.attempts)
        assert told == ("cart-recovery", "ann", "OrderPlaced", 0)
        assert letter.reason.startswith(
            "OrderPlaced version 3 is newer than version 1, which this code knows, and cannot be read as that: "
        )
        assert "amount: required field removed" in letter.reason


async def test_version_1_that_is_rolled_back_to_knows_what_version_3_did(world: World) -> None:
    async with world.runs(v1):
        pass
    async with world.runs(retail) as new:
        await world.happens(new, ("2024-03-01 10:00", abandoned(80)))
        await world.until("2024-03-01 12:00")
    async with world.runs(v1) as old:
        # A day after the offer that version 3 made: too early for another.
        await world.happens(old, ("2024-03-02 10:00", abandoned(80)), ("2024-03-05 10:00", abandoned(80)))
        await world.until("2024-03-06 00:00")
        assert briefly(await world.documents(old, family="act")) == [
            (
                "2024-03-01T11:00",
                "DiscountOffered",
                3,
                {"customer_id": "ann", "percent": 10, "reason": "new", "cart_value": "80"},
            ),
            ("2024-03-05T11:00", "DiscountOffered", 1, {"customer_id": "ann", "percent": 10}),
        ]
        assert [letter async for letter in dead_letters(old)] == []


@pytest.mark.parametrize("registered", [True, False])
@pytest.mark.parametrize("missing", [1, 2])
async def test_without_an_upcaster_version_3_does_not_start(
    world: World, monkeypatch: pytest.MonkeyPatch, missing: int, registered: bool
) -> None:
    await story.write(world)
    if registered:
        async with world.runs(retail):
            pass
    async with world.bus() as bus:
        await bus.publish(order_v1("ann", "a-4", "10.00", 1))
        await bus.publish(order_v1("ann", "a-5", "12.50", 1))
        before = await world.documents(bus, family="act")

        with monkeypatch.context() as patch:
            patch.delitem(retail.OrderPlaced.__sojourn_upcasters__, missing)
            with pytest.raises(SchemaError) as caught:
                async with world.runs(retail):
                    pass
        told = str(caught.value)
        assert told.startswith("OrderPlaced version 3 (examples.retail.events:OrderPlaced)")
        assert f"cannot read version {missing}" in told
        assert f"@upcast(OrderPlaced, from_version={missing})" in told
        assert await world.documents(bus, family="act") == before

    async with world.runs(retail) as bus:
        await world.until("2024-05-01 00:00")
        await world.handled()
        actions = await world.documents(bus, family="act")
        # The fifth order, which came while nobody ran.
        assert briefly(actions[len(before) :]) == [
            ("2024-05-01T00:00", "LoyaltyTierReached", 1, {"customer_id": "ann", "tier": "silver", "orders": 5})
        ]
