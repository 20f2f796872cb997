from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from functools import cached_property
from typing import Any

import pytest
from pydantic import Field

from sojourn import Event, Journey, Key, evolve
from sojourn.bus.envelope import Envelope, decode, encode
from sojourn.bus.errors import DefinitionError, HandlerError, PermanentError
from sojourn.bus.processor import Recorded
from sojourn.state.fold import fold
from sojourn.state.journey import copied, evolved


class ShopEvent(Event, abstract=True):
    customer_id: Key


class CartUpdated(ShopEvent):
    value: Decimal = Decimal(1)


class CartAbandoned(ShopEvent):
    pass


class Cart(Journey):
    value: Decimal = Decimal(0)
    abandoned: list[str] = Field(default_factory=list)

    @evolve(CartUpdated)
    def updated(self, event: CartUpdated) -> None:
        self._take(event.value)

    @evolve(CartAbandoned)
    def left(self, event: ShopEvent, envelope: Envelope[CartAbandoned]) -> None:
        self.abandoned.append(envelope.time.isoformat())

    def _take(self, value: Decimal) -> None:
        self.value = value

    @cached_property
    def cents(self) -> int:
        return int(self.value * 100)


def at(event: Event, sequence: int = 1) -> Recorded:
    document = encode(event, id="id", source="/test", key="c1", time=datetime(2026, 1, sequence, tzinfo=UTC))
    return Recorded(decode(document, type(event)), sequence)


UPDATED = at(CartUpdated(customer_id="c1", value=Decimal(80)), 1)
ABANDONED = at(CartAbandoned(customer_id="c1"), 2)


def test_a_journey_is_the_fold_of_its_events() -> None:
    cart = fold(Cart, [UPDATED, ABANDONED])
    assert cart.value == 80
    assert cart.abandoned == ["2026-01-02T00:00:00+00:00"]
    assert cart == Cart(value=Decimal(80), abandoned=["2026-01-02T00:00:00+00:00"])
    assert Cart.model_validate_json(cart.model_dump_json()) == cart


def test_a_journey_is_not_changed_by_what_follows_from_it() -> None:
    cart = Cart()
    assert cart.cents == 0
    later = evolved(cart, UPDATED)
    assert cart.value == 0
    assert later.value == 80
    assert later.cents == 8000
    copy = copied(later)
    copy.abandoned.append("x")
    assert later.abandoned == []
    assert evolved(cart, at(ForeignSeen(customer_id="c1"))) is cart


class ForeignSeen(Event):
    customer_id: Key


def test_assigning_outside_a_fold_says_what_to_do() -> None:
    cart = Cart()
    with pytest.raises(
        HandlerError, match=r"Cart.value cannot be assigned to here: .* @evolve methods. Return .* event"
    ):
        cart.value = Decimal(3)
    with pytest.raises(HandlerError, match=r"Cart\.value cannot be deleted"):
        del cart.value
    assert cart.value == 0


def test_assigning_to_what_is_no_field_fails_the_fold() -> None:
    class Typo(Journey):
        value: int = 0

        @evolve(CartUpdated)
        def updated(self, event: CartUpdated) -> None:
            self.vlaue = 1

    with pytest.raises(PermanentError, match="Typo has no field 'vlaue': declare it in the class, with a default"):
        evolved(Typo(), UPDATED)


def test_a_fold_that_returns_something_fails() -> None:
    class Functional(Journey):
        value: int = 0

        @evolve(CartUpdated)
        def updated(self, event: CartUpdated):  # type: ignore[no-untyped-def]  # noqa: ANN202
            return self.model_copy(update={"value": 1})

    with pytest.raises(PermanentError, match="it returned a value; assign to self instead"):
        evolved(Functional(), UPDATED)


def test_a_journey_refuses_fields_without_default() -> None:
    with pytest.raises(DefinitionError) as caught:

        class Bad(Journey):
            value: int

    line = caught.tb.tb_lineno
    assert f"test_journey.py:{line}: class Bad: a journey begins before its first event" in str(caught.value)
    assert "value has none: value: ... = 0" in str(caught.value)


def test_a_journey_refuses_a_default_that_is_none() -> None:
    with pytest.raises(DefinitionError, match=r"class Bad: cannot be made from its defaults"):

        class Bad(Journey):
            value: int = "many"  # type: ignore[assignment]  # the point


def test_a_journey_refuses_hidden_state() -> None:
    with pytest.raises(
        DefinitionError, match="class Bad: a journey is its fields and nothing else; make _hidden a field"
    ):

        class Bad(Journey):
            _hidden: int = 0


