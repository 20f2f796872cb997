from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Awaitable, Coroutine
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import TYPE_CHECKING, Any, assert_type

import pytest
from pydantic import BaseModel
from structlog.testing import capture_logs

from sojourn import Agent, Context, Event, Key, agent, days, on
from sojourn.agents.agent import spec_of_agent
from sojourn.bus.errors import HandlerError
from sojourn.bus.processor import CancelTimer, SetTimer
from tests.agents.turns import START, FakeTurn
from tests.ids import told

if TYPE_CHECKING:
    from fractions import Fraction


class CartAbandoned(Event):
    customer_id: Key = "ann"


class WaitEnded(Event):
    customer_id: Key = "ann"


class CouponSent(Event):
    customer_id: Key = "ann"


@agent("waiter")
class Waiter(Agent):
    @on(CartAbandoned)
    async def start(self, event: CartAbandoned, ctx: Context) -> None: ...
    @on(WaitEnded)
    def end(self, event: WaitEnded, ctx: Context) -> None: ...


def context(turn: FakeTurn | None = None, handler: str = "CartAbandoned") -> Context:
    spec = spec_of_agent(Waiter)
    return Context(turn or FakeTurn(CartAbandoned()), spec, spec.handlers[handler])


def test_what_a_context_knows() -> None:
    turn = FakeTurn(CartAbandoned(), attempt=3)
    ctx = context(turn)
    assert (ctx.now, ctx.attempt, ctx.envelope) == (START, 3, turn.recorded.envelope)
    assert [ctx.uuid(), ctx.uuid()] == ["1-uuid-1", "1-uuid-2"]
    assert context(turn).uuid() == "1-uuid-1"  # on every attempt


def test_the_log_knows_whose_it_is() -> None:
    ctx = context()
    with capture_logs() as logs:
        ctx.log.info("hello", extra=1)
    assert ctx.log is ctx.log
    assert logs == [
        {
            "event": "hello", "log_level": "info", "extra": 1,
            "customer": "ann", "agent": "waiter", "envelope": "id-1", "correlation": "id-1",
        }
    ]  # fmt: skip


class Offer(BaseModel):
    percent: int
    price: Decimal


calls: list[tuple[Any, ...]] = []


async def fetch_offer(product: str, *, percent: int = 5) -> Offer:
    calls.append((product, percent))
    return Offer(percent=percent, price=Decimal("9.90"))


def plain_offer(product: str) -> Offer | None:
    calls.append((product, threading.current_thread() is threading.main_thread()))
    return None if product == "none" else Offer(percent=1, price=Decimal(1))


def later_offer(product: str) -> Awaitable[Offer]:
    return fetch_offer(product)


class Shop:
    async def offer(self, product: str) -> list[Offer]:
        return [await fetch_offer(product)]

    async def __call__(self, product: str) -> Offer:
        return await fetch_offer(product)


@pytest.fixture(autouse=True)
def _forget() -> None:
    calls.clear()


OFFER = Offer(percent=5, price=Decimal("9.90"))


@pytest.mark.parametrize(
    "fn, name, expected",
    [
        (fetch_offer, "1-fetch_offer", OFFER),
        (functools.partial(fetch_offer, percent=5), "1-fetch_offer", OFFER),
        (later_offer, "1-later_offer", OFFER),
        (Shop().offer, "1-offer", [OFFER]),
        (Shop(), "1-__call__", OFFER),
    ],
    ids=["coroutine", "partial", "awaitable", "method", "object"],
)
async def test_once_calls_once(fn: Any, name: str, expected: object) -> None:
    turn = FakeTurn(CartAbandoned())
    for _ in range(2):
        assert await context(turn).once(fn, "book") == expected
    assert calls == [("book", 5)]
    assert list(turn.journal) == [name]


async def test_once_runs_plain_functions_in_a_thread() -> None:
    ctx = context()
    assert assert_type(await ctx.once(plain_offer, "none"), Offer | None) is None
    offer = await ctx.once(plain_offer, "book")
    assert offer == Offer(percent=1, price=Decimal(1))
    assert calls == [("none", False), ("book", False)]


async def test_once_counts_in_the_order_of_the_calls() -> None:
    turn = FakeTurn(CartAbandoned())
    ctx = context(turn)
    second: Coroutine[Any, Any, Offer] = ctx.once(fetch_offer, "b", percent=2)
    third = ctx.once(plain_offer, "c")
    first_done = await asyncio.gather(third, second)
    assert [offer.percent for offer in first_done if offer] == [1, 2]
    assert sorted(turn.journal) == ["1-fetch_offer", "2-plain_offer"]


async def test_another_function_does_not_get_the_result() -> None:
    turn = FakeTurn(CartAbandoned())
    await context(turn).once(fetch_offer, "book")
    assert await context(turn).once(plain_offer, "none") is None


async def test_a_failure_is_the_functions_own() -> None:
    def failing() -> int:
        raise LookupError("no such price")

    turn = FakeTurn(CartAbandoned())
    with pytest.raises(LookupError, match="no such price"):
        await context(turn).once(failing)
    assert turn.journal == {}


