"""Event types as plain JSON Schema, for any validator or generator of code."""

from __future__ import annotations

from decimal import Decimal

import pytest
from jsonschema import Draft202012Validator
from referencing import Registry

from examples import retail
from examples.retail import LoyaltyTierReached, OrderPlaced, Tier
from sojourn.bus.catalog import Catalog
from sojourn.bus.event import Event, Key, spec_of
from sojourn.bus.schemas.export.bundle import jsonschema_bundle, jsonschema_files
from sojourn.bus.schemas.records import SchemaRecord
from sojourn.bus.schemas.schema import Schema
from tests.bus.schemas.export.making import at, record_of, records_of

EVENTS = records_of(Catalog.of_module(retail))


class First:
    class CartAbandoned(Event):
        customer_id: Key


class Second:
    class CartAbandoned(Event, version=2):
        customer_id: Key
        cart_value: Decimal


VERSIONS = record_of(First.CartAbandoned, Second.CartAbandoned)


def alone(schema: Schema) -> Draft202012Validator:
    """A validator that fetches nothing."""
    return Draft202012Validator(schema, registry=Registry())


def test_the_bundle_and_each_of_its_schemas_are_schemas() -> None:
    bundle = jsonschema_bundle(EVENTS, title="Shop")
    Draft202012Validator.check_schema(bundle)
    assert bundle["$schema"] == "https://json-schema.org/draft/2020-12/schema" and bundle["title"] == "Shop"
    types = {cls.__name__: spec_of(cls).version for cls in Catalog.of_module(retail)}
    assert set(bundle["$defs"]) == {*types, *(f"{type}.v{version}" for type, version in types.items())}
    for schema in bundle["$defs"].values():
        Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize("name", ["LoyaltyTierReached.v1", "LoyaltyTierReached"])
def test_the_bundle_accepts_what_is_published_and_refuses_anything_else(name: str) -> None:
    validator = at(jsonschema_bundle(EVENTS), f"#/$defs/{name}")
    data = LoyaltyTierReached(customer_id="c1", tier=Tier.GOLD, orders=10).model_dump(mode="json")
    assert validator.is_valid(data)
    assert not validator.is_valid(data | {"tier": "platinum"})
    assert not validator.is_valid({"customer_id": "c1", "tier": "gold"})


def test_every_version_is_there_and_the_plain_name_is_the_newest() -> None:
    bundle = jsonschema_bundle([VERSIONS])
    assert list(bundle["$defs"]) == ["CartAbandoned", "CartAbandoned.v1", "CartAbandoned.v2"]
    old, new = {"customer_id": "c1"}, {"customer_id": "c1", "cart_value": "80.00"}
    assert at(bundle, "#/$defs/CartAbandoned.v1").is_valid(old)
    assert not at(bundle, "#/$defs/CartAbandoned.v2").is_valid(old)
    assert not at(bundle, "#/$defs/CartAbandoned").is_valid(old)
    assert at(bundle, "#/$defs/CartAbandoned").is_valid(new)
    assert bundle["$defs"]["CartAbandoned.v1"]["deprecated"] is True
    assert "deprecated" not in bundle["$defs"]["CartAbandoned.v2"]


def test_each_file_stands_alone_and_is_named_on_the_wire() -> None:
    files = jsonschema_files(EVENTS)
    assert list(files) == sorted(f"{cls.__name__}.v{spec_of(cls).version}.json" for cls in Catalog.of_module(retail))
    for schema in files.values():
        Draft202012Validator.check_schema(schema)
    tier = files["LoyaltyTierReached.v1.json"]
    # As `encode` writes it.
    assert tier["$id"] == "urn:sojourn:LoyaltyTierReached:1"
    assert alone(tier).is_valid({"customer_id": "c1", "tier": "gold", "orders": 10})
    assert not alone(tier).is_valid({"customer_id": "c1", "tier": "platinum", "orders": 10})
    order = OrderPlaced(customer_id="c1", order_id="o1", total=Decimal("9.99"), currency="EUR", items=1)
    assert alone(files["OrderPlaced.v3.json"]).is_valid(order.model_dump(mode="json"))


def test_older_versions_have_files_too() -> None:
    files = jsonschema_files([VERSIONS])
    assert {name: schema.get("deprecated") for name, schema in files.items()} == {
        "CartAbandoned.v1.json": True,
        "CartAbandoned.v2.json": None,
    }


def test_a_type_without_versions_has_nothing_to_say() -> None:
    bare = SchemaRecord(type="CartLost", key_field="customer_id")
    assert jsonschema_files([bare]) == {} == jsonschema_bundle([bare])["$defs"]


def test_the_order_of_the_records_does_not_matter() -> None:
    assert list(jsonschema_bundle(EVENTS[::-1])["$defs"]) == list(jsonschema_bundle(EVENTS)["$defs"])
    assert list(jsonschema_files(EVENTS[::-1])) == list(jsonschema_files(EVENTS))
