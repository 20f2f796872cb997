"""Records of event types: what is stored is what was known, and older entries are still read."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from pydantic import ValidationError

from sojourn.bus.errors import ConfigurationError
from sojourn.bus.schemas.compatibility import Level, Version
from sojourn.bus.schemas.records import SchemaRecord, VersionRecord, dump_record, parse_record

AT = datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC)


def version(number: int) -> VersionRecord:
    schema = {"title": "CartAbandoned", "properties": {"schema": {"const": number}}}
    return VersionRecord(version=number, schema=schema, hash=f"sha256:{number}", registered=AT, reference="shop:Cart")


RECORD = SchemaRecord(
    type="CartAbandoned",
    key_field="customer_id",
    owner="shop",
    compatibility=Level.FULL,
    description="Left.",
    versions=[version(1), version(4)],
)


def test_what_is_stored_is_what_was_known() -> None:
    stored = json.loads(dump_record(RECORD))
    assert stored["compatibility"] == "FULL"
    assert stored["versions"][1] == {
        "version": 4,
        "schema": {"title": "CartAbandoned", "properties": {"schema": {"const": 4}}},
        "hash": "sha256:4",
        "registered": "2026-05-04T03:02:01Z",
        "reference": "shop:Cart",
        "upcasts": [],
    }
    assert parse_record(dump_record(RECORD), "type.CartAbandoned") == RECORD


def test_versions_are_found() -> None:
    assert RECORD.latest == RECORD.version(4) == version(4)
    assert RECORD.version(2) is None
    assert RECORD.before(4) == [Version(1, version(1).schema_)]
    assert [one.version for one in RECORD.before(9)] == [1, 4] and RECORD.before(1) == []


def test_an_entry_from_before_versions_were_kept_is_a_record_without_any() -> None:
    record = parse_record(b'{"type":"CartAbandoned","version":3,"key_field":"customer_id"}', "type.CartAbandoned")
    assert record == SchemaRecord(type="CartAbandoned", key_field="customer_id")
    assert record.latest is None and record.compatibility is Level.BACKWARD and record.owner is None


@pytest.mark.parametrize(
    "value", [b"", b"{", b"[]", b"{}", b'{"type":"A"}', b'{"type":"A","key_field":"c","versions":[1]}']
)
def test_an_entry_that_cannot_be_read_says_so(value: bytes) -> None:
    with pytest.raises(
        ConfigurationError, match="the registry holds an entry, Cart, that this version of Sojourn cannot read"
    ):
        parse_record(value, "type.Cart")


def test_records_do_not_change() -> None:
    with pytest.raises(ValidationError):
        RECORD.owner = "me"
