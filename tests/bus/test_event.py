"""Event classes are checked when they are made, and say what is wrong, where, and the way out."""

from __future__ import annotations

import inspect
import types
from decimal import Decimal
from typing import Annotated, Any, Generic, TypeVar

import pytest
from pydantic import (
    AliasChoices,
    AliasPath,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    create_model,
    field_validator,
)
from pydantic.alias_generators import to_camel

from sojourn.bus.errors import DefinitionError
from sojourn.bus.event import Event, Key, key_of, spec_of

T = TypeVar("T")


class CartAbandoned(Event, version=2):
    customer_id: Key
    cart_value: Decimal = Decimal(0)


class ShopEvent(Event, abstract=True):
    customer: Key
    shop: str = "main"


class OrderPlaced(ShopEvent):
    number: int


def class_line() -> str:
    """The line of a class that follows the caller in three lines, as messages name it."""
    frame = inspect.currentframe()
    assert frame is not None and frame.f_back is not None
    return f"test_event.py:{frame.f_back.f_lineno + 3}"


def test_a_class_knows_its_type_version_and_key() -> None:
    assert spec_of(CartAbandoned)[:3] == ("CartAbandoned", 2, "customer_id")
    assert spec_of(OrderPlaced(customer="c", number=1))[:3] == ("OrderPlaced", 1, "customer")
    assert key_of(CartAbandoned(customer_id="c1")) == "c1"
    assert key_of(OrderPlaced(customer="c2", number=1)) == "c2"


def test_events_do_not_change() -> None:
    event = CartAbandoned(customer_id="c1")
    with pytest.raises(ValidationError):
        event.customer_id = "c2"


def test_a_command_is_refused_with_a_suggestion_at_its_line() -> None:
    line = class_line()
    with pytest.raises(DefinitionError) as caught:

        class ProcessPayment(Event):
            customer_id: Key

    assert str(caught.value).split(": ")[0].endswith(line)
    assert "class ProcessPayment" in str(caught.value)
    assert "(PaymentProcessed?)" in str(caught.value)
    assert "class ProcessPayment(Event, fact=True)" in str(caught.value)


def test_the_line_is_that_of_the_class_in_any_module() -> None:
    # Modules of users may begin like those that are passed over.
    for name in ("abc_shop", "typing_game.events", "pydantically", "functoolshop", "sojourner.events"):
        module = types.ModuleType(name)
        source = "from sojourn.bus.event import Event, Key\n\n\nclass SendIt(Event):\n    customer_id: Key\n"
        with pytest.raises(DefinitionError, match=r"^shop\.py:4: class SendIt: "):
            exec(compile(source, "shop.py", "exec"), vars(module))


def test_a_name_can_be_vouched_for() -> None:
    class Checkout(Event, fact=True):
        customer_id: Key

    assert spec_of(Checkout).type == "Checkout"


def test_a_vouched_name_is_no_licence_for_the_subclass() -> None:
    class Checkout(Event, fact=True, version=3):
        customer_id: Key

    with pytest.raises(DefinitionError, match="class QuickCheckout: events are facts"):

        class QuickCheckout(Checkout):
            pass


@pytest.mark.parametrize(
    "name", ["orderPlaced", "_OrderPlaced", "ÖrderPlaced", "Order²Placed", "Order.Placed", "Order Placed"]
)
def test_a_name_has_to_fit_a_subject(name: str) -> None:
    with pytest.raises(DefinitionError, match="use CamelCase in ASCII"):
        create_model(name, __base__=ShopEvent)


@pytest.mark.parametrize("version", [0, -1, True, "2", 1.5, None])
def test_a_version_is_a_whole_number_from_one(version: Any) -> None:
    with pytest.raises(DefinitionError, match="is not a whole number from 1") as caught:

        class CartShared(Event, version=version):
            customer_id: Key

    assert "test_event.py" in str(caught.value)


def test_without_a_key_or_with_two_there_is_no_event() -> None:
    with pytest.raises(DefinitionError, match=r"exactly one field is a Key .* this one has none: customer_id: Key"):

        class CartShared(Event):
            customer_id: str

    with pytest.raises(DefinitionError, match=r"this one has 2 \(customer, friend\)"):

        class CartMerged(ShopEvent):
            friend: Key

    with pytest.raises(DefinitionError, match="has none"):

        class CartSplit(ShopEvent):
            customer: str


@pytest.mark.parametrize("annotation", [Key | None, list[Key], dict[str, Key], Key | int])
def test_a_key_inside_another_type_is_none(annotation: Any) -> None:
    with pytest.raises(DefinitionError, match=r"\(itself, not Key \| None\); this one has none"):
        create_model("CartShared", __base__=Event, customer_id=(annotation, ...))


