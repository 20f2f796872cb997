"""What a handler may ask for while it runs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from datetime import UTC, datetime
from typing import Any, ParamSpec, TypeVar, overload

import structlog
from structlog.typing import FilteringBoundLogger

from sojourn.agents.journal import journal
from sojourn.agents.spec import AgentSpec, Handler, Style
from sojourn.bus.envelope import Envelope
from sojourn.bus.errors import ClosedError, ConfigurationError, HandlerError
from sojourn.bus.event import Event, key_of
from sojourn.bus.naming import check_token
from sojourn.bus.processor import CancelTimer, SetTimer, Turn

P = ParamSpec("P")
R = TypeVar("R")

LATEST = datetime(2262, 1, 1, tzinfo=UTC)
"""The end of time for timers: the server counts nanoseconds in 64 bits, which ends that year."""


class Context:
    """One handling of one event: the time, the log, journalled calls and timers. It ends with its handler."""

    __slots__ = ("_agent", "_calls", "_handler", "_ids", "_log", "_timers", "_turn")

    def __init__(self, turn: Turn, agent: AgentSpec, handler: Handler) -> None:
        self._turn: Turn | None = turn
        self._agent = agent
        self._handler = handler
        self._log: FilteringBoundLogger | None = None
        self._timers: list[SetTimer | CancelTimer] = []
        self._calls = 0
        self._ids = 0

    @property
    def now(self) -> datetime:
        """The present, in UTC; in simulation, replay and tests the event's own time. Use no other clock."""
        return self._open().now

    @property
    def envelope(self) -> Envelope[Event]:
        """The event with its metadata: id, time, source, correlation, cause."""
        return self._open().recorded.envelope

    @property
    def attempt(self) -> int:
        """1 at the first call for this event, and one more at each retry."""
        return self._open().attempt

    @property
    def log(self) -> FilteringBoundLogger:
        """A structlog logger that knows the customer, the agent, the envelope id and the correlation id."""
        envelope = self._open().recorded.envelope
        if self._log is None:
            logger: FilteringBoundLogger = structlog.get_logger()
            self._log = logger.bind(
                customer=envelope.key,
                agent=self._agent.name,
                envelope=envelope.id,
                correlation=envelope.correlation_id,
            )
        return self._log

    @overload
    def once(self, fn: Callable[P, Awaitable[R]], *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]: ...
    @overload
    def once(self, fn: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]: ...
    def once(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Coroutine[Any, Any, Any]:
        """Calls ``fn`` once for this event, whatever happens after: ``price = await ctx.once(fetch_price,
        event.product)``.

        The result is stored before this returns, and a later attempt gets the stored one. It travels as JSON and is
        revived by the return annotation of ``fn``, which is required. For calls that cost money or change something
        elsewhere; a call that was under way when the process died is made again. A plain function runs in a thread, so
        that it may block.

        Raises `HandlerError`, and whatever ``fn`` raises.
        """
        turn = self._open()
        if self._handler.style in (Style.FUNCTION, Style.GENERATOR):
            raise HandlerError(f"{self._where()} cannot await ctx.once: write it as `async def`")
        self._calls += 1
        return journal(turn, self._calls, fn, args, kwargs)

    def uuid(self) -> str:
        """A new identifier at each call, and the same ones in the same order on every attempt: an idempotency key."""
        turn = self._open()
        self._ids += 1
        return turn.id("uuid", self._ids)

    def later(self, event: Event, *, at: datetime, name: str) -> None:
        """Hands ``event`` to this agent's own handler for its type at ``at``, however long that is and whatever
        restarts.

        A timer belongs to the customer and to ``name`` (a-z, 0-9, ``-``); setting it again replaces it. A time that has
        passed means at once. The timer is set when the handler has ended well, together with what it publishes. Raises
        `HandlerError`.
        """
        turn = self._open()
        name = self._checked(name)
        if not isinstance(event, Event):
            raise HandlerError(f"{self._where()}: ctx.later takes an event, not {_kind(event)}")
        if type(event).__name__ not in self._agent.handlers or self._agent.handlers[
            type(event).__name__
        ].event is not type(event):
            raise HandlerError(
                f"{self._where()}: ctx.later({type(event).__name__}) would come back to nobody: "
                f"give {self._agent.name} a handler with @on({type(event).__name__})"
            )
        key = turn.recorded.envelope.key
        if key_of(event) != key:
            raise HandlerError(
                f"{self._where()}: ctx.later got a {type(event).__name__} of customer {key_of(event)!r} while handling "
                f"{key!r}: a timer belongs to the customer whose event is being handled"
            )
        self._timers.append(SetTimer(name, event, self._moment(turn, at)))

    def cancel(self, name: str) -> None:
        """Drops the timer of that name; one that is not open is no error, and costs nothing. Raises `HandlerError`."""
        if self.timer(name) is not None:
            self._timers.append(CancelTimer(name))

    def timer(self, name: str) -> datetime | None:
        """When the timer of that name is due; None where none is open. Knows what this handler set and cancelled."""
        turn = self._open()
        name = self._checked(name)
        for change in reversed(self._timers):
            if change.name == name:
                return change.at if isinstance(change, SetTimer) else None
        return turn.timer(name)

    def _moment(self, turn: Turn, at: datetime) -> datetime:
        if not isinstance(at, datetime):
            raise HandlerError(f"{self._where()}: at={at!r} is no datetime: at=ctx.now + days(3)")
        if at.tzinfo is None or at.utcoffset() is None:
            raise HandlerError(
                f"{self._where()}: at={at.isoformat()} does not say in which time zone: "
                "use ctx.now + days(3), or give it a tzinfo"
            )
        try:
            at = at.astimezone(UTC)
        except OverflowError:
            at = datetime.max.replace(tzinfo=UTC) if at.year > 5000 else datetime.min.replace(tzinfo=UTC)
        if at >= LATEST:
            raise HandlerError(f"{self._where()}: at={at.isoformat()} is too far away: timers end before {LATEST:%Y}")
        return max(at, turn.now)  # time does not go back for whoever handles it

    def _checked(self, name: str) -> str:
        try:
            return check_token("timer", name)
        except ConfigurationError as error:
            raise HandlerError(f"{self._where()}: {error}") from error

    def _where(self) -> str:
        return f"{self._agent.name}'s handler {self._handler.name} ({self._handler.line})"

    def _open(self) -> Turn:
        if self._turn is None:
            raise ClosedError(
                f"{self._where()} has ended, and its context with it: await what you start before the handler returns"
            )
        return self._turn

    def end(self) -> list[SetTimer | CancelTimer]:
        """Ends it, as its handler ended, and returns the timers set and cancelled. Not for handlers."""
        self._turn = None
        return self._timers


def _kind(thing: object) -> str:
    name = type(thing).__name__
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"
