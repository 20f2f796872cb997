"""Personal fields: sealed on the wire, plain in the process, None once erased; to others just their type."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from sojourn.bus.errors import DecodeError
from sojourn.bus.personal.field import MARK, Personal, Sealing, Unsealing
from sojourn.bus.personal.key import SEALED, CustomerKey, UnknownKeyError

KEY, _ = CustomerKey.new()
OTHER, _ = CustomerKey.new()


class Colour(Enum):
    RED = "red"


class Address(BaseModel):
    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True)

    street: Personal[str] | None = Field(None, alias="Street")
    country: str = "AT"


class Person(BaseModel):
    email: Personal[str] | None = None
    age: Personal[int] | None = None
    spent: Personal[Decimal] | None = None
    seen: Personal[datetime] | None = None
    born: Personal[date] | None = None
    colour: Personal[Colour] | None = None
    device: Personal[UUID] | None = None
    raw: Personal[bytes] | None = None
    score: Personal[float] | None = None
    plan: Personal[Literal["free", "paid"]] | None = None
    short: Personal[Annotated[str, Field(max_length=5)]] | None = None
    home: Address | None = None
    work: Personal[Address] | None = None
    others: list[Address] = []
    phones: list[Personal[str]] | None = None
    nicks: list[Personal[str] | None] = []
    notes: Personal[list[str]] | None = None
    tags: Personal[set[str]] | None = None
    by_name: dict[str, Personal[int] | None] = {}
    both: Personal[str | None] = None


FULL = Person(
    email="ada@example.org",
    age=36,
    spent=Decimal("12.50"),
    seen=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
    born=date(1815, 12, 10),
    colour=Colour.RED,
    device=UUID(int=7),
    raw=b"raw",
    score=0.1,
    plan="paid",
    short="brief",
    home=Address(Street="Graben 1"),
    work=Address(Street="Ring 2"),
    others=[Address(Street="Gasse 3"), Address(Street=None)],
    phones=["+43 1", "+43 2"],
    nicks=["Countess", None],
    notes=["first", "second"],
    tags={"maths"},
    by_name={"x": 1, "y": None},
    both="both",
)


def sealed(model: BaseModel, key: CustomerKey = KEY) -> bytes:
    return type(model).__pydantic_serializer__.to_json(model, by_alias=True, context=Sealing(key))


def texts(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for part in value.values() for text in texts(part)]
    if isinstance(value, list):
        return [text for part in value for text in texts(part)]
    return [value] if isinstance(value, str) else []


def test_every_kind_of_value_goes_there_and_back() -> None:
    assert Person.model_validate_json(sealed(FULL), context=Unsealing(KEY)) == FULL


def test_nothing_personal_is_on_the_wire() -> None:
    document = json.loads(sealed(FULL))
    plain = [text for text in texts(document) if not text.startswith(SEALED)]
    assert plain == ["AT", "AT", "AT"]
    assert document["age"].startswith(f"{SEALED}{KEY.id}:")
    assert document["both"].startswith(SEALED)
    assert document["nicks"][1] is None
    assert document["others"][1]["Street"] is None


def test_without_a_context_everything_is_plain() -> None:
    text = FULL.model_dump_json(by_alias=True)
    assert SEALED not in text
    assert Person.model_validate_json(text) == FULL
    assert Person.model_validate_json(text, context={"another": "context"}) == FULL
    assert FULL.model_dump()["email"] == "ada@example.org"
    assert FULL.model_dump(context=Sealing(KEY))["email"] == "ada@example.org", "only JSON is sealed"


def test_a_document_that_was_stored_plain_can_be_read_with_a_key() -> None:
    assert Person.model_validate_json(FULL.model_dump_json(by_alias=True), context=Unsealing(KEY)) == FULL


@pytest.mark.parametrize("key", [None, OTHER])
def test_what_was_erased_reads_none_and_is_named(key: CustomerKey | None) -> None:
    unsealing = Unsealing(key, certain=True)
    read = Person.model_validate_json(sealed(FULL), context=unsealing)
    assert (read.email, read.age, read.work, read.notes, read.both) == (None, None, None, None, None)
    assert read.home == Address(Street=None)
    assert read.nicks == [None, None]
    assert read.by_name == {"x": None, "y": None}
    assert sorted(unsealing.erased) == sorted({*Person.model_fields, "street"} - {"home", "others"})


def test_a_key_that_may_only_be_unknown_here_is_asked_for() -> None:
    for key in (None, OTHER):
        unsealing = Unsealing(key)
        with pytest.raises(UnknownKeyError) as caught:
            Person.model_validate_json(sealed(FULL), context=unsealing)
        assert caught.value.id == KEY.id
        assert unsealing.erased == []


def test_values_that_are_null_or_not_sealed_need_no_key() -> None:
    unsealing = Unsealing(None)
    assert Person.model_validate_json('{"email": null, "age": 3}', context=unsealing) == Person(age=3)


@pytest.mark.parametrize(
    "text",
    [f"{SEALED}x:y", SEALED, f"{SEALED}{KEY.id}:AAAA", "sealed", ""],
    ids=["key", "none", "own", "word", "empty"],
)
def test_a_plain_text_that_looks_sealed_is_sealed_again(text: str) -> None:
    person = Person(email=text, phones=[text])
    assert Person.model_validate_json(sealed(person), context=Unsealing(KEY)) == person


def test_an_opened_value_has_to_fit_its_type() -> None:
    document = json.dumps({"age": KEY.seal(b'"secret words"'), "short": KEY.seal(b'"much too long"')})
    with pytest.raises(ValidationError) as caught:
        Person.model_validate_json(document, context=Unsealing(KEY))
    assert [error["loc"] for error in caught.value.errors()] == [("age",), ("short",)]


@pytest.mark.parametrize("plain", [b"", b"secret words", b"[" * 2000, b"\xff"])
def test_what_opens_but_is_no_json_is_refused_without_its_value(plain: bytes) -> None:
    with pytest.raises(DecodeError, match="is no JSON") as caught:
        Person.model_validate_json(json.dumps({"email": KEY.seal(plain)}), context=Unsealing(KEY))
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_personal_model_may_have_personal_fields() -> None:
    document = json.loads(sealed(Person(work=Address(Street="Ring 2"))))
    inner = json.loads(KEY.unseal(document["work"]))
    assert inner["Street"].startswith(SEALED)
    assert inner["country"] == "AT"


def without_mark(schema: Any) -> Any:
    """The schema without the mark, and without the level of ``anyOf`` that carries one."""
    if isinstance(schema, list):
        return [without_mark(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    plain = {name: without_mark(part) for name, part in schema.items() if name != MARK}
    if "anyOf" in plain:
        plain["anyOf"] = [
            one for part in plain["anyOf"] for one in (part["anyOf"] if set(part) == {"anyOf"} else [part])
        ]
    return plain


@pytest.mark.parametrize("mode", ["validation", "serialization"])
def test_the_json_schema_is_that_of_the_plain_type_and_the_mark(mode: Literal["validation", "serialization"]) -> None:
    class Plain(BaseModel):
        email: str | None = None
        seen: datetime | None = None
        spent: Decimal | None = None
        home: Address | None = None
        phones: list[str] | None = None
        by_name: dict[str, int | None] = {}
        both: str | None = None

    class Marked(BaseModel):
        email: Personal[str] | None = None
        seen: Personal[datetime] | None = None
        spent: Personal[Decimal] | None = None
        home: Personal[Address] | None = None
        phones: list[Personal[str]] | None = None
        by_name: dict[str, Personal[int] | None] = {}
        both: Personal[str | None] = None

    marked = Marked.model_json_schema(mode=mode)
    assert without_mark({**marked, "title": "Plain"}) == without_mark(Plain.model_json_schema(mode=mode))
    fields = marked["properties"]
    assert fields["email"]["anyOf"][0] == {"type": "string", MARK: True}
    assert fields["home"]["anyOf"][0] == {"$ref": "#/$defs/Address", MARK: True}
    assert fields["phones"]["anyOf"][0]["items"] == {"type": "string", MARK: True}
    assert fields["both"][MARK] is True
    assert all(MARK not in field for name, field in fields.items() if name != "both")


class Anything(BaseModel):
    value: Personal[JsonValue] = None


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    # Lone surrogates have no UTF-8, so no plain field could be written with them either.
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(JSON)
def test_any_json_goes_there_and_back(value: Any) -> None:
    anything = Anything(value=value)
    wire = sealed(anything)
    assert json.loads(wire)["value"].startswith(SEALED)
    read = Anything.model_validate_json(wire, context=Unsealing(KEY))
    assert read.value == value
    assert repr(read.value) == repr(value), "as the same types"


@given(st.integers(0), st.integers(0, 255))
def test_any_change_of_one_byte_is_refused(place: int, byte: int) -> None:
    wire = KEY.seal(b'"ada@example.org"')
    place %= len(wire)
    changed = wire[:place] + chr(byte) + wire[place + 1 :]
    if changed == wire:
        return
    document = json.dumps({"email": changed})
    if not changed.startswith(SEALED):
        assert Person.model_validate_json(document, context=Unsealing(KEY)).email == changed, "no sealed text any more"
        return
    with pytest.raises((DecodeError, UnknownKeyError)) as caught:
        Person.model_validate_json(document, context=Unsealing(KEY))
    assert "ada" not in str(caught.value)


def test_type_checkers_see_the_plain_type() -> None:
    # What mypy and pyright check here is that nothing needs a cast.
    person = Person(email="ada@example.org", age=36)
    email: str | None = person.email
    age: int | None = person.age
    assert (email, age) == ("ada@example.org", 36)
