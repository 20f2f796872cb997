from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from typing import Any

import pytest
from structlog.testing import capture_logs

from sojourn import Agent, Context, Event, Journey, Key, Retry, agent, evolve, on
from sojourn.agents.processor import AgentProcessor
from sojourn.bus.errors import ClosedError, HandlerError, PermanentError
from sojourn.bus.processor import NOTHING, Output, Processor, Resident, SetTimer, Turn
from tests.agents.turns import START, FakeTurn, recorded
from tests.ids import told


class ShopEvent(Event, abstract=True):
    customer_id: Key = "ann"


class CartAbandoned(ShopEvent):
    value: int = 80


class DiscountOffered(ShopEvent):
    percent: int = 10


class CouponSent(ShopEvent):
    pass


class WaitEnded(ShopEvent):
    pass


class Cart(Journey):
    offers: int = 0
    abandoned: int = 0

    @evolve(CartAbandoned)
    def left(self, event: CartAbandoned) -> None:
        self.abandoned += 1

    @evolve(DiscountOffered)
    def offered(self, event: DiscountOffered) -> None:
        self.offers += 1
        if event.percent > 100:
            raise ValueError("more than everything")


OFFER = DiscountOffered()


@agent("sync", version=2, group="offers", start="beginning", retry=Retry(2), timeout=timedelta(seconds=3))
class Sync(Agent[Cart]):
    """Offers, and waits.

    In two paragraphs.
    """

    @on(CartAbandoned, where=lambda event, cart: event.value >= 50 and cart.offers < 2)
    def offer(self, event: CartAbandoned, cart: Cart, ctx: Context) -> DiscountOffered:
        ctx.later(WaitEnded(), at=ctx.now + timedelta(days=1), name="wait")
        return DiscountOffered(percent=cart.abandoned)

    @on(WaitEnded)
    def waited(self, event: WaitEnded) -> CouponSent | None:
        return None


@pytest.fixture
def resident() -> Resident:
    return AgentProcessor(Sync).open("ann")


def test_an_agent_is_a_processor() -> None:
    processor: Processor = AgentProcessor(Sync)
    assert (processor.kind, processor.writer, processor.group, processor.version) == ("agent", "sync", "offers", 2)
    assert (processor.start, processor.retry.attempts, processor.timeout) == ("beginning", 2, timedelta(seconds=3))
    assert list(processor.handles) == ["CartAbandoned", "WaitEnded"]
    assert processor.handles["WaitEnded"] is WaitEnded
    assert list(processor.folds) == ["CartAbandoned", "DiscountOffered"]
    assert processor.folds["CartAbandoned"] is CartAbandoned
    assert sorted(processor.publishes) == ["CouponSent", "DiscountOffered"]
    assert processor.publishes["CouponSent"] is CouponSent
    assert processor.description == {
        "reference": f"{__name__}:Sync",
        "doc": "Offers, and waits.",
        "journey": f"{__name__}:Cart",
        "start": "beginning",
        "timeout": 3.0,
        "attempts": 2,
        "on_poison": "dead",
        "handlers": [
            {
                "event": "CartAbandoned",
                "method": "offer",
                "where": "<lambda>",
                "context": True,
                "publishes": ["DiscountOffered"],
            },
            {"event": "WaitEnded", "method": "waited", "where": None, "context": False, "publishes": ["CouponSent"]},
        ],
    }


def test_a_function_answers_without_a_coroutine(resident: Resident) -> None:
    cause = recorded(CartAbandoned())
    resident.observe(cause)
    output = resident.run(FakeTurn(cause))
    assert isinstance(output, Output)
    assert output.events == [DiscountOffered(percent=1)]
    assert output.timers == [SetTimer("wait", WaitEnded(), START + timedelta(days=1))]


