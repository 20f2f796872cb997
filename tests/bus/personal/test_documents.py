"""Documents without a class: what their schema marks is sealed, and read by the class; what is sealed is opened for
upcasters."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field

from sojourn.bus.errors import DecodeError, SchemaError
from sojourn.bus.personal.documents import seal_document, unseal_tree
from sojourn.bus.personal.field import MARK, Personal, Sealing, Unsealing
from sojourn.bus.personal.key import SEALED, CustomerKey, UnknownKeyError

KEY, _ = CustomerKey.new()
OTHER, _ = CustomerKey.new()


class Address(BaseModel):
    street: Personal[str] | None = None
    country: str = "AT"


class Card(BaseModel):
    kind: Literal["card"]
    number: Personal[str] | None = None
    holder: str = ""


class Cash(BaseModel):
    kind: Literal["cash"]
    number: str = ""


class Node(BaseModel):
    name: Personal[str] | None = None
    children: list[Node] = []


class Order(BaseModel):
    plain: str = "plain"
    email: Personal[str] | None = None
    both: Personal[str | None] = None
    amount: Personal[Decimal] | None = None
    home: Address | None = None
    whole: Personal[Address] | None = None
    others: list[Address] = []
    by_name: dict[str, Personal[int] | None] = {}
    pair: tuple[int, Personal[str] | None] = (0, None)
    paid: Annotated[Card | Cash, Field(discriminator="kind")] | None = None
    loose: Card | Cash | None = None
    tree: Node | None = None


SCHEMA = Order.model_json_schema(by_alias=True)
ORDER = Order(
    email="ada@example.org",
    both=None,
    amount=Decimal("1.50"),
    home=Address(street="Graben 1"),
    whole=Address(street="Ring 2"),
    others=[Address(street="Gasse 3"), Address()],
    by_name={"x": 1, "y": None},
    pair=(1, "second"),
    paid=Card(kind="card", number="4711", holder="open"),
    loose=Cash(kind="cash", number="open"),
    tree=Node(name="root", children=[Node(name="leaf")]),
)


def plain_and_sealed(value: Any, path: str = "") -> dict[str, bool]:
    if isinstance(value, dict):
        return {
            name: found
            for key, part in value.items()
            for name, found in plain_and_sealed(part, f"{path}.{key}").items()
        }
    if isinstance(value, list):
        return {name: found for part in value for name, found in plain_and_sealed(part, f"{path}[]").items()}
    return {path: isinstance(value, str) and value.startswith(SEALED)}


def test_a_sealed_document_is_the_one_that_its_class_writes() -> None:
    document = json.loads(ORDER.model_dump_json())
    kept = json.dumps(document)
    sealed = seal_document(document, SCHEMA, KEY)
    assert json.dumps(document) == kept, "the document itself stays"
    assert Order.model_validate_json(json.dumps(sealed), context=Unsealing(KEY)) == ORDER
    written = json.loads(Order.__pydantic_serializer__.to_json(ORDER, context=Sealing(KEY)))
    assert plain_and_sealed(sealed) == plain_and_sealed(written)
    assert json.loads(KEY.unseal(sealed["whole"]))["street"].startswith(SEALED), "within a personal model, too"


def test_a_plain_text_that_looks_sealed_is_sealed_again() -> None:
    looks = KEY.seal(b'"inner"')
    sealed = seal_document({"email": looks}, SCHEMA, KEY)
    assert Order.model_validate_json(json.dumps(sealed), context=Unsealing(KEY)).email == looks


@pytest.mark.parametrize("value", [{"kind": "cheque", "number": "4711"}, {"number": "4711"}])
def test_where_no_choice_fits_all_of_them_count(value: dict[str, str]) -> None:
    assert seal_document({"loose": value}, SCHEMA, KEY)["loose"]["number"].startswith(SEALED)


@pytest.mark.parametrize(
    ("schema", "value", "expected"),
    [
        ({"properties": {"a": {MARK: True}}}, {"a": 1, "b": 2}, {"a"}),
        ({"properties": {"a": {MARK: False}}}, {"a": 1}, set()),
        ({"properties": {"a": True, "b": False}}, {"a": 1, "b": 2}, set()),
        ({"properties": {"a": {}}, "additionalProperties": {MARK: True}}, {"a": 1, "b": 2}, {"b"}),
        ({"patternProperties": {"^p": {MARK: True}}, "additionalProperties": False}, {"p1": 1, "q": 2}, {"p1"}),
        ({"allOf": [{"properties": {"a": {MARK: True}}}, {}]}, {"a": 1}, {"a"}),
        ({"if": {}, "then": {"properties": {"a": {MARK: True}}}}, {"a": 1}, {"a"}),
        ({"$ref": "#/$defs/x~1y", "$defs": {"x/y": {"properties": {"a": {MARK: True}}}}}, {"a": 1}, {"a"}),
        ({"$ref": "#/allOf/0", "allOf": [{"properties": {"a": {MARK: True}}}]}, {"a": 1}, {"a"}),
        ({"$ref": "#"}, {"a": 1}, set()),
        ({"properties": {"a": {"oneOf": [{"type": "integer", MARK: True}, {"type": "string"}]}}}, {"a": "x"}, set()),
        ({"properties": {"a": {"oneOf": [{"type": "integer", MARK: True}, {"type": "string"}]}}}, {"a": 1}, {"a"}),
        ({"properties": {"a": {"anyOf": [{MARK: True}, {"type": "null"}]}}}, {"a": None}, set()),
        ({"properties": {"a": {"anyOf": [{"type": "string"}, {"type": "null"}], MARK: True}}}, {"a": None}, {"a"}),
    ],
    ids=range(14),
)
def test_every_way_in_which_a_schema_reaches_a_value(
    schema: dict[str, Any], value: dict[str, Any], expected: set[str]
) -> None:
    sealed = seal_document(value, schema, KEY)
    assert {name for name, part in sealed.items() if str(part).startswith(SEALED)} == expected
    assert unseal_tree(sealed, Unsealing(KEY)) == value


@pytest.mark.parametrize("reference", ["#/$defs/none", "other.json", "#/properties/a/7", "#/$defs/list/x"])
def test_a_reference_that_leads_nowhere_is_refused(reference: str) -> None:
    schema = {"properties": {"a": {"$ref": reference}}, "$defs": {"list": [1]}}
    with pytest.raises(SchemaError, match="which it does not hold"):
        seal_document({"a": 1}, schema, KEY)


def test_a_document_that_is_personal_as_a_whole_is_refused() -> None:
    with pytest.raises(SchemaError, match="mark its fields"):
        seal_document({"a": 1}, {MARK: True}, KEY)


def test_a_tree_is_opened_wherever_something_is_sealed() -> None:
    sealed = json.loads(Order.__pydantic_serializer__.to_json(ORDER, context=Sealing(KEY)))
    assert unseal_tree(sealed, Unsealing(KEY)) == json.loads(ORDER.model_dump_json())


def test_what_was_erased_is_none_in_the_tree_and_named() -> None:
    unsealing = Unsealing(OTHER, certain=True)
    tree = unseal_tree({"a": {"b": KEY.seal(b"1")}, "list": [KEY.seal(b"2"), 3], "c": "open"}, unsealing)
    assert tree == {"a": {"b": None}, "list": [None, 3], "c": "open"}
    assert unsealing.erased == ["b", "list"]
    with pytest.raises(UnknownKeyError):
        unseal_tree({"a": KEY.seal(b"1")}, Unsealing(None))


def test_a_text_that_only_begins_like_a_sealed_one_stays() -> None:
    tree = {"comment": "sealed:1: that is how it looks", "inner": KEY.seal(b'"sealed:1:x:y"')}
    assert unseal_tree(tree, Unsealing(KEY)) == {"comment": tree["comment"], "inner": "sealed:1:x:y"}


def test_a_damaged_one_in_a_tree_is_refused() -> None:
    with pytest.raises(DecodeError, match="damaged"):
        unseal_tree({"a": f"{SEALED}{KEY.id}:AAAA"}, Unsealing(KEY))
