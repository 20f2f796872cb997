"""A schema says the same wherever it stands; sealed, its personal values are texts and the rest is as it was."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any, Literal

import pytest
from jsonschema import Draft202012Validator
from pydantic import BaseModel, Field

from sojourn.bus.event import Event, Key
from sojourn.bus.personal.field import Personal
from sojourn.bus.schemas.export.embedding import embedded, explained, holds_personal, sealed
from sojourn.bus.schemas.schema import Schema, schema_of
from tests.bus.schemas.export.making import at


class Category(BaseModel):
    name: str
    within: Category | None = None


class Card(BaseModel):
    kind: Literal["card"] = "card"
    digits: str = Field(max_length=4)


class Cash(BaseModel):
    kind: Literal["cash"] = "cash"


class OrderPlaced(Event):
    customer_id: Key
    amount: Decimal
    category: Category
    payment: Annotated[Card | Cash, Field(discriminator="kind")]
    gift: tuple[Category, int] | None = None


class Address(BaseModel):
    street: Personal[Annotated[str, Field(min_length=2, description="And number.")]] | None = None
    country: str


class CustomerMoved(Event):
    customer_id: Key
    address: Address
    earlier: list[Address] | None = None
    born: Personal[int] | None = None
    beside: Personal[Category] | None = None


ORDER: dict[str, Any] = {
    "customer_id": "c1",
    "amount": "12.50",
    "category": {"name": "shoes", "within": {"name": "clothes", "within": None}},
    "payment": {"kind": "card", "digits": "1234"},
}

WRONG: list[dict[str, Any]] = [
    {"category": {"name": "shoes", "within": {"name": 7}}},
    {"payment": {"kind": "card", "digits": "12345"}},
    {"payment": {"kind": "coins"}},
    {"gift": [{"name": 1}, 1]},
]


def nested() -> Schema:
    """The schema of an order, two levels down in a document."""
    place = "#/components/schemas/OrderPlaced.v1/schema"
    return {"components": {"schemas": {"OrderPlaced.v1": {"schema": embedded(schema_of(OrderPlaced), place)}}}}


@pytest.mark.parametrize("change", [{}, {"gift": [{"name": "socks"}, 2]}, {"payment": {"kind": "cash"}}])
def test_what_a_schema_accepts_it_accepts_embedded(change: dict[str, Any]) -> None:
    validator = at(nested(), "#/components/schemas/OrderPlaced.v1/schema")
    assert Draft202012Validator(schema_of(OrderPlaced)).is_valid(ORDER | change)
    assert validator.is_valid(ORDER | change)


@pytest.mark.parametrize("change", WRONG)
def test_what_a_schema_refuses_it_refuses_embedded(change: dict[str, Any]) -> None:
    validator = at(nested(), "#/components/schemas/OrderPlaced.v1/schema")
    assert not Draft202012Validator(schema_of(OrderPlaced)).is_valid(ORDER | change)
    assert not validator.is_valid(ORDER | change)


def test_a_discriminators_mapping_points_to_where_the_schemas_are_now() -> None:
    payment = embedded(schema_of(OrderPlaced), "#/there")["properties"]["payment"]
    assert payment["discriminator"]["mapping"] == {"card": "#/there/$defs/Card", "cash": "#/there/$defs/Cash"}


def test_a_recursive_root_refers_to_its_new_place() -> None:
    schema: Schema = {"properties": {"parent": {"$ref": "#"}}, "$schema": "urn:dialect"}
    assert embedded(schema, "#/there") == {"properties": {"parent": {"$ref": "#/there"}}}


def test_only_schemas_are_touched_not_values_or_names_that_look_like_one() -> None:
    schema: Schema = {
        "properties": {"$ref": {"type": "string"}, "default": {"const": {"$ref": "#/x"}}},
        "default": {"$ref": "#/x", "x-sojourn-personal": True},
        "additionalProperties": False,
        "anyOf": [True, {"$ref": "https://elsewhere.example/schema"}],
    }
    assert embedded(schema, "#/there") == schema
    assert not holds_personal(schema)
    assert sealed(schema, "^sealed", "Hidden.") == schema


def test_sealed_values_are_texts_and_everything_else_is_as_it_was() -> None:
    schema = schema_of(CustomerMoved)
    assert holds_personal(schema) and not holds_personal(schema_of(OrderPlaced))
    validator = Draft202012Validator(sealed(schema, "^sealed:", "Hidden."))
    address = {"street": "sealed:x", "country": "NL"}
    good: dict[str, Any] = {
        "customer_id": "c1",
        "address": address,
        "earlier": [address],
        "born": "sealed:y",
        "beside": "sealed:z",
    }
    assert validator.is_valid(good) and validator.is_valid(good | {"born": None})
    assert not validator.is_valid(good | {"born": 1990})
    assert not validator.is_valid(good | {"beside": {"name": "shoes"}})
    assert not validator.is_valid(good | {"address": {"street": "Long Street 1", "country": "NL"}})
    assert not validator.is_valid(good | {"earlier": [{"street": "Long Street 1", "country": "NL"}]})
    assert not validator.is_valid(good | {"address": {"street": "sealed:x"}})


def test_a_sealed_value_keeps_its_words_but_not_what_held_of_the_plain_one() -> None:
    address = sealed(schema_of(CustomerMoved), "^sealed:", "Hidden.")["$defs"]["Address"]
    assert address["properties"]["street"]["anyOf"] == [
        {"type": "string", "pattern": "^sealed:", "description": "And number. Hidden.", "x-sojourn-personal": True},
        {"type": "null"},
    ]


def test_a_plain_value_is_explained_and_checked_as_before() -> None:
    schema = explained(schema_of(CustomerMoved), "Yours.")
    street = schema["$defs"]["Address"]["properties"]["street"]["anyOf"][0]
    assert (street["description"], street["minLength"]) == ("And number. Yours.", 2)
    assert schema["properties"]["born"]["anyOf"][0]["description"] == "Yours."
    assert "Yours." not in str(schema_of(CustomerMoved))
