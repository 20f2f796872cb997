"""What an earlier build registered stays registered: that a schema says more now is no change."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Flag, IntFlag
from typing import Annotated, Any

import pytest
from jsonschema import Draft202012Validator
from pydantic import AliasChoices, AwareDatetime, BaseModel, Field, HttpUrl, PastDate, StrictInt, StringConstraints

from sojourn.bus.errors import SchemaError
from sojourn.bus.event import Event
from sojourn.bus.schemas.admission import admitted, claim_of
from sojourn.bus.schemas.compatibility import Schema, changes
from sojourn.bus.schemas.records import SchemaRecord
from sojourn.bus.schemas.schema import KEY, fingerprint, schema_of
from tests.bus.schemas.contracts import cart

AT = datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC)
# As pydantic up to 2.13 shows the text of a Decimal.
PATTERN = r"^(?!^[-+.]*$)[+-]?0*\d*\.?\d*$"


class Rights(Flag):
    READ = 1
    WRITE = 2


class Access(Flag):
    READ = 1
    WRITE = 2
    BOTH = 3


class Options(IntFlag):
    """Its boundary lets any integer through."""

    GIFT = 1
    EXPRESS = 4


class Item(BaseModel):
    price: Decimal = Field(max_digits=9, decimal_places=2)


ENFORCED: dict[str, Any] = {
    "digits": Annotated[Decimal, Field(max_digits=9, decimal_places=2)],
    "limit": Annotated[Decimal, Field(ge=0)],
    "decimal": Decimal | None,
    "decimal or text": Decimal | str,
    "float or text": float | str,
    "zone": AwareDatetime,
    "past": list[PastDate],
    "bound": Annotated[date, Field(ge=date(2020, 1, 1))],
    "span": Annotated[timedelta, Field(le=timedelta(hours=1))],
    "names": dict[int, str],
    "names of days": dict[date, int],
    "strict": StrictInt,
    "flags": Rights,
    "flags with a name for several": Access,
    "flags of any bits": list[Options],
    "url": HttpUrl,
    "strip": Annotated[str, StringConstraints(min_length=1, strip_whitespace=True)],
    "aliases": Annotated[int, Field(validation_alias=AliasChoices("value", "amount"))],
    "inside": dict[str, Item],
}


def as_before(cls: type[Event]) -> Schema:
    """The schema as an earlier build registered it: pydantic's own."""
    schema = json.loads(json.dumps(cls.model_json_schema(by_alias=True, mode="validation")))
    schema["properties"]["customer_id"][KEY] = True
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def with_patterns(part: Any) -> Any:
    """The schema as pydantic up to 2.13 would have shown it."""
    if isinstance(part, list):
        return [with_patterns(inner) for inner in part]
    if not isinstance(part, dict):
        return part
    found = {word: with_patterns(inner) for word, inner in part.items()}
    members = found.get("anyOf", ())
    if any(member.get("type") == "number" for member in members):
        found["anyOf"] = [{**one, "pattern": PATTERN} if one == {"type": "string"} else one for one in members]
    return found


def registered(cls: type[Event], schema: Schema) -> SchemaRecord:
    """The record of a class, as it was registered with another schema."""
    record = admitted(claim_of(cls), None, now=AT)
    version = record.versions[0].model_copy(update={"schema_": schema, "hash": fingerprint(schema)})
    return record.model_copy(update={"versions": [version]})


@pytest.mark.parametrize("field", ENFORCED.values(), ids=ENFORCED)
@pytest.mark.parametrize("release", [as_before, lambda cls: with_patterns(as_before(cls))], ids=["2.14", "2.13"])
def test_a_class_that_did_not_change_is_admitted_and_its_record_stays(field: Any, release: Any) -> None:
    cls = cart(value=(field, ...))
    known = registered(cls, release(cls))
    assert admitted(claim_of(cls), known, now=AT + timedelta(days=1)) == known
    later = admitted(claim_of(cart(2, value=(field, ...), compatibility="BACKWARD")), known, now=AT)
    assert [version.version for version in later.versions] == [1, 2]


def test_what_an_earlier_build_could_see_is_still_refused() -> None:
    before = cart(value=(Decimal, ...))
    known = registered(before, as_before(before))
    for other in (str, float, Decimal | None, Annotated[Decimal, Field(ge=1)]):
        with pytest.raises(SchemaError, match="registered with another schema"):
            admitted(claim_of(cart(value=(other, ...))), known, now=AT)
    text = cart(value=(str, ...))
    assert any("backward" in change.breaks for change in changes(as_before(text), schema_of(before)))


def test_what_this_build_registered_is_held_to_all_it_says() -> None:
    known = admitted(claim_of(cart(value=(datetime, ...))), None, now=AT)
    with pytest.raises(SchemaError, match="value  only with a time zone now"):
        admitted(claim_of(cart(value=(AwareDatetime, ...))), known, now=AT)


@pytest.mark.parametrize("field", ENFORCED.values(), ids=ENFORCED)
def test_the_keywords_change_nothing_for_other_validators(field: Any) -> None:
    """What a producer in another language checks with: the standard's keywords alone."""
    cls = cart(value=(field, ...))
    schema = schema_of(cls)
    Draft202012Validator.check_schema(schema)
    plain = without_own(schema)
    assert plain != schema
    for value in (1, 3, 1.5, "1.5", "x", " ", None, "2020-01-01", {}, {"1": "a"}, {"a": {"price": 1}}, ["2020-01-01"]):
        data = {"customer_id": "ann", "value": value}
        assert Draft202012Validator(schema).is_valid(data) == Draft202012Validator(plain).is_valid(data)


def without_own(part: Any) -> Any:
    if isinstance(part, list):
        return [without_own(inner) for inner in part]
    if not isinstance(part, dict):
        return part
    return {word: without_own(inner) for word, inner in part.items() if not word.startswith("x-sojourn-")}
