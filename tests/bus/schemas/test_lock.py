"""The lock file: the same text for the same records, clear errors, and the same verdicts as from the server."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sojourn.bus.clock import VirtualClock
from sojourn.bus.errors import ConfigurationError, NotFoundError
from sojourn.bus.memory import MemoryTransport
from sojourn.bus.schemas.checking import check_classes
from sojourn.bus.schemas.lock import LOCK_FILE, format_lock, parse_lock, read_lock, write_lock
from sojourn.bus.schemas.records import SchemaRecord
from sojourn.bus.schemas.store import Schemas
from sojourn.bus.timers import VirtualTimers
from tests.bus.schemas.contracts import cart

AT = datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC)
INT = (int, ...)


@pytest.fixture
async def records() -> list[SchemaRecord]:
    schemas = Schemas(await MemoryTransport(VirtualTimers()).bucket("R"), clock=VirtualClock(AT))
    first = cart(1, zeta=INT, alpha=(str, "ä"), tags=(set[str], {"a", "b"}), owner="shop", doc="Left – for now.")
    for cls in (first, cart(2, alpha=(str, "ä"), upcasts=(1,)), cart(event="OrderPlaced", compatibility="FULL")):
        await schemas.register(cls)
    await schemas.close()
    return await schemas.records()


def edited(records: list[SchemaRecord], edit: Callable[[dict[str, Any]], Any]) -> str:
    document = json.loads(format_lock(records))
    edit(document)
    return json.dumps(document)


async def test_what_is_written_is_read(records: list[SchemaRecord], tmp_path: Path) -> None:
    path = tmp_path / LOCK_FILE
    assert write_lock(path, records)
    assert read_lock(path) == {record.type: record for record in records}
    assert list(read_lock(path)) == ["CartAbandoned", "OrderPlaced"]


async def test_the_text_is_the_same_for_the_same_records(records: list[SchemaRecord], tmp_path: Path) -> None:
    text = format_lock(records)
    assert text == format_lock(reversed(records)) == format_lock(parse_lock(text).values())
    assert text.endswith("}\n") and not text.endswith("\n\n") and "Left – for now." in text
    path = tmp_path / LOCK_FILE
    assert write_lock(path, records)
    stamp = path.stat().st_mtime_ns
    assert not write_lock(path, reversed(records)) and path.stat().st_mtime_ns == stamp
    path.write_bytes(b"\xff")
    assert write_lock(path, records[:1]) and list(read_lock(path)) == ["CartAbandoned"]


async def test_a_change_of_one_field_is_a_difference_of_one_line(records: list[SchemaRecord]) -> None:
    first, *rest = records
    changed = first.model_copy(update={"owner": "crm"})
    before, after = format_lock(records).splitlines(), format_lock([changed, *rest]).splitlines()
    assert len(before) == len(after) and len([1 for pair in zip(before, after, strict=True) if len(set(pair)) > 1]) == 1


async def test_a_lock_file_judges_as_the_server_does(records: list[SchemaRecord]) -> None:
    classes = [
        cart(1, zeta=INT),
        cart(3, zeta=(str, ...), alpha=INT, upcasts=(1,)),
        cart(event="OrderPlaced", value=INT),
        cart(2, event="OrderPlaced", value=INT, more=INT),
        cart(2, event="OrderPlaced", note=(str, "")),
        cart(event="OrderPaid"),
    ]
    server = check_classes(classes, {record.type: record for record in records})
    assert check_classes(classes, parse_lock(format_lock(records))) == server
    assert [one.ok for one in server] == [False, False, True, False, False, True]


def test_a_missing_file_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(
        NotFoundError, match=r"there is no lock file .*gone\.json: take a new one: `sojourn schemas pull`"
    ):
        read_lock(tmp_path / "gone.json")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<<<<<<< ours\n{}", "is no JSON: .*undo the edit"),
        (b"", "is no JSON"),
        (b"\xff", "is no JSON: it is no text in UTF-8"),
        (b"[" * 200_000, "is no JSON: .*undo the edit"),
        (b"[]", "has the format None, this version of Sojourn reads 'sojourn.schemas/1'"),
        (b"{}", "has the format None"),
        (b'{"format": "sojourn.schemas/0", "types": {}}', "has the format 'sojourn.schemas/0', .* take a new one"),
        (b'{"format": "sojourn.schemas/x", "types": {}}', "has the format 'sojourn.schemas/x', .* take a new one"),
        (b'{"format": "other/2", "types": {}}', "has the format 'other/2', .* take a new one"),
        (b'{"format": "sojourn.schemas/1"}', "holds no types"),
        (b'{"format": "sojourn.schemas/1", "types": {"A": 5}}', "A is no record"),
        (b'{"format": "sojourn.schemas/1", "types": {"A": {"versions": []}}}', "A is no record: key_field"),
    ],
)
def test_what_is_no_lock_file_says_so(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / LOCK_FILE
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=message) as caught:
        read_lock(path)
    assert str(path) in str(caught.value) and "sojourn schemas pull" in str(caught.value)


@pytest.mark.parametrize("format", ["sojourn.schemas/2", "sojourn.schemas/10"])
def test_a_newer_format_wants_a_newer_sojourn(format: str) -> None:
    # A new one would take the place of what colleagues with the newer version have committed.
    with pytest.raises(ConfigurationError, match=rf"the format '{format}', .* at most: update Sojourn$"):
        parse_lock(json.dumps({"format": format, "types": {}}))


def _schema(document: dict[str, Any]) -> dict[str, Any]:
    schema: dict[str, Any] = document["types"]["CartAbandoned"]["versions"][1]["schema"]
    return schema


@pytest.mark.parametrize(
    "edit",
    [
        lambda document: _schema(document)["properties"]["alpha"].update(type="integer"),
        lambda document: _schema(document)["required"].append("alpha"),
        lambda document: _schema(document).update(properties=[]),
        lambda document: _schema(document).update(properties={"a": {"default": {}, "$ref": "#/$defs/Gone"}}),
        lambda document: document["types"]["CartAbandoned"]["versions"][1].update(hash="sha256:0"),
    ],
    ids=["a type", "what is required", "no schema", "a definition that is gone", "the hash"],
)
async def test_a_file_edited_by_hand_is_refused(records: list[SchemaRecord], edit: Callable[[Any], None]) -> None:
    with pytest.raises(ConfigurationError, match=r"CartAbandoned version 2 does not have the hash .*edited by hand"):
        parse_lock(edited(records, edit))


async def test_titles_may_be_edited_and_versions_have_to_ascend(records: list[SchemaRecord]) -> None:
    assert parse_lock(edited(records, lambda document: _schema(document).update(title="Other", description="Words")))
    with pytest.raises(ConfigurationError, match=r"the versions of CartAbandoned do not ascend: \[2, 1\]"):
        parse_lock(edited(records, lambda document: document["types"]["CartAbandoned"]["versions"].reverse()))


@given(st.text())
def test_any_text_is_a_lock_file_or_said_to_be_none(text: str) -> None:
    with pytest.raises(ConfigurationError):
        parse_lock(text)
