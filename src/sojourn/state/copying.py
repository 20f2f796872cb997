"""How much of a value has to be copied so that two holders of it cannot change it for one another."""

from __future__ import annotations

import copy
import dataclasses
import datetime as dt
import enum
import types
import uuid
from collections import deque
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from ipaddress import IPv4Address, IPv6Address
from pathlib import PurePath
from typing import Annotated, Any, Literal, NewType, Union, get_args, get_origin, get_type_hints
from zoneinfo import ZoneInfo

from pydantic import BaseModel

_ATOMS = (
    int, float, complex, str, bytes, type(None), Decimal, Fraction, dt.date, dt.time, dt.timedelta,
    dt.timezone, ZoneInfo, uuid.UUID, enum.Enum, IPv4Address, IPv6Address, PurePath,
)  # fmt: skip
_SHARE, _SHALLOW, _DEEP = range(3)


def copier(annotation: object) -> Callable[[Any], Any] | None:
    """What copies a field of that type well enough, or None where the value itself may be shared.

    Values of immutable types are shared, containers of them are copied one level deep, and anything else deeply, which
    costs ten times as much and more.
    """
    return (None, copy.copy, copy.deepcopy)[_depth(annotation, frozenset())]


def _depth(annotation: object, above: frozenset[Any]) -> int:
    if annotation in above:  # a type that contains itself adds nothing that its other parts do not show
        return _SHARE
    above |= {annotation}
    if isinstance(annotation, NewType):
        return _depth(annotation.__supertype__, above)
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return _SHARE
    if origin is Annotated:
        return _depth(args[0], above)
    if origin is Union or origin is types.UnionType:
        return max(_depth(arg, above) for arg in args)
    if origin in (tuple, frozenset):
        return _SHARE if all(_depth(arg, above) == _SHARE for arg in args if arg is not ...) else _DEEP
    if origin in (list, set, dict, deque):
        return _SHALLOW if all(_depth(arg, above) == _SHARE for arg in args) else _DEEP
    if isinstance(annotation, type) and origin is None:
        return _SHARE if issubclass(annotation, _ATOMS) or _frozen(annotation, above) else _DEEP
    return _DEEP


def _frozen(cls: type, above: frozenset[Any]) -> bool:
    """Whether instances of a model, dataclass or named tuple can neither be changed nor hold anything that can."""
    if issubclass(cls, BaseModel):
        fields: list[Any] = [info.annotation for info in cls.model_fields.values()]
        sealed = bool(cls.model_config.get("frozen")) and not cls.__private_attributes__
    elif dataclasses.is_dataclass(cls):
        fields = list(get_type_hints(cls).values())
        sealed = bool(getattr(cls, "__dataclass_params__").frozen)  # noqa: B009 - not in the type stubs
    elif issubclass(cls, tuple) and hasattr(cls, "_fields"):
        fields = list(get_type_hints(cls).values())
        sealed = True
    else:
        return False
    return sealed and all(_depth(field, above) == _SHARE for field in fields)
