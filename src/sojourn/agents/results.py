"""Takes what a handler returned or yielded apart, and holds it to what was announced."""

from __future__ import annotations

from collections.abc import Iterable

from sojourn.agents.spec import Handler
from sojourn.bus.errors import HandlerError
from sojourn.bus.event import Event, key_of
from sojourn.bus.processor import Output
from sojourn.bus.subjects import check_key


def collect(result: object, handler: Handler, agent: str, key: str, output: Output) -> None:
    """Adds the events in ``result`` to ``output``: none, one, or those of an iterable. ``key``: whose event is being
    handled. Raises `HandlerError`."""
    if result is None:
        return
    if isinstance(result, Event):
        if handler.publishes.get(type(result).__name__) is not type(result):
            raise HandlerError(_unannounced(result, handler, agent))
        whose = key_of(result)
        if whose == key:
            output.events.append(result)
        else:
            _check_other(result, whose, handler, agent)
            output.others.append(result)
    elif isinstance(result, Iterable) and not isinstance(result, (str, bytes, dict, set, frozenset)):
        for item in result:
            collect(item, handler, agent, key, output)
    else:
        raise HandlerError(
            f"{agent}'s handler {handler.name} ({handler.line}) returned a {type(result).__name__}, which is no event: "
            "return None, an event or a list of events"
        )


def _check_other(event: Event, key: str, handler: Handler, agent: str) -> None:
    try:
        check_key(key)
    except (ValueError, TypeError) as error:
        # Events are validated where they are made, but for `model_construct` and `model_copy(update=)`.
        raise HandlerError(
            f"{agent}'s handler {handler.name} ({handler.line}) published a {type(event).__name__} of another customer "
            f"whose key cannot be one: {error}"
        ) from error


def _unannounced(event: Event, handler: Handler, agent: str) -> str:
    name = type(event).__name__
    announced = " | ".join([*sorted(handler.publishes), name])
    if event.__sojourn__ is None:
        way_out = f"{name} is an abstract base: publish one of its subclasses"
    elif name in handler.publishes:
        way_out = f"the {name} it announces is another class of that name"
    else:
        way_out = f"announce it in the return annotation: -> {announced}"
    return (
        f"{agent}'s handler {handler.name} ({handler.line}) published a {name}, which it does not announce; {way_out}"
    )