def test_nothing_is_always_the_same_nothing(resident: Resident) -> None:
    assert resident.run(FakeTurn(CartAbandoned(value=1))) is NOTHING  # where says no
    assert resident.run(FakeTurn(recorded(WaitEnded(), due=True))) is NOTHING
    assert not NOTHING.events
    assert not NOTHING.timers


def test_own_actions_count_before_they_come_back(resident: Resident) -> None:
    for sequence in (1, 2):
        resident.observe(recorded(CartAbandoned(), sequence))
        assert resident.run(FakeTurn(recorded(CartAbandoned(), sequence)))
        resident.acted(recorded(OFFER, 10 + sequence, writer="sync"), sequence)
    resident.observe(recorded(CartAbandoned(), 3))
    assert resident.run(FakeTurn(recorded(CartAbandoned(), 3))) is NOTHING


def test_an_own_action_that_cannot_be_folded_is_logged(resident: Resident) -> None:
    resident.acted(recorded(DiscountOffered(percent=200), 5), 1)
    with capture_logs() as logs:
        resident.observe(recorded(CartAbandoned(), 6))
        resident.observe(recorded(CartAbandoned(), 7))
    [line] = logs
    assert (line["log_level"], line["agent"], line["customer"]) == ("error", "sync", "ann")
    assert line["reason"].endswith("failed on DiscountOffered at sequence 5: ValueError: more than everything")


def test_a_fold_that_fails_is_permanent(resident: Resident) -> None:
    with pytest.raises(PermanentError, match=r"Cart\.offered .* failed on DiscountOffered at sequence 5"):
        resident.observe(recorded(DiscountOffered(percent=200), 5))


@agent("shapes")
class Shapes(Agent):
    """Whatever the test wants, in every form."""

    answer: Any = None
    closed: int = 0

    @on(CartAbandoned)
    def function(self, event: CartAbandoned) -> list[DiscountOffered | CouponSent]:
        return self.answer  # type: ignore[no-any-return]  # any, on purpose

    @on(DiscountOffered)
    async def coroutine(self, event: DiscountOffered, ctx: Context) -> list[DiscountOffered | CouponSent]:
        return self.answer  # type: ignore[no-any-return]

    @on(CouponSent)
    def generator(self, event: CouponSent, ctx: Context) -> Iterator[DiscountOffered | CouponSent]:
        yield self.answer
        yield self.answer

    @on(WaitEnded)
    async def async_generator(self, event: WaitEnded, ctx: Context) -> AsyncIterator[DiscountOffered | CouponSent]:
        try:
            yield self.answer
            yield self.answer
        finally:
            ctx.cancel("wait")
            self.closed += 1


CAUSES: list[tuple[Event, int]] = [(CartAbandoned(), 1), (DiscountOffered(), 1), (CouponSent(), 2), (WaitEnded(), 2)]


async def run(turn: Turn, answer: object, agent: type[Agent[Any]] = Shapes) -> Output:
    processor = AgentProcessor(agent)
    if isinstance(processor.agent, Shapes):
        processor.agent.answer = answer
    result = processor.open("ann").run(turn)
    return await result if inspect.isawaitable(result) else result


