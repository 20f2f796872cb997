"""Synthetic shoppers: they browse, fill a cart, leave it, buy, come back, or fall silent, and respond to what agents
do.

They make `ProductViewed` (product), `CartUpdated` (cart_value, items), `CartAbandoned` (cart_value), `OrderPlaced`
(order_id, amount, currency, items) and `SessionEnded`, as far as the catalogue has event types of these names, with the
fields named here. An order's amount is also its ``total``, for shops that call it that.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from math import log
from typing import Any, NamedTuple

from sojourn.bus.catalog import Catalog
from sojourn.bus.envelope import Envelope
from sojourn.bus.event import Event
from sojourn.simulation.population import Population, Response, chance
from sojourn.simulation.timeline import Happening
from sojourn.simulation.vocabulary import Vocabulary

OFFERED = {
    "ProductViewed": ("product",),
    "CartUpdated": ("cart_value", "items"),
    "CartAbandoned": ("cart_value",),
    "OrderPlaced": ("order_id", "amount", "total", "currency", "items"),
    "SessionEnded": (),
}
"""The event types that shoppers make, with the values that come with each."""

_CENT = Decimal("0.01")
_CURRENCY = "EUR"
_PRODUCTS = (
    "armchair", "bicycle", "blanket", "bookcase", "camera", "chess set", "coat", "desk lamp", "espresso pot",
    "fountain pen", "garden shears", "guitar", "headphones", "kettle", "knife", "mirror", "notebook", "pan",
    "record player", "rug", "satchel", "scarf", "tea set", "teapot", "tent", "turntable", "vase", "wall clock",
    "watch", "wool socks",
)  # fmt: skip

ResponseTo = Callable[[Envelope[Event]], Response | None]


class _Step(NamedTuple):
    time: datetime
    type: str
    values: dict[str, Any]


class _Return(NamedTuple):
    """A visit to a cart that was left: when, and what it adds to the chance to buy."""

    time: datetime
    encouraged: float
    percent: float


class Shopper:
    """One shopper (`sojourn.simulation.timeline.Timeline`), number ``number`` of its population, from ``start`` until
    before ``end``.

    ``response_to`` says how an action works on this shopper; by default its type is looked up in the population's
    ``responses``.
    """

    def __init__(
        self,
        number: int,
        population: Population,
        vocabulary: Vocabulary,
        *,
        seed: int,
        start: datetime,
        end: datetime,
        response_to: ResponseTo | None = None,
    ) -> None:
        self._key = f"c{number:05d}"
        self._number = number
        self._population = population
        self._vocabulary = vocabulary
        self._seed = seed
        self._end = end
        self._response_to = response_to or self._look_up
        nature = chance(seed, number, "nature")
        shape = population.visits_shape
        self._rate = nature.gammavariate(shape, population.visits / shape)
        self._steps: deque[_Step] = deque()
        self._visit_at: datetime | None = self._visit_after(start, nature)
        self._return: _Return | None = None
        self._cart = Decimal(0)
        self._items = 0
        self._busy_until = start
        self._made = self._visits = self._seen = 0

    @property
    def key(self) -> str:
        return self._key

    def next_at(self) -> datetime | None:
        while not self._steps:
            back, visit = self._return, self._visit_at
            if back is not None and (visit is None or back.time <= visit) and back.time < self._end:
                self._return = None
                self._come_back(back)
            elif visit is not None and visit < self._end:
                self._visit(visit)
            else:
                return None
        return self._steps[0].time

    def take(self) -> Happening:
        step = self._steps.popleft()
        self._made += 1
        event = self._vocabulary.make(step.type, self._key, step.values)
        return Happening(step.time, f"shopper-{self._seed}-{self._number}-{self._made}", event)

    def react(self, action: Envelope[Event]) -> None:
        response = self._response_to(action)
        if response is None:
            return
        luck = chance(self._seed, self._number, "reaction", self._seen)
        effect = self._population.fatigue**self._seen
        self._seen += 1
        percent = _percent(action.event)
        pull = response.per_percent * percent
        coming = luck.random() < (response.returns + pull) * effect
        after = self._wait(luck)
        if coming and self._return is None:
            self._return = _Return(action.time + after, (response.buys + pull) * effect, percent)

    def _look_up(self, action: Envelope[Event]) -> Response | None:
        return self._population.responses.get(action.type)

    def _wait(self, luck: random.Random) -> timedelta:
        return _rounded(self._population.delay * luck.expovariate(1.0)) + timedelta(minutes=5)

    def _visit_after(self, moment: datetime, luck: random.Random) -> datetime | None:
        """The next visit out of the blue: so many days later at the shopper's rate, at an hour of the day's rhythm."""
        gap = luck.expovariate(self._rate) if self._rate > 0 else float("inf")
        if gap > 3650:
            return None
        day = (moment + timedelta(days=gap)).replace(hour=0, minute=0, second=0, microsecond=0)
        hour = luck.choices(range(24), weights=self._population.rhythm)[0]
        at = day + timedelta(hours=hour, seconds=luck.randrange(3600))
        return at if at > moment else moment + timedelta(hours=luck.uniform(1, 6))

    def _visit(self, at: datetime) -> None:
        """Plans a visit out of the blue, and the one after it."""
        luck = chance(self._seed, self._number, "visit", self._visits)
        self._visits += 1
        clock = self._enter(at, luck)
        self._cart, self._items = Decimal(0), 0
        for _ in range(1 + _geometric(luck, self._population.pages - 1)):
            self._step(clock.tick(), "ProductViewed", product=luck.choice(_PRODUCTS))
        if luck.random() < self._population.fills_cart:
            self._fill(clock, luck)
            self._decide(clock, luck, self._population.buys, percent=0.0)
        else:
            self._step(clock.tick(), "SessionEnded")
        self._visit_at = None if luck.random() < self._population.goes_silent else self._visit_after(clock.now, luck)

    def _come_back(self, back: _Return) -> None:
        """Plans a visit to the cart that was left, or to the shop where there is none."""
        luck = chance(self._seed, self._number, "return", self._visits)
        self._visits += 1
        clock = self._enter(back.time, luck)
        self._step(clock.tick(), "ProductViewed", product=luck.choice(_PRODUCTS))
        if not self._items:
            self._fill(clock, luck)
        self._decide(clock, luck, self._population.buys + back.encouraged, percent=back.percent)
        if self._visit_at is None or self._visit_at <= clock.now:
            self._visit_at = self._visit_after(clock.now, luck)

    def _fill(self, clock: _Clock, luck: random.Random) -> None:
        """Puts articles into the cart, one after the other."""
        items = 1 + _geometric(luck, 0.8)
        value = luck.lognormvariate(log(self._population.cart_median), self._population.cart_sigma)
        for _ in range(items):
            self._cart += max(Decimal(value / items).quantize(_CENT), _CENT)
            self._items += 1
            self._step(clock.tick(), "CartUpdated", cart_value=self._cart, items=self._items)

    def _decide(self, clock: _Clock, luck: random.Random, buys: float, *, percent: float) -> None:
        if luck.random() < buys:
            amount = (self._cart * (100 - Decimal(percent)) / 100).quantize(_CENT)
            order = f"{self._key}-{self._visits}"
            money = {"amount": amount, "total": amount, "currency": _CURRENCY}
            self._step(clock.tick(), "OrderPlaced", order_id=order, items=self._items, **money)
            self._cart, self._items = Decimal(0), 0
            self._step(clock.tick(), "SessionEnded")
            return
        self._step(clock.tick(), "SessionEnded")
        clock.now += self._population.abandoned_after
        self._step(clock.now, "CartAbandoned", cart_value=self._cart)
        if luck.random() < self._population.comes_back and self._return is None:
            self._return = _Return(clock.now + self._wait(luck), 0.0, 0.0)

    def _enter(self, at: datetime, luck: random.Random) -> _Clock:
        # A visit planned for a time when the last one still went on begins after it.
        return _Clock(max(at, self._busy_until), self._population.pause, luck)

    def _step(self, time: datetime, type: str, **values: Any) -> None:
        self._busy_until = time
        if type in self._vocabulary:
            self._steps.append(_Step(time, type, values))


class _Clock:
    """The time inside a visit."""

    def __init__(self, start: datetime, pause: timedelta, luck: random.Random) -> None:
        self.now = start
        self._pause = pause
        self._luck = luck

    def tick(self) -> datetime:
        """The moment of the next step."""
        self.now += timedelta(seconds=1) + _rounded(self._pause * self._luck.expovariate(1.0))
        return self.now


def shoppers(
    customers: int,
    catalog: Catalog,
    *,
    seed: int,
    start: datetime,
    end: datetime,
    population: Population | None = None,
    response_to: ResponseTo | None = None,
) -> Iterable[Shopper]:
    """That many shoppers who make events of ``catalog``. Raises `ConfigurationError` where it has none that they
    make."""
    vocabulary = Vocabulary(catalog, OFFERED, who="the built-in shoppers")
    population = population or Population()
    start, end = start.astimezone(UTC), end.astimezone(UTC)
    return [
        Shopper(number, population, vocabulary, seed=seed, start=start, end=end, response_to=response_to)
        for number in range(1, customers + 1)
    ]


def _geometric(luck: random.Random, mean: float) -> int:
    """How often something succeeds before it fails, with that mean."""
    if mean <= 0:
        return 0
    return int(log(1.0 - luck.random()) / log(mean / (1.0 + mean)))


def _percent(event: Event) -> float:
    percent = getattr(event, "percent", 0)
    return min(max(float(percent), 0.0), 100.0) if isinstance(percent, int | float | Decimal) else 0.0


def _rounded(duration: timedelta) -> timedelta:
    return timedelta(milliseconds=round(duration.total_seconds() * 1000))
