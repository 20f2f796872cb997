"""Personal fields: plain in the process, sealed on the wire, None once their customer was erased.

``email: Personal[str] | None = None``. What type checkers, validators and JSON Schemas see is plain ``str``; the mark
seals and opens values only where serialisation or validation is given a `Sealing` or `Unsealing` context.
"""

from __future__ import annotations

from collections.abc import Container
from json.encoder import encode_basestring as quote
from typing import Annotated, Any, TypeVar

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema, from_json, to_json

from sojourn.bus.errors import DecodeError
from sojourn.bus.personal.key import SEALED, CustomerKey, UnknownKeyError, sealed_by

T = TypeVar("T")

MARK = "x-sojourn-personal"
"""The keyword of a personal value in a JSON Schema."""


ERASED = object()
"""What `Unsealing.open` gives for a value that was erased; None may be a value."""


class Sealing:
    """The context of serialising an event: its personal values are sealed with ``key``."""

    __slots__ = ("key",)

    def __init__(self, key: CustomerKey) -> None:
        self.key = key


class Unsealing:
    """The context of reading an event: its sealed values are opened with ``key``.

    ``certain``: the key was just looked up, so that whatever another key sealed was erased: it reads None, and the
    name of its field is added to ``erased``. Otherwise such a value raises `UnknownKeyError`, so that the key is looked
    up, unless its key is among ``gone``, the ids of those that were destroyed. None as ``key`` is a customer without
    one.
    """

    __slots__ = ("certain", "erased", "gone", "key")

    def __init__(self, key: CustomerKey | None, *, certain: bool = False, gone: Container[str] = ()) -> None:
        self.key = key
        self.certain = certain
        self.gone = gone
        self.erased: list[str] = []

    def open(self, text: str, field: str) -> object:
        """The value in a sealed text, as JSON gives it; `ERASED` where there is none any more. ``field`` is the
        name for ``erased``. Raises `UnknownKeyError` and `DecodeError`."""
        try:
            plain = self.key.unseal(text) if self.key is not None else _unknown(text)
        except UnknownKeyError as error:
            if not self.certain and error.id not in self.gone:
                raise
            if field not in self.erased:
                self.erased.append(field)
            return ERASED
        try:
            return from_json(plain)
        except ValueError:
            # Not `from`: the parser's message may quote the value.
            raise DecodeError("a personal value opens, but is no JSON: it was sealed by something else") from None


class PersonalMark:
    """What makes a type `Personal`. Cheap where there is no context; classes without it are not touched at all."""

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        plain = handler(source)
        return core_schema.with_info_wrap_validator_function(
            open_value,
            plain,
            serialization=core_schema.wrap_serializer_function_ser_schema(
                seal_value, info_arg=True, schema=plain, when_used="json"
            ),
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {**handler(schema), MARK: True}


Personal = Annotated[T, PersonalMark()]
"""A value that can be erased with its customer: ``Personal[T] | None``, for any ``T`` that has a JSON form, also inside
nested models, lists and dictionaries."""


def open_value(
    value: object, handler: core_schema.ValidatorFunctionWrapHandler, info: core_schema.ValidationInfo[Any]
) -> object:
    """Validates a personal value, opened before where the context is an `Unsealing` and the value is sealed."""
    unsealing = info.context
    if type(unsealing) is Unsealing and type(value) is str and value.startswith(SEALED):
        opened = unsealing.open(value, info.field_name or "")
        return None if opened is ERASED else handler(opened)
    return handler(value)


def seal_value(
    value: object, handler: core_schema.SerializerFunctionWrapHandler, info: core_schema.SerializationInfo[Any]
) -> object:
    """A personal value as JSON has it, sealed where the context is a `Sealing`."""
    plain = handler(value)
    sealing = info.context
    if type(sealing) is not Sealing:
        return plain
    # The C encoder of the standard library takes half of what the general one does.
    return sealing.key.seal(quote(plain).encode() if type(plain) is str else to_json(plain))


def _unknown(text: str) -> bytes:
    raise UnknownKeyError(sealed_by(text))