@pytest.mark.parametrize("cause, times", CAUSES, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize(
    "answer, expected",
    [
        (None, []),
        ([], []),
        (OFFER, [OFFER]),
        ([OFFER, CouponSent()], [OFFER, CouponSent()]),
        ((OFFER, None, [CouponSent()]), [OFFER, CouponSent()]),
    ],
    ids=told,
)
async def test_what_handlers_return_and_yield(cause: Event, times: int, answer: object, expected: list[Event]) -> None:
    output = await run(FakeTurn(cause), answer)
    assert output.events == expected * times
    assert (output is NOTHING) is (not expected and not output.timers)


class Bystander(ShopEvent, fact=True):
    pass


@pytest.mark.parametrize("cause, times", CAUSES, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize(
    "answer, message",
    [
        ({"percent": 10}, r"returned a dict, which is no event: return None, an event or a list of events"),
        ("text", r"returned a str, which is no event"),
        ([3], r"returned a int, which is no event"),
        ({OFFER.percent}, r"returned a set, which is no event"),
        (
            Bystander(),
            r"published a Bystander, which it does not announce; announce it in the return annotation: -> .*",
        ),
        (
            DiscountOffered(customer_id="bob").model_copy(update={"customer_id": ""}),
            r"published a DiscountOffered of another customer whose key cannot be one: a key must not be empty",
        ),
    ],
    ids=told,
)
async def test_what_handlers_must_not_return(cause: Event, times: int, answer: object, message: str) -> None:
    with pytest.raises(HandlerError, match=rf"shapes's handler \w+ \(.*test_processor.py:\d+\) {message}"):
        await run(FakeTurn(cause), answer)


@pytest.mark.parametrize("cause, times", CAUSES, ids=lambda value: type(value).__name__)
async def test_an_event_of_another_customer_is_put_out_apart(cause: Event, times: int) -> None:
    other = DiscountOffered(customer_id="bob")
    output = await run(FakeTurn(cause), other)
    assert (output.events, output.others) == ([], [other] * times)


async def test_a_class_of_the_same_name_is_another_event() -> None:
    twin = type("DiscountOffered", (ShopEvent,), {"__module__": __name__})
    with pytest.raises(HandlerError, match="the DiscountOffered it announces is another class of that name"):
        await run(FakeTurn(CartAbandoned()), twin())


async def test_a_generator_ends_before_its_context() -> None:
    processor = AgentProcessor(Shapes)
    assert isinstance(processor.agent, Shapes)
    processor.agent.answer = "no event"
    result = processor.open("ann").run(FakeTurn(WaitEnded()))
    assert inspect.isawaitable(result)
    with pytest.raises(HandlerError):
        await result
    assert processor.agent.closed == 1


async def test_a_context_ends_with_its_handler() -> None:
    kept: list[Context] = []

    @agent("keeper")
    class Keeper(Agent):
        @on(CartAbandoned)
        def sync(self, event: CartAbandoned, ctx: Context) -> None:
            kept.append(ctx)
            raise ValueError("on the way")

        @on(WaitEnded)
        async def coroutine(self, event: WaitEnded, ctx: Context) -> None:
            kept.append(ctx)

    with pytest.raises(ValueError, match="on the way"):
        await run(FakeTurn(CartAbandoned()), None, Keeper)
    await run(FakeTurn(WaitEnded()), None, Keeper)
    for context in kept:
        with pytest.raises(
            ClosedError, match=r"keeper's handler \w+ .* has ended, and its context with it: await what"
        ):
            _ = context.now


async def test_where_is_the_handlers_failure() -> None:
    def broken(event: CartAbandoned) -> bool:
        raise LookupError("where am I?")

    async def answer() -> bool:
        return False

    @agent("broken")
    class Broken(Agent[Cart]):
        @on(CartAbandoned, where=broken)
        def offer(self, event: CartAbandoned) -> None: ...

        @on(CouponSent, where=lambda event, cart: coroutines.append(answer()) or coroutines[0])  # type: ignore[func-returns-value]
        def sent(self, event: CouponSent) -> None: ...

    coroutines: list[Any] = []
    with pytest.raises(LookupError, match="where am I"):
        await run(FakeTurn(CartAbandoned()), None, Broken)
    with pytest.raises(HandlerError, match="its where= returned something to await; it must be a plain function"):
        await run(FakeTurn(CouponSent()), None, Broken)
    await coroutines[0]


async def test_a_handler_cannot_assign_to_the_journey() -> None:
    @agent("meddler")
    class Meddler(Agent[Cart]):
        @on(CartAbandoned)
        def offer(self, event: CartAbandoned, cart: Cart) -> None:
            cart.offers += 1

    with pytest.raises(HandlerError, match=r"Cart.offers cannot be assigned to here"):
        await run(FakeTurn(CartAbandoned()), None, Meddler)
