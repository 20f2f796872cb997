"""Journeys: what is known of one customer, folded from the customer's events."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, TypeVar, overload

from pydantic import BaseModel, ConfigDict

from sojourn.bus.envelope import Envelope
from sojourn.bus.errors import DefinitionError, HandlerError, PermanentError
from sojourn.bus.event import Event
from sojourn.bus.origin import calling_line, line_of
from sojourn.bus.processor import Recorded
from sojourn.state.annotations import MISSING, Unresolved, accepts, annotations_of, visible_names
from sojourn.state.copying import copier

E = TypeVar("E", bound=Event)
J = TypeVar("J", bound="Journey")


class Evolver(NamedTuple):
    """How a journey takes one event type into account. ``enveloped``: the method takes the envelope too."""

    event: type[Event]
    method: Callable[..., None]
    enveloped: bool


class JourneySpec(NamedTuple):
    """What the framework knows of a journey class.

    ``evolvers`` by event type; ``copiers`` of those fields whose values must not be shared between two copies.
    """

    evolvers: dict[str, Evolver]
    fields: set[str]
    copiers: tuple[tuple[str, Callable[[Any], Any]], ...]


class _Evolving(threading.local):
    """The journey that may be assigned to: one at a time, for folds are synchronous."""

    journey: Journey | None = None


_evolving = _Evolving()
_set = object.__setattr__


class Journey(BaseModel):
    """What is known of one customer: fields with defaults, and `@evolve` methods that change them, event by event::

        class Cart(Journey):
            value: Decimal = Decimal(0)

            @evolve(CartUpdated)
            def updated(self, event: CartUpdated) -> None:
                self.value = event.value

    The methods are pure and synchronous: the same events must always make the same journey, so they take the time from
    the envelope (``def updated(self, event, envelope)``) and never from a clock. Outside them a journey cannot be
    assigned to. What they assign is not validated: type checkers see it, and a fold should cost next to nothing.

    Raises `DefinitionError` when the class is made.
    """

    model_config = ConfigDict(extra="forbid", validate_default=True)

    __sojourn_journey__: ClassVar[JourneySpec] = JourneySpec({}, set(), ())

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        cls.__sojourn_journey__ = _inspect(cls)

    # Hidden from type checkers, which would take it for leave to assign to names that are no fields.
    if not TYPE_CHECKING:

        def __setattr__(self, name: str, value: object) -> None:
            if _evolving.journey is not self:
                raise HandlerError(
                    f"{type(self).__name__}.{name} cannot be assigned to here: a journey changes only in its "
                    "@evolve methods. Return or publish an event, and let the journey evolve from it"
                )
            if name not in type(self).__sojourn_journey__.fields:
                raise AttributeError(
                    f"{type(self).__name__} has no field {name!r}: declare it in the class, with a default"
                )
            self.__dict__[name] = value

        def __delattr__(self, name: str) -> None:
            raise HandlerError(f"{type(self).__name__}.{name} cannot be deleted: a journey has all its fields, always")


def copied(journey: J) -> J:
    """Another journey with the same values; neither can change what the other holds."""
    cls = type(journey)
    spec = cls.__sojourn_journey__
    values = journey.__dict__.copy()
    if len(values) != len(spec.fields):  # cached properties live there too
        values = {name: values[name] for name in spec.fields}
    for name, copy in spec.copiers:
        values[name] = copy(values[name])
    new = cls.__new__(cls)
    _set(new, "__dict__", values)
    _set(new, "__pydantic_fields_set__", spec.fields)
    _set(new, "__pydantic_extra__", None)
    _set(new, "__pydantic_private__", None)
    return new


class evolve(Generic[E]):  # noqa: N801 - a decorator
    """Marks the method of a `Journey` that takes an event type into account: ``(self, event)`` or ``(self, event,
    envelope)``."""

    def __init__(self, event: type[E]) -> None:
        if not isinstance(event, type) or not issubclass(event, Event):
            raise DefinitionError(
                f"{calling_line()}: @evolve takes an event class, not {event!r}: @evolve(CartUpdated)"
            )
        if event.__sojourn__ is None:
            raise DefinitionError(
                f"{calling_line()}: @evolve({event.__name__}): {event.__name__} is an abstract base and no event: "
                "name one of its subclasses"
            )
        self._event = event

    @overload
    def __call__(self, method: Callable[[J, E], None]) -> Callable[[J, E], None]: ...
    @overload
    def __call__(self, method: Callable[[J, E, Envelope[E]], None]) -> Callable[[J, E, Envelope[E]], None]: ...
    def __call__(self, method: Callable[..., None]) -> Callable[..., None]:
        if not inspect.isfunction(method):
            raise DefinitionError(
                f"{calling_line()}: @evolve({self._event.__name__}) belongs on a method, not on {method!r}"
            )
        if hasattr(method, "__evolves__"):
            raise DefinitionError(
                f"{line_of(method)}: {method.__qualname__} has two @evolve: write a method for each event type; "
                "they may call a third"
            )
        method.__evolves__ = self._event  # type: ignore[attr-defined]  # read back when the class is made
        return method


def _evolve(journey: Journey, recorded: Recorded) -> None:
    """Lets ``journey``, which nobody else may hold, take one event into account. A type it does not evolve from
    changes nothing.

    Raises `PermanentError` where the method fails; the journey is then of no use any more.
    """
    envelope = recorded.envelope
    spec = journey.__sojourn_journey__
    evolver = spec.evolvers.get(envelope.type)
    if evolver is None:
        return
    values: dict[str, Any] = vars(journey)
    before = [values[name] for name, _ in spec.copiers]
    outer, _evolving.journey = _evolving.journey, journey
    try:
        if evolver.enveloped:
            returned: object = evolver.method(journey, envelope.event, envelope)
        else:
            returned = evolver.method(journey, envelope.event)
    except Exception as error:
        raise PermanentError(_failed(journey, evolver, recorded, f"{type(error).__name__}: {error}")) from error
    finally:
        _evolving.journey = outer
    if returned is not None:
        raise PermanentError(_failed(journey, evolver, recorded, "it returned a value; assign to self instead"))
    # What was assigned may be a list that the event holds too, and events are shown to others.
    for (name, copy), old in zip(spec.copiers, before, strict=True):
        if values[name] is not old or copy is not _SHALLOW:
            values[name] = copy(values[name])


def evolved(journey: J, recorded: Recorded) -> J:
    """The journey after one event; ``journey`` itself stays as it is, whatever happens. Raises `PermanentError`."""
    if recorded.envelope.type not in journey.__sojourn_journey__.evolvers:
        return journey
    after = copied(journey)
    _evolve(after, recorded)
    return after


_SHALLOW = copier(list[int])


def _failed(journey: Journey, evolver: Evolver, recorded: Recorded, why: str) -> str:
    return (
        f"{type(journey).__name__}.{evolver.method.__name__} ({line_of(evolver.method)}) failed on "
        f"{recorded.envelope.type} at sequence {recorded.sequence}: {why}"
    )


def _inspect(cls: type[Journey]) -> JourneySpec:
    where = f"{calling_line()}: class {cls.__name__}"
    if not cls.__pydantic_fields_complete__:
        raise DefinitionError(f"{where}: the type of a field is not known yet: define or import it above the journey")
    required = [name for name, info in cls.model_fields.items() if info.is_required()]
    if required:
        raise DefinitionError(
            f"{where}: a journey begins before its first event, so every field needs a default; "
            f"{', '.join(required)} {'has' if len(required) == 1 else 'have'} none: {required[0]}: ... = 0"
        )
    if cls.__private_attributes__:
        raise DefinitionError(
            f"{where}: a journey is its fields and nothing else; make {', '.join(cls.__private_attributes__)} a field "
            "(without the underscore), or a property that computes it"
        )
    try:
        cls()
    except Exception as error:
        raise DefinitionError(f"{where}: cannot be made from its defaults: {error}") from error
    copiers = ((name, copier(info.annotation)) for name, info in cls.model_fields.items())
    return JourneySpec(
        _evolvers(cls, where),
        set(cls.model_fields),
        tuple((name, copy) for name, copy in copiers if copy is not None),
    )


def _evolvers(cls: type[Journey], where: str) -> dict[str, Evolver]:
    # A method that a subclass overrides counts once, as the subclass has it.
    marked = {name for base in cls.__mro__ for name, value in vars(base).items() if hasattr(value, "__evolves__")}
    found: dict[str, Evolver] = {}
    for name in (name for base in reversed(cls.__mro__) for name in vars(base)):
        if name not in marked:
            continue
        marked.discard(name)
        method = getattr(cls, name)
        event = getattr(method, "__evolves__", None)
        if event is None:
            raise DefinitionError(f"{where}: {name} overrides an @evolve method: decorate it too, for the same event")
        other = found.get(event.__name__)
        if other is not None:
            raise DefinitionError(
                f"{line_of(method)}: class {cls.__name__}: {other.method.__name__} and {name} both evolve from "
                f"{event.__name__}: keep one method per event type"
            )
        found[event.__name__] = _evolver(cls, event, method)
    return found


def _evolver(cls: type[Journey], event: type[Event], method: Callable[..., None]) -> Evolver:
    where = f"{line_of(method)}: {cls.__name__}.{method.__name__}"
    if inspect.iscoroutinefunction(method) or inspect.isasyncgenfunction(method) or inspect.isgeneratorfunction(method):
        raise DefinitionError(
            f"{where}: a fold is a plain synchronous function, so neither async nor yield: it only assigns to self"
        )
    parameters = list(inspect.signature(method).parameters.values())
    plain = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    if len(parameters) not in (2, 3) or any(p.kind not in plain for p in parameters):
        raise DefinitionError(f"{where}: an @evolve method takes (self, event) or (self, event, envelope)")
    written = annotations_of(method, visible_names())
    said = written.get(parameters[1].name, MISSING)
    if not accepts(said, event):
        raise DefinitionError(
            f"{where}: @evolve({event.__name__}) hands it a {event.__name__}, but {parameters[1].name} is annotated as "
            f"{getattr(said, '__name__', said)}"
        )
    if len(parameters) == 3:
        envelope = written.get(parameters[2].name, MISSING)
        if isinstance(envelope, type) and envelope is not Any and not issubclass(envelope, Envelope):
            raise DefinitionError(
                f"{where}: the third parameter is the envelope: {parameters[2].name}: Envelope[{event.__name__}]"
            )
    returned = written.get("return", type(None))
    if not isinstance(returned, Unresolved) and returned not in (type(None), None, Any):
        raise DefinitionError(f"{where}: an @evolve method returns nothing: it assigns to self (-> None)")
    return Evolver(event, method, len(parameters) == 3)
