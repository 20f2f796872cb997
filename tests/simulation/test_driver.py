from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import pairwise

import pytest

from sojourn.bus.envelope import Envelope
from sojourn.bus.errors import ConfigurationError, HandlerError, SchemaError
from sojourn.bus.event import Event
from sojourn.bus.processor import Output, Recorded, SetTimer, Turn
from sojourn.simulation.driver import Action, Progress
from sojourn.simulation.timeline import Happening
from tests.simulation import shop
from tests.simulation.shop import CartAbandoned, CustomerLapsed, Lapse, Recovery, Simple, types
from tests.simulation.world import Scripted, abandoned, at, ordered, world


async def test_events_and_timers_of_a_customer_come_in_the_order_of_virtual_time() -> None:
    async with world(Lapse(days=3)) as w:
        await w.driver([Scripted("a", [ordered("a", 1), ordered("a", 2), ordered("a", 9)])]).run()
        assert await w.story("a") == [
            "1:OrderPlaced", "2:OrderPlaced", "5:due", "5:CustomerLapsed",
            "9:OrderPlaced", "12:due", "12:CustomerLapsed",
        ]  # fmt: skip
        assert w.clock.now() == at(14)


async def test_at_the_same_instant_the_event_goes_before_the_timer() -> None:
    async with world(Lapse(days=3)) as w:
        driver = w.driver([Scripted("a", [ordered("a", 1), ordered("a", 4)])])
        await driver.run()
        # The order at the moment the period ends sets the timer anew: the first one never fires.
        assert await w.story("a") == ["1:OrderPlaced", "4:OrderPlaced", "7:due", "7:CustomerLapsed"]
        assert driver.fired == 1


async def test_a_cancelled_timer_does_not_fire() -> None:
    async with world(Lapse(days=3)) as w:
        driver = w.driver([Scripted("a", [ordered("a", 1), ordered("a", 2, items=99)])])
        await driver.run()
        assert await w.story("a") == ["1:OrderPlaced", "2:OrderPlaced"]
        assert driver.fired == 0


async def test_nothing_happens_at_or_after_the_end() -> None:
    async with world(Lapse(days=3)) as w:
        script = [ordered("a", 1), ordered("a", 11), ordered("a", 14)]
        driver = w.driver([Scripted("a", script), Scripted("late", [ordered("late", 20)])])
        await driver.run()
        assert await w.story("a") == ["1:OrderPlaced", "4:due", "4:CustomerLapsed", "11:OrderPlaced"]
        assert await w.story("late") == []
        assert len(w.timers) == 1
        assert driver.published == {"a-1", "a-11"}


async def test_customers_see_what_is_done_to_them_and_may_change_their_plans() -> None:
    def accept(action: Envelope[Event]) -> list[Happening]:
        return [ordered("a", 2)] if action.time == at(1) else []

    async with world(Recovery()) as w:
        shopper = Scripted("a", [abandoned("a", 1), abandoned("a", 3)], accept)
        other = Scripted("b", [abandoned("b", 1, value=5)])
        await w.driver([shopper, other], window=timedelta(days=7)).run()
        assert await w.story("a") == [
            "1:CartAbandoned", "1:DiscountOffered", "2:OrderPlaced", "3:CartAbandoned", "3:DiscountOffered",
        ]  # fmt: skip
        assert [(action.key, action.type) for action in shopper.seen] == [("a", "DiscountOffered")] * 2
        assert other.seen == []


@pytest.mark.parametrize("window", [timedelta(minutes=1), timedelta(hours=6), timedelta(days=3), timedelta(days=30)])
async def test_the_length_of_the_window_changes_nothing_for_a_customer(window: timedelta) -> None:
    def buy(action: Envelope[Event]) -> list[Happening]:
        later = days_of(action.time) + 0.25
        return [ordered(action.key, later)] if action.type == "DiscountOffered" else []

    people = [Scripted(key, [abandoned(key, 1), abandoned(key, 4)], buy) for key in ("a", "b", "c")]
    async with world(Recovery(), Lapse(days=2)) as w:
        await w.driver(people, window=window).run()
        assert await w.story("b") == [
            "1:CartAbandoned", "1:DiscountOffered", "1.25:OrderPlaced", "3.25:due", "3.25:CustomerLapsed",
            "4:CartAbandoned", "4:DiscountOffered", "4.25:OrderPlaced", "6.25:due", "6.25:CustomerLapsed",
        ]  # fmt: skip