def test_a_key_that_may_be_missing_is_refused() -> None:
    with pytest.raises(DefinitionError, match="customer_id defaults to None, which is no customer"):
        create_model("CartShared", __base__=Event, customer_id=(Key, None))


def test_a_key_may_carry_more() -> None:
    class CartShared(Event):
        customer_id: Annotated[Key, Field(alias="customerId", description="who", max_length=5)]
        note: Annotated[str, Field(max_length=3)] = ""

    assert spec_of(CartShared).key_field == "customer_id"
    assert key_of(CartShared.model_validate({"customerId": "c1"})) == key_of(CartShared(customer_id="c1")) == "c1"
    with pytest.raises(ValidationError):
        CartShared(customer_id="too long")


@pytest.mark.parametrize(
    ("key", "message"),
    [("", "must not be empty"), ("ä" * 200, "at most 512 bytes once escaped; this one has 1200"), (5, "valid string")],
)
def test_an_unusable_key_is_refused_when_the_event_is_made(key: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        CartAbandoned(customer_id=key)


def test_an_abstract_base_is_no_event() -> None:
    for cls in (Event, ShopEvent):
        with pytest.raises(DefinitionError, match=f"{cls.__name__} is an abstract base and no event"):
            spec_of(cls)
    with pytest.raises(DefinitionError, match="ShopEvent is an abstract base"):
        key_of(ShopEvent(customer="c"))


def test_abstract_is_not_inherited() -> None:
    class BasketEvent(ShopEvent, abstract=True):
        items: int = 0

    class BasketSeen(BasketEvent):
        pass

    assert BasketEvent.__sojourn__ is None
    assert spec_of(BasketSeen).key_field == "customer"


def test_generic_bases_can_be_parametrised() -> None:
    class ItemEvent(Event, Generic[T], abstract=True):
        customer_id: Key
        item: T

    class BookBought(ItemEvent[int]):
        pass

    class ItemSold(Event, Generic[T]):
        customer_id: Key
        item: T

    assert spec_of(BookBought)[:3] == ("BookBought", 1, "customer_id")
    assert BookBought(customer_id="c", item=1).item == 1
    with pytest.raises(ValidationError):
        BookBought(customer_id="c", item="no number")  # type: ignore[arg-type]  # that is the point
    with pytest.raises(DefinitionError, match=r"ItemSold\[int\] is an abstract base and no event"):
        spec_of(ItemSold[int])
    assert spec_of(ItemSold).type == "ItemSold"


def test_numbers_without_json_are_refused() -> None:
    class PriceSeen(Event):
        customer_id: Key
        price: float = 0
        others: tuple[float, ...] = ()
        exact: Decimal = Decimal(0)

    for value in ({"price": float("nan")}, {"others": (1, float("inf"))}, {"exact": Decimal("-Infinity")}):
        with pytest.raises(ValidationError, match="finite number"):
            PriceSeen(customer_id="c", **value)


def test_a_field_has_to_be_read_as_it_is_written() -> None:
    with pytest.raises(DefinitionError, match="the field value is stored as 'amount', but not read as that"):

        class CartShared(Event):
            customer_id: Key
            value: int = Field(1, serialization_alias="amount")

    with pytest.raises(DefinitionError, match="the field value is left out of what is stored"):

        class CartSaved(Event):
            customer_id: Key
            value: int = Field(exclude=True)

    class CartSeen(Event):
        model_config = ConfigDict(alias_generator=to_camel)
        customer_id: Key
        item_count: int = 0
        first: int = Field(0, validation_alias=AliasPath("list", 0))
        value: int = Field(0, validation_alias=AliasChoices("amount", "sum"), serialization_alias="sum")
        hint: str = Field("", exclude=True)

    assert spec_of(CartSeen).key_field == "customer_id"


def test_errors_do_not_show_what_was_refused() -> None:
    class Address(BaseModel):
        street: int

    class CustomerMoved(Event):
        customer_id: Key
        address: Address

        @field_validator("customer_id")
        @classmethod
        def no_robot(cls, value: str) -> str:
            raise ValueError("no robots" if value else "nobody")

    with pytest.raises(ValidationError) as caught:
        CustomerMoved(customer_id="robby-the-robot", address={"street": "Forbidden Lane"})  # type: ignore[arg-type]
    assert "robby" not in str(caught.value) and "Forbidden" not in str(caught.value)
    assert "no robots" in str(caught.value)
