"""Version 3 of the shop reads what versions 1 and 2 wrote: journeys, watch and replay, held against what was worked out
by hand."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path

import pytest

from examples import retail
from tests.evolution import story
from tests.evolution.world import World, at, lines
from tests.nats_server import NatsServer


@pytest.fixture
async def world(nats_server: NatsServer) -> World:
    world = World(nats_server)
    await story.write(world)
    return world


async def test_the_log_is_of_both_versions(world: World) -> None:
    async with world.bus() as bus:
        written = await world.documents(bus, family="evt")
        done = await world.documents(bus, family="act")
    orders = [(one["schemaversion"], one["data"]) for one in written if one["type"] == "OrderPlaced"]
    assert orders[0] == (1, {"customer_id": "ann", "order_id": "a-1", "amount": "72.00", "items": 2})
    assert orders[-1] == (
        2,
        {"customer_id": "eve", "order_id": "e-1", "total": "90.00", "currency": "usd", "items": 3},
    )
    offers = [(one["schemaversion"], one["data"]) for one in done if one["type"] == "DiscountOffered"]
    assert offers == [
        (1, {"customer_id": "ann", "percent": 10}),
        (1, {"customer_id": "ann", "percent": 15}),
        (2, {"customer_id": "eve", "percent": 10, "reason": "new"}),
    ]


async def test_journeys(world: World) -> None:
    async with world.bus() as bus:
        ann, bob, eve = await world.journeys(bus, retail.CourtedShopper, "ann", "bob", "eve")
    assert ann == retail.CourtedShopper(
        cart_value=Decimal(0),
        orders=3,
        spent={"EUR": Decimal("121.90")},  # 72.00 and 19.90, and 30.00 of "€"
        last_order=at("2024-04-02 10:00"),
        offers=2,
        last_offer=at("2024-03-10 21:00"),
    )
    assert bob == retail.CourtedShopper(
        cart_value=Decimal(0),
        orders=1,
        spent={"EUR": Decimal("5.00")},
        last_order=at("2024-03-02 08:00"),
        offers=0,
        last_offer=None,
    )
    assert eve == retail.CourtedShopper(
        cart_value=Decimal(0),
        orders=1,
        spent={"USD": Decimal("90.00")},  # of "usd"
        last_order=at("2024-04-04 09:00"),
        offers=1,
        last_offer=at("2024-04-03 13:00"),
    )


async def test_watch(world: World) -> None:
    assert lines(world.command("watch", "--module", "examples.retail", "--no-follow", "--since", "1h")) == [
        "2024-03-01 11:30:00 ann cart-recovery DiscountOffered percent=10 reason=new ← CartForgotten",
        "2024-03-05 09:00:00 ann loyalty LoyaltyTierReached tier=bronze orders=2 ← OrderPlaced",
        "2024-03-10 21:00:00 ann cart-recovery DiscountOffered percent=15 reason=returning ← CartForgotten",
        "2024-03-12 08:00:00 bob lapse-watch CustomerLapsed days_silent=10 orders=1 ← LapsePeriodEnded",
        "2024-03-15 09:00:00 ann lapse-watch CustomerLapsed days_silent=10 orders=2 ← LapsePeriodEnded",
        "2024-04-03 13:00:00 eve cart-recovery DiscountOffered percent=10 reason=new ← CartForgotten",
        "2024-04-12 10:00:00 ann lapse-watch CustomerLapsed days_silent=10 orders=3 ← LapsePeriodEnded",
        "2024-04-14 09:00:00 eve lapse-watch CustomerLapsed days_silent=10 orders=1 ← LapsePeriodEnded",
    ]


async def test_watch_for_programs(world: World) -> None:
    choice = ("watch", "--type", "DiscountOffered", "--no-follow", "--since", "1h", "-o", "jsonl")
    shown = [json.loads(line) for line in world.command(*choice, "--module", "examples.retail").splitlines()]
    assert [(one["subject"], one["schemaversion"], one["storedversion"], one["data"]) for one in shown] == [
        ("ann", 3, 1, {"customer_id": "ann", "percent": 10, "reason": "new", "cart_value": None}),
        ("ann", 3, 1, {"customer_id": "ann", "percent": 15, "reason": "returning", "cart_value": None}),
        ("eve", 3, 2, {"customer_id": "eve", "percent": 10, "reason": "new", "cart_value": None}),
    ]
    stored = [json.loads(line) for line in world.command(*choice).splitlines()]
    assert [(one["schemaversion"], one["data"]) for one in stored] == [
        (1, {"customer_id": "ann", "percent": 10}),
        (1, {"customer_id": "ann", "percent": 15}),
        (2, {"customer_id": "eve", "percent": 10, "reason": "new"}),
    ]


async def test_replay(world: World, tmp_path: Path) -> None:
    async with world.bus() as bus:
        history = await world.documents(bus, family="evt")
    file = tmp_path / "history.jsonl"
    file.write_text("".join(f"{json.dumps(document)}\n" for document in history), encoding="utf-8")
    again = f"{world.namespace.name}-again"
    told = json.loads(world.command("replay", str(file), "examples.retail", "-o", "json", namespace=again))
    # Up to the midnight after the last event: what lapsed in the middle of April is not part of it.
    assert {name: told[name] for name in ("start", "end", "events", "actions", "timers_fired", "journeys")} == {
        "start": "2024-03-01T00:00:00+00:00",
        "end": "2024-04-05T00:00:00+00:00",
        "events": {
            "total": 10,
            "by_type": {"CartAbandoned": 3, "CartUpdated": 1, "OrderPlaced": 5, "ProductViewed": 1},
        },
        "actions": {
            "total": 6,
            "by_agent": {
                "cart-recovery": {"DiscountOffered": 3},
                "lapse-watch": {"CustomerLapsed": 2},
                "loyalty": {"LoyaltyTierReached": 1},
            },
        },
        "timers_fired": 5,
        "journeys": 3,
    }
    assert (told["dead_letters"]["total"], told["duplicates"], told["lost"]["total"]) == (0, 0, 0)
    # Customers live at their own pace there, so the order of what is done for them is not that of time.
    assert sorted(lines(world.command("watch", "--no-follow", namespace=again))) == [
        "2024-03-01 11:30:00 ann cart-recovery DiscountOffered percent=10 reason=new cart_value=80.00 ← CartForgotten",
        "2024-03-05 09:00:00 ann loyalty LoyaltyTierReached tier=bronze orders=2 ← OrderPlaced",
        (
            "2024-03-10 21:00:00 ann cart-recovery DiscountOffered percent=15 reason=returning cart_value=60 "
            "← CartForgotten"
        ),
        "2024-03-12 08:00:00 bob lapse-watch CustomerLapsed days_silent=10 orders=1 ← LapsePeriodEnded",
        "2024-03-15 09:00:00 ann lapse-watch CustomerLapsed days_silent=10 orders=2 ← LapsePeriodEnded",
        "2024-04-03 13:00:00 eve cart-recovery DiscountOffered percent=10 reason=new cart_value=99.00 ← CartForgotten",
    ]
