"""A default that its own field does not take is refused with the class, since nobody could read it again."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Generic, Literal, TypeVar

import pytest
from pydantic import BaseModel, BeforeValidator, Field, PositiveInt, create_model, field_validator

from sojourn import Event, Key, Personal
from sojourn.bus.errors import DefinitionError
from tests.ids import told

T = TypeVar("T")


class Colour(Enum):
    RED = "red"


class Address(BaseModel):
    town: str = ""


def event(annotation: Any, default: Any) -> type[Event]:
    return create_model("NoteTaken", __base__=Event, customer_id=(Key, ...), note=(annotation, default))


@pytest.mark.parametrize(
    ("annotation", "default"),
    [
        (str, None),
        (Literal["a", "b"], "c"),
        (Annotated[str, Field(max_length=2)], "abc"),
        (PositiveInt, 0),
        (float, float("nan")),
        (list[int], ["x"]),
        (Colour, "green"),
        (str, Field(None, alias="remark")),
        (Personal[int] | None, "x"),
    ],
    ids=told,
)
def test_a_default_of_another_type_is_refused(annotation: Any, default: Any) -> None:
    with pytest.raises(DefinitionError, match=r"test_defaults\.py:\d+: class NoteTaken: the field note defaults to "):
        event(annotation, default)


def test_the_refusal_names_the_way_out() -> None:
    with pytest.raises(
        DefinitionError, match=r"Input should be a valid string.* again: write \| None beside its type$"
    ):

        class NoteTaken(Event):
            customer_id: Key
            note: str = None  # type: ignore[assignment]  # as people write it


@pytest.mark.parametrize(
    ("annotation", "default"),
    [
        (str | None, None),
        (Any, None),
        (None, None),
        (Decimal, 0),
        (Colour, "red"),
        (date, "2026-01-01"),
        (tuple[int, ...], []),
        (Address, Address()),
        (Personal[str] | None, "x"),
        (Annotated[str, BeforeValidator(lambda value: value or "-")], None),
        (str, Field(default_factory=lambda: 0)),
    ],
    ids=told,
)
def test_what_the_field_takes_may_be_its_default(annotation: Any, default: Any) -> None:
    assert event(annotation, default)


def test_validators_of_the_class_know_better() -> None:
    class NoteTaken(Event):
        customer_id: Key
        note: str = Field(None, validate_default=True)

        @field_validator("note", mode="before")
        @classmethod
        def filled(cls, value: str | None) -> str:
            return value or "-"

    assert NoteTaken.model_validate({"customer_id": "ann"}).note == "-"


def test_a_generic_base_may_have_any_default() -> None:
    class Taken(Event, Generic[T], abstract=True):
        customer_id: Key
        note: T = None  # type: ignore[assignment]  # right for some T

    class NoteTaken(Taken[str | None]):
        pass

    assert NoteTaken(customer_id="ann").note is None
    with pytest.raises(DefinitionError, match="the field note defaults to None"):

        class CountTaken(Taken[int]):
            pass
