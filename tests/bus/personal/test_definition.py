"""Personal fields are found wherever they stand, and refused where they could not be erased or read again."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import Enum
from itertools import count
from typing import Annotated, Any, Literal, NamedTuple

import pytest
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    RootModel,
    WrapValidator,
    create_model,
    field_validator,
    model_validator,
)
from typing_extensions import TypeAliasType, TypedDict

from sojourn.bus.errors import DefinitionError
from sojourn.bus.event import Key
from sojourn.bus.personal.definition import check_personal, has_personal, personal_fields
from sojourn.bus.personal.field import Personal, PersonalMark


class Address(BaseModel):
    street: Personal[str] | None = Field(None, description="with the number")
    country: str = ""

    @model_validator(mode="after")
    def checked(self) -> Address:
        return self


class Node(BaseModel):
    name: Personal[str] | None = None
    children: list[Node] = []


@dataclass
class Point:
    place: Personal[str] | None


class Row(TypedDict):
    cell: Personal[str] | None


class Pair(NamedTuple):
    left: Personal[str] | None


class Cat(BaseModel):
    kind: Literal["cat"]
    name: Personal[str] | None


class Dog(BaseModel):
    kind: Literal["dog"]
    name: str


class Root(RootModel[Personal[str] | None]):
    pass


Alias = TypeAliasType("Alias", Personal[str] | None)


class Everything(BaseModel):
    plain: str
    described: Annotated[Personal[str] | None, Field(description="x")] = None
    address: Address
    addresses: list[Address]
    by_name: dict[str, Address]
    node: Node
    point: Point
    row: Row
    pair: Pair
    root: Root
    alias: Alias
    pet: Annotated[Cat | Dog, Field(discriminator="kind")]
    animal: Cat | Dog | None
    values: dict[str, Personal[str] | None]
    entries: list[Personal[int] | None] = []
    place: tuple[int, Personal[str] | None]
    whole: Personal[Address] | None
    nullable: Personal[str | None]
    short: Personal[Annotated[str, Field(max_length=3)]] | None
    checked: Annotated[Personal[str] | None, AfterValidator(lambda value: value)] = None


def test_found_wherever_it_stands() -> None:
    assert list(personal_fields(Everything)) == [
        "described",
        "address.street",
        "addresses.street",
        "by_name.street",
        "node.name",
        "point.place",
        "row.cell",
        "pair",
        "root",
        "alias",
        "pet.name",
        "animal.name",
        "values",
        "entries",
        "place",
        "whole",
        "whole.street",
        "nullable",
        "short",
        "checked",
    ]
    assert personal_fields(Everything)["address.street"].description == "with the number"
    assert has_personal(Everything)
    check_personal(Everything)


def test_nothing_is_found_where_nothing_is() -> None:
    assert not has_personal(Dog)
    assert personal_fields(Dog) == {}
    check_personal(Dog)


number = count(1)


STRIPPED: Any = Annotated[Personal[str], AfterValidator(str.strip)]


def having(annotation: Any, *, base: type[BaseModel] = BaseModel, **field: Any) -> type[BaseModel]:
    made: type[BaseModel] = create_model("Having", __base__=base, it=(annotation, Field(**field) if field else ...))
    return made


@pytest.mark.parametrize(
    "annotation",
    [
        Personal[str],
        Personal[str] | int | None,
        STRIPPED | None,
        list[Personal[str]],
        list[Personal[str]] | None,
        dict[str, Personal[str]],
        set[Personal[str]],
        tuple[Personal[str], ...],
        Address | Personal[str] | None,
        having(Personal[str]),
    ],
    ids=lambda _: str(next(number)),
)
def test_what_could_not_read_none_is_refused(annotation: Any) -> None:
    with pytest.raises(DefinitionError, match=r"the field (it\.)?it is Personal and reads None") as caught:
        check_personal(having(annotation))
    assert "it: Personal[T] | None" in str(caught.value)
    assert "Personal[list[T]] | None" in str(caught.value)


def test_a_constraint_around_it_would_meet_none_and_is_refused() -> None:
    personal: Any = Personal[str]
    with pytest.raises(DefinitionError, match="Constraints and further types go inside"):
        check_personal(having(personal | None, default=None, max_length=3))
    with pytest.raises(DefinitionError):
        check_personal(having(Personal[str], default=None))


def test_the_key_is_never_personal() -> None:
    with pytest.raises(DefinitionError, match="customer is the Key, which is part of subjects"):
        check_personal(create_model("Seen", customer=(Personal[Key], ...)), key="customer")


def test_a_class_that_is_not_complete_is_refused() -> None:
    class Waiting(BaseModel):
        later: NotYet  # type: ignore[name-defined]  # noqa: F821 - what is tested

    with pytest.raises(DefinitionError, match="Waiting: an annotation names something that is not defined yet"):
        has_personal(Waiting)


class Colour(Enum):
    RED = "red"


class Strict(BaseModel):
    model_config = ConfigDict(strict=True)


@pytest.mark.parametrize("type", [str, int, float, bool, Colour])
def test_strict_fields_of_types_that_json_has_are_fine(type: Any) -> None:
    personal: Any = Annotated[type, PersonalMark()]
    check_personal(having(personal | None, base=Strict))


@pytest.mark.parametrize("type", [Decimal, datetime, set, Address])
def test_strict_fields_that_json_has_no_type_for_are_refused(type: Any) -> None:
    personal: Any = Annotated[type, PersonalMark()]
    strict = having(personal | None, base=Strict)
    for model in (strict, having(strict)):
        with pytest.raises(DefinitionError, match="it is Personal and strict"):
            check_personal(model)


def test_a_field_may_be_lax_in_a_strict_model_and_strict_in_a_lax_one() -> None:
    check_personal(having(Personal[Annotated[Decimal, Field(strict=False)]] | None, base=Strict))
    with pytest.raises(DefinitionError, match="strict"):
        check_personal(having(Personal[Annotated[Decimal, Field(strict=True)]] | None))


def unchanged(value: Any) -> Any:
    return value


def kept(value: Any, handler: Any) -> Any:
    return handler(value)


@pytest.mark.parametrize(
    "annotation",
    [
        Annotated[Personal[str] | None, BeforeValidator(unchanged)],
        Annotated[Personal[str] | None, WrapValidator(kept)],
        Annotated[list[Personal[str] | None], BeforeValidator(unchanged)],
        dict[str, Annotated[Personal[str] | None, BeforeValidator(unchanged)]],
    ],
    ids=lambda _: str(next(number)),
)
def test_a_validator_that_would_get_the_sealed_text_is_refused(annotation: Any) -> None:
    for model in (having(annotation), having(having(annotation))):
        with pytest.raises(DefinitionError, match="of mode before or wrap gets its sealed text"):
            check_personal(model)


def test_a_validator_of_a_field_is_one_too() -> None:
    class Seen(BaseModel):
        email: Personal[str] | None = None

        @field_validator("email", mode="before")
        @classmethod
        def lowered(cls, value: object) -> object:
            return value

    with pytest.raises(DefinitionError, match=r"the field email is Personal, and a validator"):
        check_personal(Seen)


def test_validators_inside_afterwards_and_of_the_whole_model_are_fine() -> None:
    class Seen(BaseModel):
        email: Personal[Annotated[str, BeforeValidator(unchanged)]] | None = None
        phone: Annotated[Personal[str] | None, AfterValidator(unchanged)] = None
        address: Annotated[Address, BeforeValidator(unchanged)]

        @model_validator(mode="before")
        @classmethod
        def renamed(cls, value: object) -> object:
            return value

    check_personal(Seen)
    check_personal(having(Seen))
