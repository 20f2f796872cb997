"""Documents under any names that a model reads become documents under the stored names, and are read the same."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from pydantic import AliasChoices, AliasPath, BaseModel, ConfigDict, Field, Tag
from pydantic import Discriminator as By

from sojourn.bus.schemas.dialect import dialect
from sojourn.bus.schemas.generation import model_schema
from sojourn.bus.schemas.stored_names import Names


class Model(BaseModel):
    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True)


class Item(Model):
    sku: str = Field(validation_alias=AliasChoices("SKU", "article"))
    price: int = Field(0, alias="Price")


class Gift(Model):
    kind: Literal["gift"] = Field("gift", alias="Kind")
    to: str | None = Field(None, validation_alias=AliasChoices("recipient", "to"))


class Card(Model):
    kind: Literal["card"] = Field(alias="Kind")
    text: str | None = Field(None, validation_alias=AliasPath("body", "text"))


class Closed(Model):
    model_config = ConfigDict(extra="forbid")

    name: str = Field(validation_alias=AliasChoices("name", "Name", AliasPath("names", 0)))


class Swapped(Model):
    a: int = Field(validation_alias=AliasChoices("b", "a"))
    b: int = Field(validation_alias=AliasChoices("a", "b"))


class Node(Model):
    size: int = Field(1, alias="Size")
    inner: list[Node] = Field([], alias="Inner")


class Order(Model):
    total: int = Field(0, validation_alias=AliasChoices("new", "total", AliasPath("sum", "total"), AliasPath("all", 1)))
    items: list[Item] = Field([], validation_alias=AliasChoices("items", "lines"))
    by_name: dict[str, Item] = {}
    pair: tuple[int, Item] | None = None
    extra: Gift | Card | None = None
    tagged: Annotated[Gift | Card, Field(discriminator="kind")] | None = None
    chosen: (
        Annotated[
            Annotated[Gift, Tag("g")] | Annotated[Card, Tag("c")],
            By(lambda value: "g" if value.keys() & {"recipient", "to"} else "c"),
        ]
        | None
    ) = None
    closed: Closed | None = None
    tree: Node | None = None
    swapped: Swapped | None = None


def stored(model: type[BaseModel], data: dict[str, Any]) -> dict[str, Any]:
    schema = model_schema(model)
    return Names(schema, lambda value, part: dialect()(schema).evolve(schema=part).is_valid(value)).stored(data)


CASES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"total": 1, "other": 2}, {"total": 1, "other": 2}),
    ({"new": 1}, {"total": 1}),
    ({"new": 1, "total": 2}, {"total": 1}),
    ({"sum": {"total": 1}}, {"sum": {}, "total": 1}),
    ({"sum": {"total": 1, "net": 2}}, {"sum": {"net": 2}, "total": 1}),
    ({"sum": 7, "all": [5, 6]}, {"sum": 7, "all": [5, None], "total": 6}),
    ({"all": [5]}, {"all": [5]}),
    ({"lines": [{"SKU": "a"}, {"article": "b", "price": 2}]}, {"items": [{"sku": "a"}, {"sku": "b", "Price": 2}]}),
    ({"by_name": {"SKU": {"SKU": "a"}}}, {"by_name": {"SKU": {"sku": "a"}}}),
    ({"pair": [1, {"article": "a"}]}, {"pair": [1, {"sku": "a"}]}),
    ({"extra": {"kind": "gift", "recipient": "eva"}}, {"extra": {"Kind": "gift", "to": "eva"}}),
    ({"extra": {"recipient": "eva"}}, {"extra": {"to": "eva"}}),
    ({"extra": {"kind": "card"}}, {"extra": {"Kind": "card"}}),
    ({"tagged": {"Kind": "gift", "recipient": "eva"}}, {"tagged": {"Kind": "gift", "to": "eva"}}),
    ({"chosen": {"recipient": "eva"}}, {"chosen": {"to": "eva"}}),
    ({"closed": {"Name": "a"}}, {"closed": {"name": "a"}}),
    ({"closed": {"names": ["a", "b"]}}, {"closed": {"name": "a"}}),
    ({"tree": {"Inner": [{"inner": [{"size": 3}]}]}}, {"tree": {"Inner": [{"Inner": [{"Size": 3}]}]}}),
    ({"swapped": {"a": 1, "b": 2}}, {"swapped": {"a": 1, "b": 2}}),
]


@pytest.mark.parametrize(("data", "expected"), CASES, ids=lambda data: str(data)[:60])
def test_values_move_to_the_names_that_are_stored_and_are_read_the_same(data: Any, expected: Any) -> None:
    before = str(data)
    found = stored(Order, data)
    assert found == expected
    assert str(data) == before, "the producer's document is left as it is"
    assert Order.model_validate(found) == Order.model_validate(data)
    assert stored(Order, found) == found


def test_what_a_closed_model_refuses_it_refuses_still() -> None:
    for data in ({"name": "a", "Name": "b"}, {"Name": "a", "more": 1}):
        assert not dialect()(model_schema(Closed)).is_valid(stored(Closed, data))


def test_a_model_that_reads_one_name_only_costs_nothing() -> None:
    class Plain(BaseModel):
        total: int

    data = {"total": 1}
    assert stored(Plain, data) is data


def test_unions_within_unions_are_looked_at_once() -> None:
    class One(Model):
        value: int = Field(0, alias="Value")
        inner: One | Two | None = None

    class Two(Model):
        value: int = Field(0, alias="Value")
        inner: One | Two | None = None

    One.model_rebuild(_types_namespace={"One": One, "Two": Two})
    data: dict[str, Any] = {"value": 1}
    for _ in range(18):
        data = {"value": 1, "inner": data}
    found: Any = stored(One, data)
    while found is not None:
        assert found["Value"] == 1
        found = found.get("inner")
