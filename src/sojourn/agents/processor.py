"""Runs an agent on the bus: the partition worker's view of an agent class."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Mapping
from contextlib import aclosing
from datetime import timedelta
from typing import Any, Literal

import structlog

from sojourn.agents.agent import Agent, spec_of_agent
from sojourn.agents.context import Context
from sojourn.agents.results import collect
from sojourn.agents.spec import Handler, Style
from sojourn.bus.errors import HandlerError
from sojourn.bus.event import Event
from sojourn.bus.processor import NOTHING, Output, Recorded, Resident, Retry, Turn
from sojourn.state.fold import JourneyState
from sojourn.state.journey import Journey

log = structlog.get_logger("sojourn.agent")


class AgentProcessor:
    """An agent class as a `Processor`, with its one instance. Raises `DefinitionError` for a class that is no agent."""

    def __init__(self, cls: type[Agent[Any]]) -> None:
        self.spec = spec = spec_of_agent(cls)
        self.agent = cls()
        self.handles: Mapping[str, type[Event]] = {name: handler.event for name, handler in spec.handlers.items()}
        evolvers = spec.journey.__sojourn_journey__.evolvers if spec.journey is not None else {}
        self.folds: Mapping[str, type[Event]] = {name: evolver.event for name, evolver in evolvers.items()}
        self.publishes: Mapping[str, type[Event]] = {
            name: event for handler in spec.handlers.values() for name, event in handler.publishes.items()
        }

    @property
    def kind(self) -> Literal["agent", "saga", "projection"]:
        return "agent"

    @property
    def writer(self) -> str:
        return self.spec.name

    @property
    def group(self) -> str:
        return self.spec.group

    @property
    def version(self) -> int:
        return self.spec.version

    @property
    def start(self) -> Literal["now", "beginning"]:
        return self.spec.start

    @property
    def retry(self) -> Retry:
        return self.spec.retry

    @property
    def timeout(self) -> timedelta:
        return self.spec.timeout

    @property
    def on_poison(self) -> Literal["dead", "park"]:
        return self.spec.on_poison

    @property
    def description(self) -> Mapping[str, Any]:
        journey = self.spec.journey
        return {
            "reference": self.spec.reference,
            "doc": self.spec.doc,
            "journey": f"{journey.__module__}:{journey.__qualname__}" if journey is not None else None,
            "start": self.spec.start,
            "timeout": self.spec.timeout.total_seconds(),
            "attempts": self.spec.retry.attempts,
            "on_poison": self.spec.on_poison,
            "handlers": [
                {
                    "event": name,
                    "method": handler.name,
                    "where": getattr(handler.where, "__name__", None),
                    "context": handler.needs_context,
                    "publishes": sorted(handler.publishes),
                }
                for name, handler in sorted(self.spec.handlers.items())
            ],
        }

    def open(self, key: str) -> Resident:
        journey = self.spec.journey
        return AgentResident(self, JourneyState(journey) if journey is not None else None)


class AgentResident:
    """An agent and one customer. Handlers that need no waiting are run, and their output returned, without a
    coroutine."""

    __slots__ = ("_processor", "_state")

    def __init__(self, processor: AgentProcessor, state: JourneyState[Journey] | None) -> None:
        self._processor = processor
        self._state = state

    def observe(self, recorded: Recorded) -> None:
        if self._state is not None:
            try:
                self._state.observe(recorded)
            finally:
                if self._state.failures:
                    self._report(self._state, recorded)

    def acted(self, recorded: Recorded, cause: int) -> None:
        if self._state is not None:
            self._state.acted(recorded, cause)

    def run(self, turn: Turn) -> Output | Awaitable[Output]:
        recorded = turn.recorded
        envelope = recorded.envelope
        processor = self._processor
        handler = processor.spec.handlers[envelope.type]
        arguments: list[object] = [envelope.event]
        if self._state is not None and handler.needs_journey:
            arguments.append(self._view(self._state, recorded))
        if handler.where is not None and not self._wanted(handler, recorded, arguments):
            return NOTHING
        context = None
        if handler.needs_context:
            context = Context(turn, processor.spec, handler)
            arguments.append(context)
        if handler.style is Style.COROUTINE or handler.style is Style.ASYNC_GENERATOR:
            return self._finish(handler, envelope.key, arguments, context)
        output = Output()
        try:
            collect(handler.function(processor.agent, *arguments), handler, processor.spec.name, envelope.key, output)
        finally:
            timers = context.end() if context is not None else []
        output.timers = timers
        return output or NOTHING

    async def _finish(self, handler: Handler, key: str, arguments: list[object], context: Context | None) -> Output:
        processor = self._processor
        output = Output()
        try:
            if handler.style is Style.COROUTINE:
                collect(await handler.function(processor.agent, *arguments), handler, processor.spec.name, key, output)
            else:
                yielded: AsyncGenerator[object, None] = handler.function(processor.agent, *arguments)
                async with aclosing(yielded):
                    async for item in yielded:
                        collect(item, handler, processor.spec.name, key, output)
        finally:
            timers = context.end() if context is not None else []
        output.timers = timers
        return output or NOTHING

    def _view(self, state: JourneyState[Journey], recorded: Recorded) -> Journey:
        journey = state.view(recorded.sequence)
        if state.failures:
            self._report(state, recorded)
        return journey

    def _report(self, state: JourneyState[Journey], recorded: Recorded) -> None:
        for error in state.failures:
            log.error(
                "the agent's own action cannot be folded and is left out of the journey",
                agent=self._processor.spec.name,
                customer=recorded.envelope.key,
                reason=str(error),
            )
        state.failures.clear()

    def _wanted(self, handler: Handler, recorded: Recorded, arguments: list[object]) -> bool:
        assert handler.where is not None
        if handler.where_needs_journey:
            assert self._state is not None
            journey = arguments[1] if len(arguments) > 1 else self._view(self._state, recorded)
            verdict = handler.where(arguments[0], journey)
        else:
            verdict = handler.where(arguments[0])
        if isinstance(verdict, Awaitable):
            raise HandlerError(
                f"{self._processor.spec.name}'s handler {handler.name} ({handler.line}): its where= returned something "
                "to await; it must be a plain function: decide in the handler instead"
            )
        return bool(verdict)
