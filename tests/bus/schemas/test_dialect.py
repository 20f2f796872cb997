"""What the models read, their schemas let through, where the standard's own validator would not."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated, Any

import pytest
from jsonschema import Draft202012Validator
from pydantic import BaseModel, ConfigDict, Discriminator, Field, StringConstraints, Tag, create_model

from sojourn.bus.schemas.dialect import dialect, matches
from sojourn.bus.schemas.generation import model_schema


class A(BaseModel):
    a: int = 0


class B(BaseModel):
    b: int = 0


class Base64(BaseModel):
    model_config = ConfigDict(val_json_bytes="base64")


STRIPPED = StringConstraints(min_length=1, max_length=2, strip_whitespace=True, pattern="^[a-z]+$")
NAMES = Annotated[dict[Annotated[str, Field(pattern=r"^\p{Lu}$")], int], Field()]
CHOSEN = Annotated[
    Annotated[A, Tag("a")] | Annotated[B, Tag("b")], Discriminator(lambda value: "a" if "a" in value else "b")
]

READ: dict[str, tuple[Any, Any]] = {
    "a share of a float": (Annotated[float, Field(multiple_of=0.1)], 0.3),
    "cents": (Annotated[Decimal, Field(multiple_of=0.01)], 19.99),
    "spaces around": (Annotated[str, STRIPPED], "  ab  "),
    "flags of a pattern": (Annotated[str, Field(pattern=re.compile("^ab$", re.IGNORECASE))], "AB"),
    "a pattern of Rust's": (Annotated[str, Field(pattern=r"^\p{Lu}+$")], "ABC"),
    "names by a pattern of Rust's": (NAMES, {"A": 1}),
    "bytes as a longer text": (Annotated[bytes, Field(max_length=3)], "AAAA"),
    "one of several that fit": (CHOSEN, {}),
}

REFUSED: dict[str, tuple[Any, Any]] = {
    "no multiple": (Annotated[float, Field(multiple_of=0.1)], 0.35),
    "no whole multiple": (Annotated[int, Field(multiple_of=3)], 10**30 + 1),
    "too long without its spaces": (Annotated[str, STRIPPED], "  abc  "),
    "no such pattern": (Annotated[str, STRIPPED], " A "),
    "empty": (Annotated[str, STRIPPED], "   "),
    "none of several": (CHOSEN, "ab"),
    "a name's value": (Annotated[dict[Annotated[str, Field(pattern="^a$")], int], Field()], {"a": "x"}),
}


def of(annotation: Any) -> type[BaseModel]:
    return create_model("Of", __base__=Base64, value=(annotation, ...))


@pytest.mark.parametrize(("annotation", "value"), READ.values(), ids=READ)
def test_what_is_read_is_let_through(annotation: Any, value: Any) -> None:
    model = of(annotation)
    model.model_validate({"value": value})
    schema = model_schema(model)
    assert dialect()(schema).is_valid({"value": value})
    with pytest.raises((AssertionError, re.error)):
        assert Draft202012Validator(schema).is_valid({"value": value})


@pytest.mark.parametrize(("annotation", "value"), REFUSED.values(), ids=REFUSED)
def test_what_is_not_read_is_refused(annotation: Any, value: Any) -> None:
    model = of(annotation)
    with pytest.raises(ValueError, match="Of"):
        model.model_validate({"value": value})
    assert not dialect()(model_schema(model)).is_valid({"value": value})


def test_a_number_beyond_floats_breaks_nothing() -> None:
    assert dialect()({"multipleOf": 0.1}).is_valid(10**400)


def test_nothing_is_known_of_a_pattern_that_python_cannot_read() -> None:
    assert matches(r"^\p{Lu}$", "a")
    assert not matches("^b$", "a")
