"""Upcasters: pure functions that bring the data of an older version of an event up to the next one.

They are applied on reading, everywhere, so that handlers and folds only ever meet the version that the code defines,
and the log stays as it was written.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from sojourn.bus.errors import DefinitionError, SchemaError
from sojourn.bus.event import Event, names_read, spec_of
from sojourn.bus.origin import calling_line, line_of

Upcaster = Callable[[dict[str, Any]], dict[str, Any]]
"""Takes the data of one version, as JSON holds it (by alias, decimals and moments as text), and returns that of the
next."""

F = TypeVar("F", bound=Upcaster)


def upcast(event: type[Event], *, from_version: int) -> Callable[[F], F]:
    """Marks the function that makes data of version ``from_version + 1`` out of data of ``from_version``::

        @upcast(CartAbandoned, from_version=1)
        def with_currency(data: dict[str, Any]) -> dict[str, Any]:
            return {**data, "currency": "EUR"}

    It may change the dictionary it is given, and depends on nothing else: the same data make the same event, today and
    in a year. Personal fields come in plain, and as None once the customer was erased. A chain is applied step by step;
    versions that later ones read as they are need no step. Raises `DefinitionError`.
    """
    if not isinstance(event, type) or not issubclass(event, Event):
        raise DefinitionError(f"{calling_line()}: @upcast takes an event class, not {event!r}: @upcast(CartAbandoned)")
    where = f"{calling_line()}: @upcast({event.__name__}, from_version={from_version!r})"
    version = spec_of(event).version
    if isinstance(from_version, bool) or not isinstance(from_version, int) or from_version < 1:
        raise DefinitionError(f"{where}: a version is a whole number from 1")
    if from_version >= version:
        raise DefinitionError(
            f"{where}: the class is version {version}, so there is nothing to bring up to: upcasters begin at an older "
            f"version; raise it with class {event.__name__}(Event, version={from_version + 1})"
        )

    def decorate(function: F) -> F:
        _check(function, where)
        known = event.__sojourn_upcasters__.setdefault(from_version, function)
        if known is not function:
            raise DefinitionError(f"{where}: {line_of(known)} reads that version already: keep one of the two")
        return function

    return decorate


def upcasted(cls: type[Event], data: dict[str, Any], version: int) -> dict[str, Any]:
    """The data of an older ``version`` as the class's own version has them. Raises `SchemaError` where an upcaster
    fails, or makes the event another customer's, without anything of the data in its message."""
    upcasters = cls.__sojourn_upcasters__
    customer = _customer(cls, data)
    for number in range(version, spec_of(cls).version) if upcasters else ():
        upcaster = upcasters.get(number)
        if upcaster is None:
            continue
        try:
            data = upcaster(data)
        # One that calls exit() would end every worker that meets this event.
        except (Exception, SystemExit) as error:
            raise SchemaError(
                f"the upcaster of {cls.__name__} from version {number} ({line_of(upcaster)}) failed with "
                f"{type(error).__name__}"
            ) from error
        if not isinstance(data, dict):
            raise SchemaError(
                f"the upcaster of {cls.__name__} from version {number} ({line_of(upcaster)}) returned "
                f"{type(data).__name__}: it has to return the data of version {number + 1}, a dictionary"
            )
        if customer is not None and _customer(cls, data) != customer:
            raise SchemaError(
                f"the upcaster of {cls.__name__} from version {number} ({line_of(upcaster)}) changed "
                f"{spec_of(cls).key_field}, the customer: events stay in the journey that they were filed in"
            )
    return data


def _customer(cls: type[Event], data: dict[str, Any]) -> object:
    field = spec_of(cls).key_field
    return next((data[name] for name in (*names_read(cls.model_fields[field]), field) if name in data), None)


def _check(function: object, where: str) -> None:
    if not inspect.isfunction(function):
        raise DefinitionError(f"{where} belongs on a function, not on {function!r}")
    if (
        inspect.iscoroutinefunction(function)
        or inspect.isgeneratorfunction(function)
        or inspect.isasyncgenfunction(function)
    ):
        raise DefinitionError(f"{where}: an upcaster is a plain function of the data: neither async nor yield")
    parameters = list(inspect.signature(function).parameters.values())
    plain = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    needed = [p for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if not parameters or parameters[0].kind not in plain or len(needed) > 1:
        raise DefinitionError(f"{where}: an upcaster takes the data and nothing else: def {function.__name__}(data)")
