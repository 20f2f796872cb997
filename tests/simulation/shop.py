"""A small shop with two processors written by hand, so that these tests need no agent classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal
from typing import Any, Literal

from sojourn.bus.catalog import Catalog
from sojourn.bus.event import Event, Key
from sojourn.bus.processor import CancelTimer, Output, Recorded, Retry, SetTimer, Turn


class ProductViewed(Event):
    customer_id: Key
    product: str


class CartUpdated(Event):
    customer_id: Key
    cart_value: Decimal
    items: int


class CartAbandoned(Event):
    customer_id: Key
    cart_value: Decimal


class OrderPlaced(Event):
    customer_id: Key
    order_id: str
    amount: Decimal
    items: int


class DiscountOffered(Event):
    customer_id: Key
    percent: int


class CustomerLapsed(Event):
    customer_id: Key
    orders: int


class LapsePeriodEnded(Event):
    customer_id: Key
    orders: int


CATALOG = Catalog(
    [ProductViewed, CartUpdated, CartAbandoned, OrderPlaced, DiscountOffered, CustomerLapsed, LapsePeriodEnded]
)


def types(*classes: type[Event]) -> dict[str, type[Event]]:
    return {cls.__name__: cls for cls in classes}


@dataclass(frozen=True)
class Simple:
    """What every processor says of itself."""

    writer: str = "simple"
    handles: Mapping[str, type[Event]] = field(default_factory=dict)
    folds: Mapping[str, type[Event]] = field(default_factory=dict)
    publishes: Mapping[str, type[Event]] = field(default_factory=dict)
    kind: Literal["agent", "saga", "projection"] = "agent"
    version: int = 1
    start: Literal["now", "beginning"] = "now"
    retry: Retry = field(default_factory=Retry)
    timeout: timedelta = timedelta(seconds=10)
    on_poison: Literal["dead", "park"] = "dead"
    description: Mapping[str, Any] = field(default_factory=dict)

    @property
    def group(self) -> str:
        return self.writer


@dataclass(frozen=True)
class Recovery(Simple):
    """Offers a discount for a valuable abandoned cart, more the more often it happens."""

    writer: str = "recovery"
    handles: Mapping[str, type[Event]] = field(default_factory=lambda: types(CartAbandoned))
    publishes: Mapping[str, type[Event]] = field(default_factory=lambda: types(DiscountOffered))

    def open(self, key: str) -> RecoveryResident:
        return RecoveryResident()


class RecoveryResident:
    offers = 0

    def observe(self, recorded: Recorded) -> None:
        return

    def acted(self, recorded: Recorded, cause: int) -> None:
        self.offers += 1

    def run(self, turn: Turn) -> Output:
        event = turn.recorded.envelope.event
        assert isinstance(event, CartAbandoned)
        if event.cart_value < 30:
            return Output()
        return Output([DiscountOffered(customer_id=event.customer_id, percent=min(5 + 5 * self.offers, 20))])


@dataclass(frozen=True)
class Lapse(Simple):
    """Notices who has not ordered for ``days``."""

    writer: str = "lapse"
    days: float = 3
    handles: Mapping[str, type[Event]] = field(default_factory=lambda: types(OrderPlaced, LapsePeriodEnded))
    folds: Mapping[str, type[Event]] = field(default_factory=lambda: types(OrderPlaced))
    publishes: Mapping[str, type[Event]] = field(default_factory=lambda: types(CustomerLapsed, LapsePeriodEnded))

    def open(self, key: str) -> LapseResident:
        return LapseResident(self.days)


class LapseResident:
    def __init__(self, days: float) -> None:
        self.days = days
        self.orders = 0

    def observe(self, recorded: Recorded) -> None:
        if isinstance(recorded.envelope.event, OrderPlaced):
            self.orders += 1

    def acted(self, recorded: Recorded, cause: int) -> None:
        return

    def run(self, turn: Turn) -> Output:
        event = turn.recorded.envelope.event
        if isinstance(event, OrderPlaced):
            if event.items == 99:
                return Output(timers=[CancelTimer("lapse")])
            due = LapsePeriodEnded(customer_id=event.customer_id, orders=self.orders)
            return Output(timers=[SetTimer("lapse", due, turn.now + timedelta(days=self.days))])
        assert isinstance(event, LapsePeriodEnded)
        return Output([CustomerLapsed(customer_id=event.customer_id, orders=event.orders)])
