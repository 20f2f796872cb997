"""Checks an agent class when it is made: every complaint names the class, the line and the way out."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from datetime import timedelta
from types import NoneType
from typing import Any, Literal, TypeVar, get_args, get_origin

from sojourn.agents.announced import announced
from sojourn.agents.context import Context
from sojourn.agents.spec import AgentSpec, Handler, Style
from sojourn.bus.errors import ConfigurationError, DefinitionError
from sojourn.bus.event import Event
from sojourn.bus.naming import check_token
from sojourn.bus.origin import calling_line, line_of
from sojourn.bus.processor import Retry
from sojourn.state.annotations import MISSING, accepts, annotations_of
from sojourn.state.journey import Journey

_PLAIN = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def inspect_agent(
    cls: type,
    base: type,
    names: Mapping[str, Any],
    *,
    name: str,
    version: int,
    group: str | None,
    start: Literal["now", "beginning"],
    retry: Retry,
    timeout: timedelta,
    on_poison: Literal["dead", "park"],
) -> AgentSpec:
    """The spec of an agent class. ``base`` is `Agent`, ``names`` those visible where the class is made. Raises
    `DefinitionError`."""
    line = calling_line()
    where = f"{line}: class {cls.__name__}"
    try:
        check_token("agent", name)
        check_token("group", group if group is not None else name)
    except ConfigurationError as error:
        raise DefinitionError(f"{where}: {error}") from error
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise DefinitionError(f"{where}: version={version!r} is not a whole number from 1")
    if start not in ("now", "beginning"):
        raise DefinitionError(f'{where}: start={start!r} is neither "now" nor "beginning"')
    if not isinstance(retry, Retry) or retry.attempts < 1:
        raise DefinitionError(f"{where}: retry={retry!r} is no Retry with at least one attempt")
    if not isinstance(timeout, timedelta) or timeout <= timedelta(0):
        raise DefinitionError(f"{where}: timeout={timeout!r} is no time span above zero: timeout=minutes(1)")
    if on_poison not in ("dead", "park"):
        raise DefinitionError(f'{where}: on_poison={on_poison!r} is neither "dead" nor "park"')
    needed = [p.name for p in inspect.signature(cls).parameters.values() if p.default is p.empty and p.kind in _PLAIN]
    if needed:
        raise DefinitionError(
            f"{where}: a worker makes its agents itself, without arguments, and {cls.__name__} wants "
            f"{', '.join(needed)}: give them defaults"
        )
    journey = _journey(cls, base, where)
    handlers: dict[str, Handler] = {}
    for method, event, predicate in _marked(cls, where):
        handler = _handler(cls, event, method, predicate, journey, names)
        other = handlers.get(event.__name__)
        if other is not None:
            raise DefinitionError(
                f"{handler.line}: class {cls.__name__}: {other.name} and {handler.name} both handle {event.__name__}: "
                "keep one handler per event type; it may call other methods"
            )
        handlers[event.__name__] = handler
    if not handlers:
        raise DefinitionError(f"{where}: handles nothing: put @on(SomeEvent) above a method")
    return AgentSpec(
        name=name,
        version=version,
        group=group if group is not None else name,
        start=start,
        retry=retry,
        timeout=timeout,
        on_poison=on_poison,
        journey=journey,
        handlers=handlers,
        reference=f"{cls.__module__}:{cls.__qualname__}",
        doc=inspect.cleandoc(cls.__doc__ or "").split("\n\n")[0].replace("\n", " "),
        line=line,
    )


def _journey(cls: type, base: type, where: str) -> type[Journey] | None:
    for ancestor in cls.__mro__:
        for generic in vars(ancestor).get("__orig_bases__", ()):
            origin, args = get_origin(generic), get_args(generic)
            if not isinstance(origin, type) or not issubclass(origin, base):
                continue
            arg = args[0]
            if arg is NoneType or arg is None:
                return None
            if isinstance(arg, TypeVar):  # a generic base in between: the class that fills it in comes first
                continue
            if not isinstance(arg, type) or not issubclass(arg, Journey):
                raise DefinitionError(f"{where}: Agent[...] takes a Journey class, not {arg!r}")
            if not arg.__sojourn_journey__.evolvers:
                raise DefinitionError(
                    f"{where}: {arg.__name__} never changes: give it @evolve methods, or write a bare Agent"
                )
            return arg
    return None


def _marked(cls: type, where: str) -> list[tuple[Callable[..., Any], type[Event], Callable[..., Any] | None]]:
    found = []
    seen = set()
    for ancestor in reversed(cls.__mro__):
        for name, value in vars(ancestor).items():
            if not hasattr(value, "__handles__") or name in seen:
                continue
            seen.add(name)
            method = getattr(cls, name)  # as a subclass may have overridden it
            if not hasattr(method, "__handles__"):
                raise DefinitionError(f"{where}: {name} overrides a handler: put @on(...) above it too")
            event, predicate = method.__handles__
            found.append((method, event, predicate))
    return found


def _handler(
    cls: type,
    event: type[Event],
    method: Callable[..., Any],
    predicate: Callable[..., Any] | None,
    journey: type[Journey] | None,
    names: Mapping[str, Any],
) -> Handler:
    line = line_of(method)
    where = f"{line}: {cls.__name__}.{method.__name__}"
    most = 3 if journey is not None else 2
    shape = "(self, event, journey, ctx)" if journey is not None else "(self, event, ctx)"
    parameters = list(inspect.signature(method).parameters.values())[1:]
    if not 1 <= len(parameters) <= most or any(p.kind not in _PLAIN for p in parameters):
        hint = (
            ""
            if journey is not None or len(parameters) != 3
            else f"; with a journey, derive {cls.__name__} from Agent[Cart]"
        )
        raise DefinitionError(f"{where}: a handler takes {shape}, of which the last may be left out{hint}")
    written = annotations_of(method, names)
    said = [written.get(p.name, MISSING) for p in parameters]
    if not accepts(said[0], event):
        raise DefinitionError(
            f"{where}: @on({event.__name__}) hands it a {event.__name__}, but {parameters[0].name} is {_name(said[0])}"
        )
    if journey is not None and len(said) > 1 and not accepts(said[1], journey):
        hint = (
            f"write {shape}"
            if said[1] is Context
            else f"annotate it as {journey.__name__}, or derive from Agent[{_name(said[1])}]"
        )
        raise DefinitionError(
            f"{where}: its second parameter is the journey, a {journey.__name__}, but {parameters[1].name} is "
            f"{_name(said[1])}: {hint}"
        )
    if len(said) == most and not accepts(said[-1], Context):
        hint = ""
        if journey is None and isinstance(said[-1], type) and issubclass(said[-1], Journey):
            hint = f"; for a journey, derive {cls.__name__} from Agent[{said[-1].__name__}]"
        raise DefinitionError(
            f"{where}: its last parameter is the Context, but {parameters[-1].name} is {_name(said[-1])}{hint}"
        )
    if journey is not None and len(said) == 2 and said[1] is MISSING and parameters[1].name in ("ctx", "context"):
        raise DefinitionError(f"{where}: its second parameter is the journey, whatever its name: write {shape}")
    return Handler(
        event=event,
        name=method.__name__,
        function=method,
        style=_style(method),
        arguments=len(parameters),
        needs_journey=journey is not None and len(parameters) > 1,
        needs_context=len(parameters) == most,
        where=predicate,
        where_needs_journey=predicate is not None
        and _predicate_arguments(predicate, event, journey, where, names) == 2,
        publishes=announced(written.get("return", MISSING), where),
        line=line,
    )


def _predicate_arguments(
    predicate: Callable[..., Any],
    event: type[Event],
    journey: type[Journey] | None,
    where: str,
    names: Mapping[str, Any],
) -> int:
    if not callable(predicate):
        raise DefinitionError(f"{where}: where={predicate!r} cannot be called")
    name = getattr(predicate, "__name__", repr(predicate))
    if inspect.iscoroutinefunction(predicate) or inspect.isasyncgenfunction(predicate):
        raise DefinitionError(
            f"{where}: where={name} is asynchronous; it must be a plain function: decide in the handler instead"
        )
    try:
        parameters = list(inspect.signature(predicate).parameters.values())
    except (ValueError, TypeError) as error:
        raise DefinitionError(
            f"{where}: where={name} hides what it takes; wrap it in a function of (event, journey)"
        ) from error
    needed = [p for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    most = 2 if journey is not None else 1
    shape = "(event, journey) or (event)" if journey is not None else "(event): the agent has no journey"
    if not 1 <= len(needed) <= most or any(p.kind not in _PLAIN for p in needed):
        raise DefinitionError(f"{where}: where={name} must take {shape}")
    written = annotations_of(predicate, names) if inspect.isfunction(predicate) else {}
    for parameter, given in zip(needed, (event, journey), strict=False):
        said = written.get(parameter.name, MISSING)
        if given is not None and not accepts(said, given):
            raise DefinitionError(
                f"{where}: where={name} is given a {given.__name__}, but its {parameter.name} is {_name(said)}"
            )
    return len(needed)


def _style(method: Callable[..., Any]) -> Style:
    if inspect.iscoroutinefunction(method):
        return Style.COROUTINE
    if inspect.isasyncgenfunction(method):
        return Style.ASYNC_GENERATOR
    return Style.GENERATOR if inspect.isgeneratorfunction(method) else Style.FUNCTION


def _name(said: object) -> str:
    return said.__name__ if isinstance(said, type) else str(said)
