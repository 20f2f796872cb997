"""What is known of an agent class once it is made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Any, Literal

from sojourn.bus.event import Event
from sojourn.bus.processor import Retry
from sojourn.state.journey import Journey


class Style(StrEnum):
    """How a handler is written."""

    FUNCTION = "function"
    COROUTINE = "coroutine"
    GENERATOR = "generator"
    ASYNC_GENERATOR = "async generator"


@dataclass(frozen=True, slots=True)
class Handler:
    """A method that handles one event type.

    ``arguments`` counts those it takes after self: the event, then in an agent with a journey the journey, then the
    context. ``needs_journey`` and ``needs_context`` say which of those it has; ``where_needs_journey`` speaks for its
    predicate. ``publishes`` holds what its return annotation announces, by type. ``line`` is where it was written.
    """

    event: type[Event]
    name: str
    function: Callable[..., Any]
    style: Style
    arguments: int
    needs_journey: bool
    needs_context: bool
    where: Callable[..., Any] | None
    where_needs_journey: bool
    publishes: Mapping[str, type[Event]]
    line: str


@dataclass(frozen=True, slots=True)
class AgentSpec:
    """An agent as `agent` made it. ``group`` is whose position it shares, its own name by default; ``handlers`` by
    event type."""

    name: str
    version: int
    group: str
    start: Literal["now", "beginning"]
    retry: Retry
    timeout: timedelta
    on_poison: Literal["dead", "park"]
    journey: type[Journey] | None
    handlers: Mapping[str, Handler]
    reference: str
    doc: str
    line: str