async def test_actions_of_the_same_moment_are_shown_by_writer_not_by_speed() -> None:
    async with world(Recovery(writer="zeta"), Recovery(writer="alpha")) as w:
        shown: list[Action] = []
        shopper = Scripted("a", [abandoned("a", 1)])
        await w.driver([shopper], on_action=shown.append).run()
        assert [action.subject.writer for action in shown] == ["alpha", "zeta"]
        assert [action.source for action in shopper.seen] == ["/sim/alpha", "/sim/zeta"]


async def test_progress_is_told_after_each_round_and_ends_at_the_end() -> None:
    async with world(Recovery()) as w:
        told: list[Progress] = []
        await w.driver([Scripted("a", [abandoned("a", 1)]), Scripted("b", [])], on_progress=told.append).run()
        assert told[-1].fraction == 1.0
        assert (told[-1].events, told[-1].actions, told[-1].customers) == (1, 1, 1)
        assert all(0 <= one.fraction <= two.fraction for one, two in pairwise(told))


async def test_without_customers_time_passes() -> None:
    async with world(Recovery()) as w:
        await w.driver([]).run()
        assert w.clock.now() == at(14)


async def test_two_customers_of_one_key_are_refused() -> None:
    async with world(Recovery()) as w:
        with pytest.raises(ConfigurationError, match="two customers have the key 'a'"):
            w.driver([Scripted("a", []), Scripted("a", [])])


async def test_a_timeline_that_goes_back_in_time_is_an_error_that_names_it() -> None:
    class Backwards(Scripted):
        def react(self, action: Envelope[Event]) -> None:
            self._happenings = [ordered("a", 0.5)]

    async with world(Recovery()) as w:
        with pytest.raises(HandlerError, match="customer 'a' goes back in time"):
            await w.driver([Backwards("a", [abandoned("a", 1)])]).run()


async def test_an_event_that_cannot_be_stored_ends_the_run_with_its_reason() -> None:
    class CartSmuggled(CartAbandoned):
        thing: object = None

    async with world(Recovery()) as w:
        event = CartSmuggled(customer_id="a", cart_value=Decimal(1), thing=object())
        with pytest.raises(SchemaError, match="CartSmuggled cannot be written as JSON"):
            await w.driver([Scripted("a", [Happening(at(1), "1", event)])]).run()


async def test_a_cancelled_run_leaves_nothing_behind() -> None:
    async with world(Recovery()) as w:
        endless = Scripted("a", [abandoned("a", 1)], lambda action: [abandoned("a", days_of(action.time) + 1e-6)])
        observers = len(w.bus.committer.observers)
        reached = asyncio.Event()
        running = asyncio.create_task(w.driver([endless], on_action=lambda action: reached.set()).run())
        async with asyncio.timeout(10):
            await reached.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert len(w.bus.committer.observers) == observers
        async with asyncio.timeout(10):
            await w.worker.caught_up()


def days_of(moment: datetime) -> float:
    return (moment - at(0)) / timedelta(days=1)


@dataclass(frozen=True)
class Hasty(Simple):
    """Sets a timer that is due before it is set."""

    writer: str = "hasty"
    handles: Mapping[str, type[Event]] = field(default_factory=lambda: types(CartAbandoned, CustomerLapsed))
    publishes: Mapping[str, type[Event]] = field(default_factory=lambda: types(CustomerLapsed))

    def open(self, key: str) -> Hasty:
        return self

    def observe(self, recorded: Recorded) -> None:
        return

    def acted(self, recorded: Recorded, cause: int) -> None:
        return

    def run(self, turn: Turn) -> Output:
        if turn.recorded.due:
            return Output()
        due = shop.CustomerLapsed(customer_id="a", orders=0)
        return Output(timers=[SetTimer("past", due, turn.now - timedelta(days=2))])


async def test_a_timer_set_into_the_past_fires_at_once() -> None:
    async with world(Hasty()) as w:
        await w.driver([Scripted("a", [abandoned("a", 3), ordered("a", 3.1)])]).run()
        assert await w.story("a") == ["3:CartAbandoned", "1:due", "3.1:OrderPlaced"]


def test_fraction_of_an_empty_time_is_whole() -> None:
    assert Progress(at(0), at(0), at(0), 0, 0, 0, 0).fraction == 1.0
