"""Schemas of event classes: the names on the wire, what is a contract and what is not, one fingerprint for one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any, Generic, Literal, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from pydantic import AliasChoices, AliasPath, BaseModel, ConfigDict, Field, WithJsonSchema, create_model

from sojourn.bus.errors import DefinitionError, SchemaError
from sojourn.bus.event import Event, Key
from sojourn.bus.schemas.schema import contract, fingerprint, key_name, schema_of

T = TypeVar("T")


class Item(BaseModel):
    product: str
    price: Decimal = Decimal(1)


class CartUpdated(Event):
    """A cart changed."""

    customer_id: Key
    items: list[Item] = Field([])
    note: Annotated[str, Field(title="Note", description="whatever", examples=["x"], deprecated=True)] = ""


def shown(**fields: Any) -> dict[str, Any]:
    return schema_of(create_model("CartSeen", __base__=Event, customer_id=(Key, ...), **fields))


def holding(part: Any, **definitions: Any) -> dict[str, Any]:
    """A schema with one property."""
    schema = {"type": "object", "properties": {"part": part}}
    return {**schema, "$defs": definitions} if definitions else schema


# The schema.


def test_the_schema_is_pydantics_in_the_stated_dialect_with_its_marks() -> None:
    schema = schema_of(CartUpdated)
    expected = CartUpdated.model_json_schema(by_alias=True, mode="validation")
    expected["properties"]["customer_id"]["x-sojourn-key"] = True
    number, _ = expected["$defs"]["Item"]["properties"]["price"]["anyOf"]
    expected["$defs"]["Item"]["properties"]["price"]["anyOf"] = [number, {"type": "string", "format": "decimal"}]
    expected["x-sojourn-complete"] = True
    assert schema == {"$schema": "https://json-schema.org/draft/2020-12/schema", **expected}
    assert schema_of(CartUpdated) is schema
    Draft202012Validator.check_schema(schema)
    assert key_name(schema) == "customer_id"


def test_properties_bear_the_names_they_have_on_the_wire() -> None:
    class CardRead(Event):
        holder: Key = Field(validation_alias=AliasChoices("h", "Holder"), serialization_alias="Holder")
        first: int = Field(0, validation_alias=AliasPath("list", 0))
        cents: int = Field(alias="amountCents")

    schema = schema_of(CardRead)
    written = json.loads(CardRead(h="c1", amountCents=5).model_dump_json(by_alias=True))  # type: ignore[call-arg]  # by alias
    assert set(schema["properties"]) == set(written) == {"Holder", "first", "amountCents"}
    assert schema["required"] == ["Holder", "amountCents"]
    Draft202012Validator(schema).validate(written)
    assert key_name(schema) == "Holder"


def test_a_recursive_event_has_a_key_too() -> None:
    class CommentPosted(Event):
        customer: Key
        answers: list[CommentPosted] = Field([])

    CommentPosted.model_rebuild(_types_namespace={"CommentPosted": CommentPosted})
    schema = schema_of(CommentPosted)
    assert "$ref" in schema and key_name(schema) == "customer"
    assert contract(schema)["$defs"]


def test_a_schema_without_a_key_says_so() -> None:
    with pytest.raises(SchemaError, match="Foreign marks no property as the key"):
        key_name({"title": "Foreign", "properties": {"a": {"type": "string"}}})


def test_a_field_without_json_is_named_with_the_way_out() -> None:
    class Deep(BaseModel):
        fine: int
        hook: Callable[[int], int]

    class HookCalled(Event):
        customer: Key
        fine: list[int] = Field([])
        deep: dict[str, Deep] = Field({})

    with pytest.raises(
        DefinitionError, match=r"HookCalled: the field deep\.hook has no JSON Schema: .*Callable"
    ) as caught:
        schema_of(HookCalled)
    assert "test_schema.py" in str(caught.value) and "WithJsonSchema" in str(caught.value)

    class ThingSeen(Event):
        model_config = ConfigDict(arbitrary_types_allowed=True)
        customer: Key
        thing: Opaque

    with pytest.raises(DefinitionError, match=r"ThingSeen: the field thing has no JSON Schema"):
        schema_of(ThingSeen)

    class ThingTold(Event):
        model_config = ConfigDict(arbitrary_types_allowed=True)
        customer: Key
        thing: Annotated[Opaque, WithJsonSchema({"type": "string"})]

    assert schema_of(ThingTold)["properties"]["thing"]["type"] == "string"


class Opaque:
    """A class that pydantic knows nothing of."""


def test_an_abstract_class_has_no_schema() -> None:
    with pytest.raises(DefinitionError, match="abstract base"):
        schema_of(Event)


def test_a_schema_that_hides_the_key_is_refused() -> None:
    def emptied(schema: dict[str, Any]) -> None:
        schema.pop("properties")

    class CartHidden(Event):
        model_config = ConfigDict(json_schema_extra=emptied)
        customer: Key

    with pytest.raises(DefinitionError, match="CartHidden: its JSON Schema does not show the key customer"):
        schema_of(CartHidden)


# The contract.


def test_the_contract_is_without_what_no_reader_depends_on() -> None:
    def texts(part: Any) -> set[str]:
        if isinstance(part, dict):
            return set(part).union(*map(texts, part.values()))
        return set().union(*map(texts, part)) if isinstance(part, list) else set()

    before, after = texts(schema_of(CartUpdated)), texts(contract(schema_of(CartUpdated)))
    gone = {"$schema", "title", "description", "examples", "deprecated"}
    assert gone <= before and not gone & after
    assert {"x-sojourn-key", "default", "note", "items"} <= after
    assert contract(holding({"type": "string", "x-ui": 1, "$comment": "", "x-sojourn-personal": True})) == holding(
        {"type": "string", "x-sojourn-personal": True}
    )


@pytest.mark.parametrize(
    "name", ["title", "description", "default", "examples", "deprecated", "required", "x-ui", "$ref"]
)
def test_a_property_of_such_a_name_stays(name: str) -> None:
    schema = {"properties": {name: {"type": "string", "title": "T"}}, "required": [name]}
    assert contract(schema) == {"properties": {name: {"type": "string"}}, "required": [name]}
    assert fingerprint(schema) != fingerprint({"properties": {}, "required": [name]})


def test_values_are_no_schemas() -> None:
    value = {"title": "b", "required": ["z", "a"], "anyOf": [2, 1]}
    for keyword in ("default", "const"):
        assert contract(holding({keyword: value})) == holding({keyword: value})
    assert contract(holding({"enum": [value]})) == holding({"enum": [value]})


def test_what_was_given_is_left_as_it_was() -> None:
    schema = schema_of(CartUpdated)
    before = deepcopy(schema)
    contract(schema)
    assert schema == before


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"enum": ["a", "b"]}, {"enum": ["b", "a"]}),
        ({"type": ["null", "string"]}, {"type": ["string", "null"]}),
        ({"anyOf": [{"type": "integer"}, {"type": "string"}]}, {"anyOf": [{"type": "string"}, {"type": "integer"}]}),
        ({"type": "object", "additionalProperties": True}, {"type": "object"}),
        ({"uniqueItems": True, "default": ["a", "b"]}, {"uniqueItems": True, "default": ["b", "a"]}),
        ({"type": "string", "x-sojourn-personal": False}, {"type": "string"}),
        (
            {"properties": {"a": {}, "b": {}}, "required": ["a", "b"]},
            {"required": ["b", "a"], "properties": {"b": {}, "a": {}}},
        ),
    ],
)
def test_what_has_no_order_does_not_matter(one: Any, other: Any) -> None:
    assert contract(holding(one)) == contract(holding(other))
    assert fingerprint(holding(one)) == fingerprint(holding(other))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"type": "string"}, {"type": "integer"}),
        ({"type": "string"}, {"type": "string", "maxLength": 5}),
        ({"type": "string"}, {"type": "string", "x-sojourn-personal": True}),
        ({"default": 1}, {"default": 2}),
        ({"default": ["a", "b"]}, {"default": ["b", "a"]}),
        ({"const": "a"}, {"const": "b"}),
        ({"prefixItems": [{"type": "string"}, {}]}, {"prefixItems": [{}, {"type": "string"}]}),
        ({"type": "object", "additionalProperties": False}, {"type": "object"}),
    ],
)
def test_what_a_reader_may_notice_matters(one: Any, other: Any) -> None:
    assert fingerprint(holding(one)) != fingerprint(holding(other))


def test_a_nested_class_may_be_renamed_split_and_moved() -> None:
    def bought(name: str, **fields: Any) -> type[BaseModel]:
        return create_model(name, **(fields or {"product": (str, ...), "size": (Tier, Tier.BIG)}))

    one, other = bought("Article"), bought("Bought")
    apart = shown(first=(one, ...), then=(list[other], []))  # type: ignore[valid-type]  # classes made here
    assert len(apart["$defs"]) == 3
    assert fingerprint(shown(first=(one, ...), then=(list[one], []))) == fingerprint(apart)  # type: ignore[valid-type]
    assert contract(shown(first=(one, ...), then=(list[one], []))) == contract(apart)  # type: ignore[valid-type]
    changed = bought("Article", product=(str, ...), size=(Tier, Tier.BIG), price=(int, 0))
    assert fingerprint(shown(first=(changed, ...), then=(list[one], []))) != fingerprint(apart)  # type: ignore[valid-type]


class Tier(StrEnum):
    BIG = "big"
    SMALL = "small"


def test_recursion_is_kept_and_told_apart() -> None:
    def node(name: str, leaf: str, **more: Any) -> dict[str, Any]:
        ref = {"$ref": f"#/$defs/{name}"}
        return holding(ref, **{name: {"properties": {"next": ref, "leaf": {"type": leaf}}}}, **more)

    assert fingerprint(node("A", "string")) == fingerprint(node("B", "string"))
    assert fingerprint(node("A", "string")) != fingerprint(node("A", "integer"))
    # What nothing refers to is no part of it.
    assert contract(node("A", "string", Z={"type": "null"})) == contract(node("B", "string"))
    # A ring of two that are alike is a ring of one.
    ring = {
        one: {"properties": {"next": {"$ref": f"#/$defs/{other}"}, "leaf": {"type": "string"}}}
        for one, other in (("A", "B"), ("B", "A"))
    }
    assert fingerprint(holding({"$ref": "#/$defs/A"}, **ring)) == fingerprint(node("A", "string"))
    # One that differs far away is another.
    ring["B"]["properties"]["leaf"] = {"type": "integer"}
    assert fingerprint(holding({"$ref": "#/$defs/A"}, **ring)) != fingerprint(node("A", "string"))
    assert fingerprint(holding({"$ref": "#/$defs/A"}, **ring)) != fingerprint(holding({"$ref": "#/$defs/B"}, **ring))


def test_definitions_that_differ_only_in_what_they_refer_to_are_two() -> None:
    def chain(first: str, second: str) -> dict[str, Any]:
        """Two lists of lists of lists, of what is told."""
        steps = {
            f"{side}{depth}": {"items": {"$ref": f"#/$defs/{side}{depth + 1}"}} for side in "LR" for depth in (1, 2)
        }
        ends = {"L3": {"type": first}, "R3": {"type": second}}
        return holding({"prefixItems": [{"$ref": "#/$defs/L1"}, {"$ref": "#/$defs/R1"}]}, **steps, **ends)

    mixed, same = contract(chain("string", "integer")), contract(chain("string", "string"))
    assert (len(mixed["$defs"]), len(same["$defs"])) == (6, 3)
    assert fingerprint(chain("string", "integer")) != fingerprint(chain("integer", "string"))
    good, bad = {"part": [[["a"]], [[1]]]}, {"part": [[["a"]], [["a"]]]}
    assert Draft202012Validator(mixed).is_valid(good) and not Draft202012Validator(mixed).is_valid(bad)
    assert Draft202012Validator(same).is_valid(bad) and not Draft202012Validator(same).is_valid(good)


def test_a_contract_is_a_schema_that_takes_the_same_documents() -> None:
    class Cat(BaseModel):
        kind: Literal["cat"]
        friends: list[Cat | Dog] = []

    class Dog(BaseModel):
        kind: Literal["dog"]
        weight: int

    Cat.model_rebuild(_types_namespace={"Cat": Cat, "Dog": Dog})
    schema = shown(pet=(Annotated[Cat | Dog, Field(discriminator="kind")], ...), tags=(set[str], set()))
    lean = contract(schema)
    Draft202012Validator.check_schema(lean)
    assert set(lean["properties"]["pet"]["discriminator"]["mapping"].values()) == {
        f"#/$defs/{n}" for n in lean["$defs"]
    }
    good = {"customer_id": "c", "pet": {"kind": "cat", "friends": [{"kind": "dog", "weight": 1}, {"kind": "cat"}]}}
    bad = {"customer_id": "c", "pet": {"kind": "cat", "friends": [{"kind": "dog"}]}}
    for one in (schema, lean):
        assert Draft202012Validator(one).is_valid(good) and not Draft202012Validator(one).is_valid(bad)


def test_a_contract_is_its_own() -> None:
    for schema in (schema_of(CartUpdated), shown(item=(Item | None, None), tiers=(dict[str, Tier], {}))):
        assert contract(contract(schema)) == contract(schema)


def test_a_generic_event_is_as_good_as_one_written_out() -> None:
    class ThingBought(Event, Generic[T], abstract=True):
        customer_id: Key
        thing: T

    class ItemBought(ThingBought[Item]):
        at: datetime

    written = create_model("ItemBought", __base__=Event, customer_id=(Key, ...), thing=(Item, ...), at=(datetime, ...))
    assert fingerprint(schema_of(ItemBought)) == fingerprint(schema_of(written))


_PARTS = st.recursive(
    st.sampled_from([{"type": "string"}, {"type": "integer", "title": "N"}, {"enum": ["b", "a"]}, {"const": 1}, True]),
    lambda inner: st.one_of(
        st.lists(inner, min_size=2, max_size=3).map(lambda several: {"anyOf": several}),
        inner.map(lambda one: {"type": "array", "items": one}),
        st.dictionaries(st.sampled_from(["title", "a", "$ref", "items"]), inner, max_size=3).map(
            lambda named: {"type": "object", "properties": named, "required": sorted(named, reverse=True)}
        ),
        inner.map(lambda one: {"type": "object", "additionalProperties": one, "default": {}}),
    ),
    max_leaves=12,
)


@given(_PARTS, st.randoms(use_true_random=False))
def test_order_and_words_never_matter(part: Any, random: Any) -> None:
    def shuffled(part: Any) -> Any:
        if not isinstance(part, dict):
            return part
        changed: dict[str, Any] = {}
        for key, value in random.sample(list(part.items()), len(part)):
            match key:
                case "anyOf":
                    changed[key] = [shuffled(one) for one in random.sample(value, len(value))]
                case "required" | "enum":
                    changed[key] = random.sample(value, len(value))
                case "properties":
                    changed[key] = {name: shuffled(value[name]) for name in random.sample(list(value), len(value))}
                case "items" | "additionalProperties":
                    changed[key] = shuffled(value)
                case _:
                    changed[key] = value
        return {**changed, "description": "other words"}

    one, other = holding(part), holding(shuffled(part))
    assert contract(one) == contract(other) and fingerprint(one) == fingerprint(other)
    assert contract(contract(one)) == contract(one)


def test_every_process_finds_the_same_fingerprint() -> None:
    program = (
        "from sojourn import Event, Key\n"
        "from sojourn.bus.schemas.schema import fingerprint, schema_of\n"
        "class CartTagged(Event):\n"
        "    customer: Key\n"
        "    tags: set[str] = {'a', 'b', 'c', 'd'}\n"
        "    more: dict[str, frozenset[str]] = {'x': frozenset('efgh')}\n"
        "print(fingerprint(schema_of(CartTagged)))\n"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(found) == 1
