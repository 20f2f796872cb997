"""What a handler's return annotation announces."""

from __future__ import annotations

import types
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Collection,
    Generator,
    Iterable,
    Iterator,
    Sequence,
)
from types import NoneType
from typing import Annotated, Never, NoReturn, Union, get_args, get_origin

from sojourn.bus.errors import DefinitionError
from sojourn.bus.event import Event
from sojourn.state.annotations import MISSING, Unresolved

_MANY = (list, tuple, Iterable, Iterator, Sequence, Collection, AsyncIterable, AsyncIterator)
_GENERATORS = (Generator, AsyncGenerator)  # of what they yield, are sent and return, only the first is published


def announced(annotation: object, where: str) -> dict[str, type[Event]]:
    """The event types in a return annotation, by name. Raises `DefinitionError`; ``where`` begins its message."""
    if annotation is MISSING:
        raise DefinitionError(
            f"{where}: its return annotation is missing, which says what the agent publishes: "
            "-> DiscountOffered | None, or -> None where it publishes nothing"
        )
    found: dict[str, type[Event]] = {}
    _collect(annotation, where, found)
    return found


def _collect(annotation: object, where: str, found: dict[str, type[Event]]) -> None:
    if isinstance(annotation, Unresolved):
        raise DefinitionError(
            f"{where}: {annotation.text!r} in its return annotation is not known at run time: import it plainly"
        )
    origin, args = get_origin(annotation), get_args(annotation)
    if annotation in (None, NoneType, Never, NoReturn):
        return
    alias = getattr(annotation, "__value__", None)  # `type Offers = ...`, Python 3.12
    if alias is not None:
        _collect(alias, where, found)
    elif isinstance(annotation, type) and issubclass(annotation, Event) and origin is None:
        if annotation.__sojourn__ is None:
            raise DefinitionError(
                f"{where}: {annotation.__name__} in its return annotation is an abstract base: "
                "name the events that it publishes"
            )
        other = found.setdefault(annotation.__name__, annotation)
        if other is not annotation:
            raise DefinitionError(f"{where}: its return annotation names two different classes {annotation.__name__}")
    elif origin is Union or origin is types.UnionType or origin in _MANY:
        for arg in args:
            if arg is not ...:
                _collect(arg, where, found)
    elif origin is Annotated or origin in _GENERATORS:
        _collect(args[0], where, found)
    else:
        said = annotation.__name__ if isinstance(annotation, type) and origin is None else str(annotation)
        raise DefinitionError(
            f"{where}: its return annotation says {said}, where it should say what the agent publishes: "
            "an event type, several of them (A | B), an iterable of them (list[A]), or None"
        )