def test_a_journey_refuses_types_it_does_not_know_yet() -> None:
    with pytest.raises(DefinitionError, match="class Bad: the type of a field is not known yet"):

        class Bad(Journey):
            value: Later | None = None  # type: ignore[name-defined]  # noqa: F821 - the point


def test_a_journey_has_one_method_per_event() -> None:
    with pytest.raises(
        DefinitionError, match=r"test_journey.py:\d+: class Bad: one and two both evolve from CartUpdated: keep one"
    ):

        class Bad(Journey):
            @evolve(CartUpdated)
            def one(self, event: CartUpdated) -> None: ...
            @evolve(CartUpdated)
            def two(self, event: CartUpdated) -> None: ...


def test_a_method_has_one_event() -> None:
    with pytest.raises(DefinitionError, match=r"test_journey.py:\d+: .*both has two @evolve: write a method for each"):

        class Bad(Journey):
            @evolve(CartAbandoned)  # type: ignore[arg-type]  # the point
            @evolve(CartUpdated)
            def both(self, event: Any) -> None: ...


async def _coroutine(self: Journey, event: CartUpdated) -> None: ...
def _generator(self: Journey, event: CartUpdated) -> Iterator[None]:
    yield


async def _async_generator(self: Journey, event: CartUpdated) -> AsyncIterator[None]:
    yield


def _no_event(self: Journey) -> None: ...
def _too_many(self: Journey, event: CartUpdated, envelope: Envelope[CartUpdated], more: int) -> None: ...
def _keyword(self: Journey, *, event: CartUpdated) -> None: ...
def _star(self: Journey, *event: CartUpdated) -> None: ...
def _other_event(self: Journey, event: CartAbandoned) -> None: ...
def _no_envelope(self: Journey, event: CartUpdated, envelope: CartUpdated) -> None: ...
def _result(self: Journey, event: CartUpdated) -> Cart:
    return Cart()


@pytest.mark.parametrize(
    "method, message",
    [
        (_coroutine, "a fold is a plain synchronous function, so neither async nor yield"),
        (_generator, "a fold is a plain synchronous function"),
        (_async_generator, "a fold is a plain synchronous function"),
        (_no_event, r"an @evolve method takes \(self, event\) or \(self, event, envelope\)"),
        (_too_many, r"an @evolve method takes \(self, event\) or \(self, event, envelope\)"),
        (_keyword, r"an @evolve method takes \(self, event\)"),
        (_star, r"an @evolve method takes \(self, event\)"),
        (_other_event, r"@evolve\(CartUpdated\) hands it a CartUpdated, but event is annotated as CartAbandoned"),
        (_no_envelope, r"the third parameter is the envelope: envelope: Envelope\[CartUpdated\]"),
        (_result, r"an @evolve method returns nothing: it assigns to self \(-> None\)"),
    ],
)
def test_methods_that_are_no_folds_are_refused(method: Any, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    decorated = evolve(CartUpdated)(method)
    monkeypatch.setattr(method, "__evolves__", CartUpdated)
    line = method.__code__.co_firstlineno
    with pytest.raises(DefinitionError, match=rf"test_journey.py:{line}: Bad.{method.__name__}: {message}"):
        type("Bad", (Journey,), {"__module__": __name__, method.__name__: decorated})


@pytest.mark.parametrize(
    "event, message",
    [
        (int, r"@evolve takes an event class, not <class 'int'>"),
        ("CartUpdated", "@evolve takes an event class, not 'CartUpdated'"),
        (ShopEvent, r"@evolve\(ShopEvent\): ShopEvent is an abstract base and no event"),
    ],
)
def test_evolve_takes_events_only(event: Any, message: str) -> None:
    with pytest.raises(DefinitionError, match=rf"test_journey.py:\d+: {message}"):
        evolve(event)


def test_evolve_belongs_on_a_function() -> None:
    with pytest.raises(DefinitionError, match=r"@evolve\(CartUpdated\) belongs on a method, not on 3"):
        evolve(CartUpdated)(3)  # type: ignore[call-overload]


def test_a_subclass_adds_to_its_base_and_overrides_it() -> None:
    class More(Cart):
        updates: int = 0

        @evolve(CartUpdated)
        def updated(self, event: CartUpdated) -> None:
            super().updated(event)
            self.updates += 1

    more = fold(More, [UPDATED, ABANDONED])
    assert more.value == 80
    assert (more.updates, len(more.abandoned)) == (1, 1)


def test_an_override_is_decorated_too() -> None:
    with pytest.raises(DefinitionError, match="class Bad: updated overrides an @evolve method: decorate it too"):

        class Bad(Cart):
            def updated(self, event: CartUpdated) -> None: ...
