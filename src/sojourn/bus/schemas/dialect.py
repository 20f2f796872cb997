"""JSON Schema as pydantic means it: what the standard's validator would refuse and the models read is let through."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cache
from typing import TYPE_CHECKING, Any

from sojourn.bus.schemas.keywords import FLAGS, STRIP

if TYPE_CHECKING:
    from jsonschema import ValidationError
    from jsonschema.protocols import Validator

    _Problems = Iterator[ValidationError]
    _Check = Callable[[Validator, Any, object, dict[str, Any]], _Problems]

_BYTES = frozenset({"base64url", "hex", "binary"})
"""Formats of which a length is one of the bytes that the text stands for."""

_PRECISION = 1e-9
"""How far from a multiple a number may be, as a share of it. Source: pydantic-core, ``multiple_of`` of a float."""


def matches(pattern: str, text: str, flags: int = 0) -> bool:
    """Whether a pattern of a schema is found in a text. True for one of Rust's that is none of Python's: pydantic takes
    patterns for Rust's."""
    try:
        return re.search(pattern, text, flags) is not None
    except re.error:
        return True


@cache
def dialect() -> type[Validator]:
    """The class of validators."""
    # Tens of milliseconds, which nobody should pay who has no foreign documents.
    from jsonschema import Draft202012Validator, ValidationError
    from jsonschema.validators import extend

    standard = Draft202012Validator.VALIDATORS

    def sized(word: str) -> _Check:
        def check(validator: Validator, wanted: object, value: object, schema: dict[str, Any]) -> _Problems:
            if isinstance(value, str) and schema.get("format") not in _BYTES:
                yield from standard[word](validator, wanted, _seen(value, schema), schema)

        return check

    def pattern(_: Validator, wanted: str, value: object, schema: dict[str, Any]) -> _Problems:
        if isinstance(value, str) and not matches(wanted, _seen(value, schema), schema.get(FLAGS, 0)):
            yield ValidationError("")

    def named(validator: Validator, parts: dict[str, Any], value: object, _: dict[str, Any]) -> _Problems:
        if isinstance(value, dict):
            for wanted, part in parts.items():
                for name in value:
                    if matches(wanted, name):
                        yield from validator.descend(value[name], part, path=name)  # type: ignore[attr-defined]

    def multiple(_: Validator, wanted: float, value: object, __: dict[str, Any]) -> _Problems:
        if isinstance(value, int | float) and not isinstance(value, bool):
            exact = isinstance(value, int) and isinstance(wanted, int)
            try:
                rest = value % wanted
                far = min(rest, abs(wanted - rest)) > (0 if exact else abs(value) * _PRECISION)
            except OverflowError:  # beyond what a float can say of it
                return
            if far:
                yield ValidationError("")

    made: type[Validator] = extend(  # type: ignore[no-untyped-call]
        Draft202012Validator,
        {
            "minLength": sized("minLength"),
            "maxLength": sized("maxLength"),
            "pattern": pattern,
            "patternProperties": named,
            "multipleOf": multiple,
            # A function may choose among members of which several fit.
            "oneOf": standard["anyOf"],
        },
    )
    return made


def _seen(text: str, schema: dict[str, Any]) -> str:
    return text.strip() if schema.get(STRIP) else text
