"""What is personal is sealed when it is written, whatever serialisers stand around it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

import pytest
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    SerializerFunctionWrapHandler,
    WrapSerializer,
    computed_field,
    create_model,
    field_serializer,
    model_serializer,
)

from sojourn import Event, Key, Personal
from sojourn.bus.envelope import encode
from sojourn.bus.errors import DefinitionError, SchemaError
from sojourn.bus.event import spec_of
from sojourn.bus.personal.key import SEALED, CustomerKey
from tests.ids import told

EMAIL = "ann@example.org"
KEY = CustomerKey("k1", bytes(32))


def loud(value: Any) -> Any:
    return value.upper() if value is not None else None


def quiet(value: Any, handler: SerializerFunctionWrapHandler) -> Any:
    return handler(value)


class Contact(BaseModel):
    email: Personal[str] | None = None


@dataclass
class Card:
    email: Personal[str] | None = None


class LoudContact(BaseModel):
    email: Personal[str] | None = None

    @field_serializer("email")
    def written(self, value: str | None) -> Any:
        return loud(value)


class OddContact(BaseModel):
    email: Personal[str] | None = None

    @model_serializer
    def written(self) -> dict[str, Any]:
        return {"email": self.email}


class Further(BaseModel):
    model_config = ConfigDict(extra="allow")
    # A dictionary of Any in the base, which type checkers hold to be another one.
    __pydantic_extra__: dict[str, Personal[str] | None] = Field(init=False)  # pyright: ignore[reportIncompatibleVariableOverride]


def event(annotation: Any) -> type[Event]:
    return create_model("ContactGiven", __base__=Event, customer_id=(Key, ...), contact=(annotation, ...))


def written(given: Event, sealer: CustomerKey | None = KEY) -> str:
    time = datetime(2026, 1, 1, tzinfo=UTC)
    return encode(given, id="1", source="/test", key="ann", time=time, sealer=sealer).decode()


@pytest.mark.parametrize(
    "annotation",
    [
        LoudContact,
        OddContact,
        list[LoudContact],
        dict[str, OddContact | None],
        Annotated[Contact, PlainSerializer(lambda contact: contact.email)],
        Annotated[Personal[str] | None, PlainSerializer(loud)],
        # Applied to the mark itself, they take the place of its serialiser.
        list[Annotated[Personal[str], PlainSerializer(loud)] | None],
        list[Annotated[Personal[str], WrapSerializer(quiet)] | None],
    ],
    ids=told,
)
def test_a_serializer_that_would_write_a_personal_value_in_plain_is_refused(annotation: Any) -> None:
    with pytest.raises(DefinitionError, match=r"the field contact.* a serializer would write it in plain"):
        event(annotation)


def test_so_is_one_of_the_whole_class() -> None:
    with pytest.raises(DefinitionError, match="class ContactGiven: the class is or has something Personal"):

        class ContactGiven(Event):
            customer_id: Key
            email: Personal[str] | None = None

            @model_serializer
            def written(self) -> dict[str, Any]:
                return {"customer_id": self.customer_id, "email": self.email}


def test_further_fields_cannot_be_personal() -> None:
    with pytest.raises(DefinitionError, match="contact takes further fields that are Personal"):
        event(Further)


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (Contact, Contact(email=EMAIL)),
        (Card, Card(email=EMAIL)),
        (Annotated[Contact, WrapSerializer(quiet)], Contact(email=EMAIL)),
        (Annotated[Personal[str] | None, WrapSerializer(quiet)], EMAIL),
        (Personal[Annotated[str, PlainSerializer(loud)]] | None, EMAIL),
        (tuple[int, Card], (1, Card(email=EMAIL))),
    ],
    ids=told,
)
def test_serializers_that_leave_the_seal_are_taken(annotation: Any, value: object) -> None:
    given = event(annotation).model_validate({"customer_id": "ann", "contact": value})
    document = written(given)
    assert SEALED in document
    assert EMAIL not in document.lower()
    assert EMAIL not in repr(given)


def test_a_computed_field_is_personal_where_it_says_so() -> None:
    class NameGiven(Event):
        customer_id: Key
        name: str

        @computed_field
        def greeting(self) -> Personal[str] | None:
            return f"Dear {self.name}"

    assert spec_of(NameGiven).personal == ("greeting",)
    given = NameGiven(customer_id="ann", name="Ann")
    assert "Dear" not in written(given)
    assert "Dear" not in repr(given)
    with pytest.raises(SchemaError, match="NameGiven has personal values, and the customer's key to seal them"):
        written(given, None)


def test_what_is_personal_is_not_written_where_no_field_says_so() -> None:
    class AnythingGiven(Event):
        customer_id: Key
        content: Any

    with pytest.raises(SchemaError, match="a personal value stands where the class does not say so") as caught:
        written(AnythingGiven(customer_id="ann", content=Contact(email=EMAIL)), None)
    assert EMAIL not in str(caught.value)
    assert '"email":null' in written(AnythingGiven(customer_id="ann", content=Contact()), None)
