"""The benchmark's bookkeeping, and one tiny run of each case. Counts are asserted, times never."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pytest

from benchmarks import publishing, reading
from benchmarks.events import CartAbandoned, CartForgotten, Source, customers
from benchmarks.figures import Comparison, Pass, Spread, spread
from benchmarks.publishing import GUARD_PROMISE, PERSONAL_PROMISE, Ledger, WrongError, fresh_bus
from benchmarks.report import row, table
from sojourn.bus.publisher import Publisher
from tests.nats_server import NatsServer

PAGE = (Path(__file__).parents[1] / "docs/benchmarks.md").read_text(encoding="utf-8")


def compared(*costs: float, promise: float | None = 0.1) -> Comparison:
    rounds = [(Pass(100, 1.0, 0.5), Pass(100, 1 / (1 - cost), 0.6)) for cost in costs]
    return Comparison("case", "A case", "plain", "other", promise, "always", rounds)


def test_the_range_of_few_values_is_all_of_them_and_that_of_many_leaves_out_the_extremes() -> None:
    assert spread([3.0]) == Spread(3.0, 3.0, 3.0)
    assert spread([5, 1, 4, 2, 3]) == Spread(3, 1, 5)
    # From the tables of the sign test: 6 values give the 1st to the 6th, 9 the 2nd to the 8th, 20 the 6th to the 15th.
    for n, low, high in ((6, 1, 6), (8, 1, 8), (9, 2, 8), (12, 3, 10), (20, 6, 15), (40, 14, 27)):
        assert spread(range(1, n + 1))[1:] == (low, high)


def test_the_range_holds_the_true_median_as_often_as_it_says() -> None:
    chance = random.Random(5)
    ranges = [spread([chance.gauss(1, 1) for _ in range(15)]) for _ in range(2_000)]
    assert 0.95 <= sum(found.low <= 1 <= found.high for found in ranges) / len(ranges) < 0.99


def test_cost_is_the_share_of_throughput_that_is_lost_pair_by_pair() -> None:
    found = compared(0.5, 0.2, 0.25)
    assert found.cost.median == pytest.approx(0.25)
    assert list(found.rates) == pytest.approx([100, 75])
    assert found.cpu_cost.median == pytest.approx(0.2)
    assert list(found.cpu) == pytest.approx([5_000, 6_000])


@pytest.mark.parametrize(
    ("costs", "verdict"),
    [([0.02] * 9, "kept"), ([0.2] * 9, "broken"), ([0.02] * 4 + [0.2] * 5, "open"), ([-0.3] * 9, "kept")],
)
def test_a_promise_is_broken_only_beyond_the_noise(costs: list[float], verdict: str) -> None:
    found = compared(*costs)
    assert found.verdict == verdict
    assert row(found).endswith(f"< 10%, {verdict}")
    assert not compared(*costs, promise=None).verdict


def test_the_page_promises_what_the_benchmark_holds_it_to() -> None:
    promised = [int(number) / 100 for number in re.findall(r"less than (\d+) %", PAGE)]
    assert promised == [GUARD_PROMISE, PERSONAL_PROMISE]


def test_the_same_seed_makes_the_same_events_and_each_is_told_from_all_others() -> None:
    names = customers(10)
    once, again = (Source(3).carts(CartForgotten, names, 50) for _ in range(2))
    assert once == again != Source(4).carts(CartForgotten, names, 50)
    assert len({cart.number for cart in once}) == 50
    assert 250 < len(once[0].model_dump_json()) < 350


async def test_what_was_not_stored_or_not_sealed_as_it_should_be_is_noticed(nats_server: NatsServer) -> None:
    carts = Source(1).carts(CartAbandoned, customers(3), 4)
    async with fresh_bus(nats_server.url) as bus:
        ledger = Ledger(bus)
        await publishing.publish_all(Publisher(bus), carts)
        await ledger.verify(carts)
        await publishing.publish_all(Publisher(bus), carts[:3])
        with pytest.raises(WrongError, match="4 events were published, 3 stored"):
            await ledger.verify(carts)
        await publishing.publish_all(Publisher(bus), carts)
        forgotten = [CartForgotten(**cart.model_dump()) for cart in carts]
        with pytest.raises(WrongError, match="a CartForgotten is sealed: False"):
            await ledger.verify(forgotten)


async def test_every_case_counts_what_it_measured(nats_server: NatsServer) -> None:
    source = Source(2)
    cases = (publishing.guard, publishing.personal, publishing.first_contact, reading.worker)
    found = [await case(nats_server.url, source, events=30, rounds=2, fsync="always") for case in cases]
    found += reading.upcasting(events=30, rounds=2)
    assert [comparison.name for comparison in found] == [
        "guard",
        "personal",
        "first contact",
        "worker",
        "upcast one",
        "upcast two",
    ]
    for comparison in found:
        assert [(a.events, b.events) for a, b in comparison.rounds] == [(30, 30)] * 2
        assert json.loads(json.dumps(comparison.facts()))["name"] == comparison.name
        assert comparison.title in table(found)
    assert found[2].notes["keys"] == 90  # Three waves, that of the warming up included.
    assert 3 <= int(found[2].notes["writes"]) <= 90