def unannotated(product):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    return 1


def unseen() -> Fraction:
    raise NotImplementedError


def impossible() -> threading.Lock:
    return threading.Lock()


def liar() -> int:
    return "three"  # type: ignore[return-value]


@pytest.mark.parametrize(
    "fn, args, message",
    [
        (unannotated, (1,), r"unannotated \(.*test_context.py:\d+\) needs a return annotation, which says how"),
        (unseen, (), r"the return annotation 'Fraction' \(.*\) is not known at run time: import it plainly"),
        (impossible, (), r"cannot be kept as JSON"),
        (liar, (), r"ctx.once\(liar\): the result, a str, does not fit the return annotation \(.*:\d+\)"),
        (lambda: 1, (), r"ctx.once\(<lambda>\): <lambda> \(.*\) needs a return annotation"),
        (int, ("3",), r"ctx.once\(int\): int .* needs a return annotation"),
        (len, ("3",), r"ctx.once\(len\): len .* needs a return annotation"),
    ],
    ids=told,
)
async def test_results_that_cannot_come_back(fn: Any, args: Any, message: str) -> None:
    with pytest.raises(HandlerError, match=message):
        await context().once(fn, *args)


async def test_a_stored_result_that_no_longer_fits() -> None:
    turn = FakeTurn(CartAbandoned(), journal={"1-fetch_offer": b'{"discount": 3}'})
    with pytest.raises(HandlerError, match=r"the stored result does not fit the return annotation .* another name"):
        await context(turn).once(fetch_offer, "book")


def test_a_plain_handler_cannot_await() -> None:
    with pytest.raises(
        HandlerError, match=r"waiter's handler end \(.*\) cannot await ctx.once: write it as `async def`"
    ):
        _ = context(handler="WaitEnded").once(fetch_offer, "book")


def test_cancelling_what_is_not_open_leaves_no_trace() -> None:
    ctx = context(FakeTurn(CartAbandoned()))
    ctx.cancel("wait")
    ctx.later(WaitEnded(), at=START + days(1), name="wait")
    ctx.cancel("wait")
    ctx.cancel("wait")
    assert ctx.end() == [SetTimer("wait", WaitEnded(), START + days(1)), CancelTimer("wait")]


def test_timers() -> None:
    ctx = context(FakeTurn(CartAbandoned(), timers={"old": START}))
    assert (ctx.timer("old"), ctx.timer("wait")) == (START, None)
    cet = timezone(timedelta(hours=1))
    ctx.later(WaitEnded(), at=datetime(2026, 1, 2, tzinfo=cet), name="wait")
    ctx.later(WaitEnded(), at=START - days(3), name="past")
    ctx.cancel("old")
    assert ctx.timer("wait") == datetime(2026, 1, 1, 23, tzinfo=UTC)
    assert ctx.timer("old") is None
    assert ctx.end() == [
        SetTimer("wait", WaitEnded(), datetime(2026, 1, 1, 23, tzinfo=UTC)),
        SetTimer("past", WaitEnded(), START),
        CancelTimer("old"),
    ]


@pytest.mark.parametrize(
    "event, at, name, message",
    [
        (WaitEnded(), START, "My wait", "timer 'My wait' is not a usable name: use a-z"),
        (WaitEnded(), START, "due", "timer 'due' is reserved"),
        ("WaitEnded", START, "wait", "ctx.later takes an event, not a str"),
        (
            CouponSent(),
            START,
            "wait",
            r"ctx.later\(CouponSent\) would come back to nobody: give waiter a handler with @on",
        ),
        (
            WaitEnded(customer_id="bob"),
            START,
            "wait",
            "a WaitEnded of customer 'bob' while handling 'ann': a timer bel",
        ),
        (WaitEnded(), START.replace(tzinfo=None), "wait", "does not say in which time zone: use ctx.now"),
        (WaitEnded(), days(3), "wait", r"is no datetime: at=ctx.now \+ days\(3\)"),
        (WaitEnded(), datetime(2262, 1, 1, tzinfo=UTC), "wait", "is too far away: timers end before 2262"),
        (WaitEnded(), datetime.max.replace(tzinfo=timezone(-timedelta(hours=1))), "wait", "is too far away"),
    ],
    ids=told,
)
def test_timers_that_cannot_be_set(event: Any, at: Any, name: str, message: str) -> None:
    with pytest.raises(HandlerError, match=rf"waiter's handler start \(.*\): .*{message}"):
        context().later(event, at=at, name=name)


def test_the_beginning_of_time_is_past() -> None:
    ctx = context()
    ctx.later(WaitEnded(), at=datetime.min.replace(tzinfo=timezone(timedelta(hours=1))), name="wait")
    assert ctx.timer("wait") == START
    with pytest.raises(HandlerError, match="timer 'My wait' is not a usable name"):
        ctx.cancel("My wait")
