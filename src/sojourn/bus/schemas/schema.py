"""The JSON Schema of an event class, its fingerprint and its key."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, PydanticUserError, create_model
from pydantic.fields import FieldInfo

from sojourn.bus.errors import DefinitionError, SchemaError
from sojourn.bus.event import Event, spec_of
from sojourn.bus.origin import line_of
from sojourn.bus.schemas.contract import Schema, contract, digest, resolve
from sojourn.bus.schemas.generation import model_schema
from sojourn.bus.schemas.keywords import KEY

__all__ = ["DIALECT", "KEY", "Schema", "contract", "fingerprint", "key_name", "resolve", "schema_of"]

DIALECT = "https://json-schema.org/draft/2020-12/schema"


@lru_cache(maxsize=1024)
def schema_of(cls: type[Event]) -> Schema:
    """The JSON Schema of an event class's documents, in the forms of `generation`; not to be changed.

    Properties bear the names they have on the wire; that of the Key is marked ``x-sojourn-key``. Raises
    `DefinitionError` for an abstract class, and for a field that has no JSON Schema.
    """
    spec = spec_of(cls)
    try:
        schema = model_schema(cls)
    except PydanticUserError as error:
        raise _unschematic(cls, error) from error
    body = resolve(schema, schema)
    key = cls.model_fields[spec.key_field].serialization_alias or spec.key_field
    if key not in body.get("properties", {}):
        raise DefinitionError(
            f"{line_of(cls)}: class {cls.__name__}: its JSON Schema does not show the key {key}: "
            "leave the properties alone in json_schema_extra"
        )
    body["properties"][key].setdefault(KEY, True)  # A WithJsonSchema on the Key takes its mark away.
    return {"$schema": DIALECT, **schema}


def fingerprint(schema: Schema) -> str:
    """The hash of the contract: ``sha256:`` and 64 hexadecimal digits."""
    return f"sha256:{digest(contract(schema))}"


def key_name(schema: Schema) -> str:
    """The name of the key on the wire. Raises `SchemaError` where no property is marked as one."""
    for name, part in resolve(schema, schema).get("properties", {}).items():
        if isinstance(part, dict) and part.get(KEY):
            return str(name)
    raise SchemaError(f"{schema.get('title', 'a schema')} marks no property as the key: {KEY!r}: true")


def _unschematic(cls: type[Event], error: PydanticUserError) -> DefinitionError:
    reason = error.message.rstrip(".")
    field = _culprit(cls, set())
    what = f"class {cls.__name__}: the field {field}" if field else f"class {cls.__name__}"
    return DefinitionError(
        f"{line_of(cls)}: {what} has no JSON Schema: {reason}. Say what its JSON looks like: "
        "Annotated[…, WithJsonSchema({'type': 'string'})], or json_schema_extra of its class"
    )


def _culprit(cls: type[BaseModel], seen: set[type[BaseModel]]) -> str | None:
    """The path of the first field that has no JSON Schema."""
    seen.add(cls)
    for name, info in cls.model_fields.items():
        if _schematic(info):
            continue
        for nested in _models(info.annotation):
            inner = _culprit(nested, seen) if nested not in seen else None
            if inner is not None:
                return f"{name}.{inner}"
        return name
    return None


def _schematic(info: FieldInfo) -> bool:
    try:
        config = ConfigDict(arbitrary_types_allowed=True)
        # A class of one field: pydantic's own message does not name the one it is about.
        field: Any = (info.annotation, info)
        create_model("One", __config__=config, field=field).model_json_schema()
    except PydanticUserError:
        return False
    return True


def _models(annotation: object) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models(part)
