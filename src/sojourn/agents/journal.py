"""Calls that are made once: their results travel as JSON, typed by the return annotation of the function called."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, get_args, get_origin

from pydantic import TypeAdapter
from pydantic_core import PydanticSerializationError, ValidationError

from sojourn.bus.errors import HandlerError
from sojourn.bus.origin import line_of
from sojourn.bus.processor import Turn
from sojourn.state.annotations import MISSING, Unresolved, annotations_of


async def journal(
    turn: Turn, position: int, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Any:  # noqa: ANN401 - typed where it is called
    """The journalled result of the ``position``-th call of this turn.

    Its name is position and function, so that code which calls something else there does not get the wrong result.
    """
    function = _function(fn)
    name = getattr(function, "__name__", type(fn).__name__)
    adapter, awaits = _result(function)

    async def call() -> bytes:
        if awaits or inspect.iscoroutinefunction(function):
            result = await fn(*args, **kwargs)
        else:
            result = await asyncio.to_thread(fn, *args, **kwargs)
        try:
            return adapter.dump_json(result, warnings="error", by_alias=True)
        except (PydanticSerializationError, ValueError) as error:
            raise HandlerError(
                f"ctx.once({name}): the result, a {type(result).__name__}, does not fit the return annotation "
                f"({line_of(function)}) or has no JSON: {error}"
            ) from error

    stored = await turn.once(f"{position}-{name}", call)
    try:
        return adapter.validate_json(stored)
    except ValidationError as error:
        raise HandlerError(
            f"ctx.once({name}): the stored result does not fit the return annotation ({line_of(function)}), "
            f"in {error.error_count()} place(s): give the changed function another name"
        ) from error


def _function(fn: Callable[..., Any]) -> Callable[..., Any]:
    """The function that carries name and annotations: behind a partial, a bound method or a callable object."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    if inspect.ismethod(fn):
        return fn.__func__
    if inspect.isfunction(fn) or inspect.isbuiltin(fn) or isinstance(fn, type):
        return fn
    call = getattr(type(fn), "__call__", None)  # noqa: B004 - the function itself is wanted
    return call if inspect.isfunction(call) else fn


@functools.lru_cache(maxsize=1024)
def _result(function: Callable[..., Any]) -> tuple[TypeAdapter[Any], bool]:
    """What revives a function's result, and whether a plain call returns something to await."""
    name = getattr(function, "__name__", repr(function))
    returned = MISSING if isinstance(function, type) else annotations_of(function, {}).get("return", MISSING)
    if returned is MISSING:
        raise HandlerError(
            f"ctx.once({name}): {name} ({line_of(function)}) needs a return annotation, which says how its result "
            "comes back from the log: def price(product: str) -> Decimal"
        )
    if isinstance(returned, Unresolved):
        raise HandlerError(
            f"ctx.once({name}): the return annotation {returned.text!r} ({line_of(function)}) is not known at run "
            "time: import it plainly, at the top of its module"
        )
    awaits = False
    origin, given = get_origin(returned), get_args(returned)
    if origin in (Awaitable, Coroutine):
        returned, awaits = given[-1], True
    try:
        return TypeAdapter(returned), awaits
    except (NameError, TypeError, ValueError, RuntimeError) as error:
        raise HandlerError(
            f"ctx.once({name}): a {returned} ({line_of(function)}) cannot be kept as JSON: {error}"
        ) from error
