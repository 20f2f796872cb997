from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta

import pytest

from sojourn import Agent, Context, Event, Journey, Key, PermanentError, TransientError, agent, days, evolve, hours, on
from sojourn.bus.errors import ClosedError, ConfigurationError
from sojourn.testing import START, Scenario, like
from tests.bus.relay_shop import Courier, LetterForwarded, LetterPosted, Mailbox


class CartAbandoned(Event):
    customer_id: Key = "ann"
    value: int = 80


class DiscountOffered(Event):
    customer_id: Key = "ann"
    percent: int = 10
    reason: str = ""


class ReminderSent(Event):
    customer_id: Key = "ann"


class WaitEnded(Event):
    customer_id: Key = "ann"
    round: int = 1


class Cart(Journey):
    offers: int = 0
    abandoned: int = 0
    last: datetime | None = None

    @evolve(DiscountOffered)
    def offered(self, event: DiscountOffered) -> None:
        self.offers += 1

    @evolve(CartAbandoned)
    def left(self, event: CartAbandoned) -> None:
        self.abandoned += 1


@agent("win-back")
class WinBack(Agent[Cart]):
    @on(CartAbandoned, where=lambda event: event.value >= 50)
    def offer(self, event: CartAbandoned, cart: Cart, ctx: Context) -> list[DiscountOffered]:
        customer = event.customer_id
        if event.value > 1000:
            raise PermanentError("who owns such a cart?")
        ctx.later(WaitEnded(customer_id=customer), at=ctx.now + days(2), name="wait")
        return [
            DiscountOffered(customer_id=customer, percent=10 * (cart.offers + n))
            for n in range(1, event.value // 50 + 1)
        ]

    @on(WaitEnded)
    def waited(self, event: WaitEnded, cart: Cart, ctx: Context) -> ReminderSent:
        if event.round < 3:
            again = WaitEnded(customer_id=event.customer_id, round=event.round + 1)
            ctx.later(again, at=ctx.now + days(2), name="wait")
        return ReminderSent(customer_id=event.customer_id)


@agent("echo", start="beginning")
class Echo(Agent):
    """Follows another agent."""

    @on(DiscountOffered)
    async def remind(self, event: DiscountOffered, ctx: Context) -> ReminderSent:
        await asyncio.sleep(0)
        return ReminderSent(customer_id=event.customer_id)


async def test_given_when_then() -> None:
    async with Scenario(WinBack) as s:
        await s.given(CartAbandoned(), DiscountOffered(), ago=days(5))
        s.then_nothing()
        assert s.journey(Cart, "ann").abandoned == 1
        await s.when(CartAbandoned())
        s.then(DiscountOffered(percent=20))
        await s.when(CartAbandoned(value=1))
        s.then_nothing()


async def test_given_is_past_for_agents_that_start_at_the_beginning_too() -> None:
    async with Scenario(Echo) as s:
        await s.given(DiscountOffered())
        s.then_nothing()
        await s.when(DiscountOffered())
        s.then(ReminderSent())
        await s.given(DiscountOffered())
        s.then_nothing()


async def test_time_passes_and_timers_fire_in_order() -> None:
    async with Scenario(WinBack) as s:
        assert s.now == START
        await s.when(CartAbandoned(), CartAbandoned(customer_id="bob"))
        await s.advance(days(2) - hours(1))
        s.then_nothing()
        await s.advance(hours(1))
        s.then(ReminderSent(), ReminderSent(customer_id="bob"))
        await s.advance(days(30))
        s.then(*[ReminderSent(), ReminderSent(customer_id="bob")] * 2)
        assert s.now == START + days(32)
        with pytest.raises(ValueError, match="time does not go back"):
            await s.advance(-days(1))


async def test_several_agents_see_each_other_and_have_no_order() -> None:
    async with Scenario(WinBack, Echo) as s:
        await s.when(CartAbandoned(value=100))
        s.then(ReminderSent(), DiscountOffered(percent=10), ReminderSent(), DiscountOffered(percent=20))
        s.then(DiscountOffered(percent=10), DiscountOffered(percent=20), ReminderSent(), ReminderSent())
        with pytest.raises(AssertionError, match="the same events in another order"):
            s.then(DiscountOffered(percent=20), DiscountOffered(percent=10), ReminderSent(), ReminderSent())


async def test_parts_of_events() -> None:
    async with Scenario(WinBack) as s:
        await s.when(CartAbandoned(value=100))
        s.then(like(DiscountOffered, percent=10), DiscountOffered)
        assert [type(action) for action in s.actions] == [DiscountOffered, DiscountOffered]
        with pytest.raises(
            AttributeError, match="DiscountOffered has no field 'percnt': it has customer_id, percent, reason"
        ):
            like(DiscountOffered, percnt=10)


async def test_differences_are_told() -> None:
    async with Scenario(WinBack) as s:
        await s.when(CartAbandoned())
        with pytest.raises(AssertionError) as caught:
            s.then(DiscountOffered(percent=15, reason="kindness"), ReminderSent)
        assert str(caught.value).splitlines() == [
            "the agents did something else than expected",
            "expected:",
            "    DiscountOffered(customer_id='ann', percent=15, reason='kindness')",
            "    ReminderSent(...)",
            "done:",
            "    DiscountOffered(customer_id='ann', percent=10, reason='')   win-back, on CartAbandoned",
            "difference:",
            "    DiscountOffered.percent: expected 15, was 10",
            "    DiscountOffered.reason: expected 'kindness', was ''",
            "    missing: ReminderSent(...)",
        ]
        with pytest.raises(
            AssertionError, match=r"expected:\n    nothing\n.*\n.*\ndifference:\n    not expected: DiscountO"
        ):
            s.then_nothing()
        with pytest.raises(
            AssertionError, match=r"DiscountOffered\(percent=15, \.\.\.\)\n(.*\n)*    DiscountOffered.percent: exp"
        ):
            s.then(like(DiscountOffered, percent=15))
        await s.advance(hours(1))
        with pytest.raises(
            AssertionError, match=r"done:\n    nothing\ndifference:\n    missing: DiscountOffered\(\.\.\.\)"
        ):
            s.then(DiscountOffered)


async def test_events_for_other_customers_arrive() -> None:
    async with Scenario(Courier) as s:
        await s.when(LetterPosted(customer_id="ann", n=1, route=("bob", "eve")))
        s.then(
            LetterForwarded(customer_id="bob", n=1, route=("eve",), sender="ann"),
            LetterForwarded(customer_id="eve", n=1, route=(), sender="bob"),
        )
        assert s.journey(Mailbox, "bob").letters == 1
        with pytest.raises(AssertionError, match="courier for bob, on LetterForwarded"):
            s.then_nothing()


async def test_a_failed_handler_fails_the_test() -> None:
    async with Scenario(WinBack) as s:
        await s.when(CartAbandoned(value=2000))
        with pytest.raises(
            AssertionError, match=r"win-back could not handle CartAbandoned of ann: PermanentError: who owns"
        ):
            s.then_nothing()
        [letter] = s.dead_letters
        assert (letter.writer, letter.customer, letter.attempts) == ("win-back", "ann", 1)
        await s.when(CartAbandoned())
        s.then(DiscountOffered)  # and is no matter for the next


@agent("flaky")
class Flaky(Agent):
    attempts: int = 0

    @on(CartAbandoned)
    def offer(self, event: CartAbandoned, ctx: Context) -> ReminderSent:
        if ctx.attempt < event.value:
            raise TransientError("not yet")
        return ReminderSent()


async def test_retries_do_not_wait() -> None:
    started = time.monotonic()
    async with Scenario(Flaky) as s:
        await s.when(CartAbandoned(value=5))
        s.then(ReminderSent)
        await s.when(CartAbandoned(value=6))
        assert s.dead_letters[0].attempts == 5
    assert time.monotonic() - started < 5


async def test_agents_that_do_not_come_to_rest() -> None:
    @agent("stuck")
    class Stuck(Agent):
        @on(CartAbandoned)
        async def offer(self, event: CartAbandoned) -> None:
            await stuck.wait()

    stuck = asyncio.Event()
    async with Scenario(Stuck, patience=timedelta(seconds=0.2)) as s:
        with pytest.raises(TimeoutError, match=r"did not come to rest within 0.2 s: stuck on CartAbandoned"):
            await s.when(CartAbandoned())
        stuck.set()


async def test_timers_in_the_past_fire_at_once() -> None:
    @agent("hasty")
    class Hasty(Agent):
        @on(CartAbandoned)
        def left(self, event: CartAbandoned, ctx: Context) -> None:
            ctx.later(WaitEnded(), at=ctx.now - days(1), name="wait")

        @on(WaitEnded)
        def waited(self, event: WaitEnded, ctx: Context) -> ReminderSent | None:
            assert ctx.now == START
            return ReminderSent()

    async with Scenario(Hasty) as s:
        await s.when(CartAbandoned())
        s.then(ReminderSent)


async def test_a_cancelled_timer_does_not_fire() -> None:
    @agent("fickle")
    class Fickle(Agent):
        @on(CartAbandoned)
        def left(self, event: CartAbandoned, ctx: Context) -> None:
            ctx.later(WaitEnded(), at=ctx.now + days(1), name="wait")

        @on(DiscountOffered)
        def offered(self, event: DiscountOffered, ctx: Context) -> None:
            assert ctx.timer("wait") == START + days(1)
            ctx.cancel("wait")

        @on(WaitEnded)
        def waited(self, event: WaitEnded) -> ReminderSent:
            return ReminderSent()

    async with Scenario(Fickle) as s:
        await s.when(CartAbandoned())
        await s.when(DiscountOffered())
        await s.advance(days(2))
        s.then_nothing()


async def test_a_scenario_has_its_own_time() -> None:
    start = datetime(2030, 5, 5, tzinfo=UTC)
    async with Scenario(start=start) as s:
        assert s.now == start


async def test_scenarios_are_opened_and_agents_have_one_name_each() -> None:
    with pytest.raises(ClosedError, match=r"not open: async with Scenario"):
        await Scenario(WinBack).when(CartAbandoned())
    with pytest.raises(ConfigurationError, match="two processors are named 'win-back'"):
        async with Scenario(WinBack, WinBack):
            pass


def test_without_pytest_and_in_milliseconds() -> None:
    async def scenario() -> float:
        started = time.perf_counter()
        async with Scenario(WinBack) as s:
            await s.when(CartAbandoned())
            s.then(DiscountOffered)
        return time.perf_counter() - started

    assert min(asyncio.run(scenario()) for _ in range(5)) < 0.25
