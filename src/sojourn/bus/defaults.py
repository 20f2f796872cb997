"""Defaults of an event's fields. Pydantic does not validate them, so one may be stored that nobody can read again."""

from __future__ import annotations

import types
from copy import copy
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError, create_model
from pydantic.errors import PydanticUserError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from sojourn.bus.errors import DefinitionError


def check_defaults(cls: type[BaseModel]) -> None:
    """Raises `DefinitionError` for a field whose default is not of its own type: ``note: str = None``.

    Factories are not called, and where validators or serializers of the class's own see to a field, they know better.
    """
    decorators = cls.__pydantic_decorators__
    tended = {
        name
        for group in (decorators.field_validators, decorators.field_serializers)
        for decorator in group.values()
        for name in decorator.info.fields
    }
    for name, info in cls.model_fields.items():
        if name in tended or "*" in tended or info.default is PydanticUndefined or info.default_factory is not None:
            continue
        if info.default is None and _takes_none(info.annotation):
            continue
        wrong = _wrong(cls, info)
        if wrong is not None:
            way_out = "write | None beside its type" if info.default is None else "give it one that fits"
            raise DefinitionError(
                f"class {cls.__name__}: the field {name} defaults to {repr(info.default)[:60]}, which is none of its "
                f"own values ({wrong}), so an event that is stored with it could not be read again: {way_out}"
            )


def _takes_none(annotation: Any) -> bool:  # noqa: ANN401 - any annotation
    return get_origin(annotation) in {Union, types.UnionType} and type(None) in get_args(annotation)


def _wrong(cls: type[BaseModel], info: FieldInfo) -> str | None:
    validated = copy(info)
    validated.validate_default = True
    config = ConfigDict(
        arbitrary_types_allowed=True,
        strict=cls.model_config.get("strict", False),
        allow_inf_nan=cls.model_config.get("allow_inf_nan", True),
    )
    field: Any = (info.annotation, validated)
    try:
        create_model("Default", __config__=config, value=field)()
    except ValidationError as error:
        return error.errors(include_url=False, include_input=False, include_context=False)[0]["msg"]
    except PydanticUserError:
        pass  # A type that names what is not there yet.
    return None
