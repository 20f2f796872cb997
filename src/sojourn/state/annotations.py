"""What functions say of their parameters and results, read while a class is made."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from types import SimpleNamespace, UnionType
from typing import Annotated, Any, Final, ForwardRef, TypeVar, Union, get_args, get_origin, get_type_hints

_FRAMEWORK = ("sojourn.", "pydantic", "typing", "abc", "functools")


class Unresolved:
    """An annotation that names something not to be found at run time, such as an import for type checkers only."""

    def __init__(self, text: str) -> None:
        self.text = text


MISSING: Final = Unresolved("")
"""Stands for an annotation that was not written."""


def annotations_of(function: Callable[..., Any], names: Mapping[str, Any]) -> dict[str, Any]:
    """The annotations of a function, evaluated one by one; `Unresolved` where that fails. The result's name is
    ``return``.

    ``names`` are those visible where the class is made (`visible_names`), for classes that are made inside functions.
    """
    function = inspect.unwrap(function)
    found: dict[str, Any] = {}
    for name, annotation in _written(function).items():
        if isinstance(annotation, ForwardRef):
            found[name] = Unresolved(annotation.__forward_arg__)
            continue
        try:
            one = SimpleNamespace(__annotations__={name: annotation})
            found[name] = get_type_hints(one, getattr(function, "__globals__", {}), dict(names), include_extras=True)[
                name
            ]
        except Exception:  # noqa: BLE001 - an annotation is an expression, which may raise anything
            found[name] = Unresolved(str(annotation))
    return found


def accepts(annotation: object, given: type) -> bool:
    """Whether a parameter so annotated takes a ``given``. What cannot be told passes: type checkers see it."""
    if isinstance(annotation, Unresolved | TypeVar) or annotation is Any:
        return True
    origin = get_origin(annotation)
    if origin is Union or origin is UnionType:
        return any(accepts(arg, given) for arg in get_args(annotation))
    if origin is Annotated:
        return accepts(get_args(annotation)[0], given)
    if isinstance(origin, type):
        return issubclass(given, origin)
    return not isinstance(annotation, type) or issubclass(given, annotation)


def visible_names() -> dict[str, Any]:
    """The local names of the nearest caller outside Sojourn and pydantic."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(_FRAMEWORK):
        frame = frame.f_back
    return dict(frame.f_locals)


def _written(function: Callable[..., Any]) -> Mapping[str, Any]:
    if sys.version_info >= (3, 14):
        from annotationlib import Format, get_annotations

        return get_annotations(function, format=Format.FORWARDREF)
    return inspect.get_annotations(function)
