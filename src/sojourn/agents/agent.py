"""Agents: classes whose methods handle customers' events, and return what the agent does about them."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, overload

from sojourn.agents.context import Context
from sojourn.agents.inspection import inspect_agent
from sojourn.agents.spec import AgentSpec
from sojourn.bus.errors import DefinitionError
from sojourn.bus.event import Event
from sojourn.bus.origin import calling_line, line_of
from sojourn.bus.processor import Retry
from sojourn.state.annotations import visible_names
from sojourn.state.journey import Journey

if TYPE_CHECKING:
    # A default (PEP 696) lets type checkers take a bare `Agent` for one without a journey.
    from typing_extensions import TypeVar

    J = TypeVar("J", bound=Journey | None, default=None)
else:
    from typing import TypeVar

    J = TypeVar("J")

A = TypeVar("A", bound="Agent[Any]")
S = TypeVar("S", bound="Agent[Any]")
E = TypeVar("E", bound=Event)
X = TypeVar("X")
Did = None | Event | Iterable[Event | None]
"""What a handler returns or yields: nothing, one event, or several."""
R = TypeVar("R", bound=Did | Awaitable[Did] | AsyncIterable[Did] | Iterable[Did])


class Agent(Generic[J]):
    """A base for agents: ``Agent[Cart]`` follows each customer's `Cart`, a bare ``Agent`` keeps no journey.

    There is one instance per worker, made without arguments, and it handles many customers at once: what it must know
    of a customer belongs into the journey, not on ``self``.
    """

    __sojourn_agent__: ClassVar[AgentSpec]


def agent(
    name: str,
    *,
    version: int = 1,
    group: str | None = None,
    start: Literal["now", "beginning"] = "now",
    retry: Retry = Retry(),  # noqa: B008 - frozen
    timeout: timedelta = timedelta(minutes=1),
    on_poison: Literal["dead", "park"] = "dead",
) -> Callable[[type[A]], type[A]]:
    """Makes a class an agent, and checks it.

    ``name`` is unique in the namespace and stays for ever: it names the agent's lanes. ``version`` is that of its code.
    Agents of one ``group`` share a position; each is its own by default. ``start`` says where an agent that never ran
    begins: at the present, or at the beginning of the log. ``timeout`` bounds one call of a handler, ``retry`` says how
    often one that failed for a passing reason is called again. ``on_poison``: an event that cannot be handled becomes a
    dead letter and its customer goes on, or ("park") its customer's events wait until an operator decides.

    Raises `DefinitionError`, naming class and line.
    """
    if not isinstance(name, str):
        raise DefinitionError(f'{calling_line()}: @agent needs a name: @agent("win-back")')

    def decorate(cls: type[A]) -> type[A]:
        if not isinstance(cls, type) or not issubclass(cls, Agent):
            raise DefinitionError(
                f"{calling_line()}: @agent({name!r}) belongs on a class that derives from Agent, not on {cls!r}"
            )
        cls.__sojourn_agent__ = inspect_agent(
            cls,
            Agent,
            visible_names(),
            name=name,
            version=version,
            group=group,
            start=start,
            retry=retry,
            timeout=timeout,
            on_poison=on_poison,
        )
        return cls

    return decorate


class on(Generic[E]):  # noqa: N801 - a decorator
    """Marks the method of an `Agent` that handles an event type.

    In an agent with a journey it takes ``(self, event, journey, ctx)``, in one without ``(self, event, ctx)``;
    parameters at the end may be left out. It is a function, a coroutine function or a generator of either kind, and
    returns or yields nothing, an event or several; its return annotation says which types, since that is what the agent
    publishes. ``where`` is a pure predicate of ``(event, journey)`` or ``(event)``: where it says no, the handler is
    not called.
    """

    def __init__(self, event: type[E], *, where: Callable[[E], bool] | Callable[[E, Any], bool] | None = None) -> None:
        if not isinstance(event, type) or not issubclass(event, Event):
            raise DefinitionError(f"{calling_line()}: @on takes an event class, not {event!r}: @on(CartAbandoned)")
        if event.__sojourn__ is None:
            raise DefinitionError(
                f"{calling_line()}: @on({event.__name__}): {event.__name__} is an abstract base and no event: "
                "handle its subclasses, one method each"
            )
        self._event = event
        self._where = where

    @overload
    def __call__(self, handler: Callable[[S, E], R]) -> Callable[[S, E], R]: ...
    @overload
    def __call__(self, handler: Callable[[S, E, X], R]) -> Callable[[S, E, X], R]: ...
    @overload
    def __call__(self, handler: Callable[[S, E, X, Context], R]) -> Callable[[S, E, X, Context], R]: ...
    def __call__(self, handler: Callable[..., Any]) -> Callable[..., Any]:
        if not inspect.isfunction(handler):
            raise DefinitionError(
                f"{calling_line()}: @on({self._event.__name__}) belongs on a method, not on {handler!r}"
            )
        if hasattr(handler, "__handles__"):
            raise DefinitionError(
                f"{line_of(handler)}: {handler.__qualname__} has two @on: write a handler for each event type; "
                "they may call a third method"
            )
        handler.__handles__ = (self._event, self._where)  # type: ignore[attr-defined]  # read back by @agent
        return handler


def spec_of_agent(cls: type[Agent[Any]]) -> AgentSpec:
    """What `agent` found out about a class. Raises `DefinitionError` for one that it does not decorate."""
    if not isinstance(cls, type) or not issubclass(cls, Agent):
        raise DefinitionError(f"{cls!r} is no agent class: derive from Agent, and name it with @agent(...)")
    spec = vars(cls).get("__sojourn_agent__")
    if not isinstance(spec, AgentSpec):
        raise DefinitionError(f'{line_of(cls)}: class {cls.__name__} has no name yet: put @agent("a-name") above it')
    return spec
