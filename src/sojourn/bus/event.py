"""Events: facts about the past, as frozen pydantic models."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Annotated, Any, ClassVar, NamedTuple

from pydantic import AfterValidator, AliasChoices, BaseModel, ConfigDict, GetJsonSchemaHandler
from pydantic.fields import FieldInfo
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from sojourn.bus.defaults import check_defaults
from sojourn.bus.errors import DefinitionError
from sojourn.bus.naming import is_fact, suggest_fact
from sojourn.bus.origin import calling_line
from sojourn.bus.personal.definition import check_personal
from sojourn.bus.personal.written import check_written, personal_names
from sojourn.bus.schemas.compatibility import Level
from sojourn.bus.subjects import check_key


class _KeyMark:
    """Marks the field that says whose journey an event belongs to."""

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {**handler(schema), "minLength": 1, "x-sojourn-key": True}


Key = Annotated[str, AfterValidator(check_key), _KeyMark()]
"""The customer an event belongs to, the unit of order: any text of 1 to 512 bytes once escaped
(`subjects.escape_key`)."""


class EventSpec(NamedTuple):
    """What the bus knows of an event class. ``type`` is the class's name, ``version`` that of its schema, from 1.

    ``personal`` names the fields that hold personal data, themselves or somewhere in them. ``owner`` and
    ``compatibility`` are what the class declares for the schema registry, None where it declares nothing. ``marker`` is
    what a document of this version holds on the wire.
    """

    type: str
    version: int
    key_field: str
    personal: tuple[str, ...]
    owner: str | None
    compatibility: Level | None
    marker: bytes


class Event(BaseModel):
    """A fact that happened to one customer.

    Subclasses are named in the past tense and have exactly one `Key` field::

        class CartAbandoned(Event, version=2):
            customer_id: Key
            cart_value: Decimal

    Class arguments: ``version`` of the schema, from 1; ``abstract=True`` for a base that is no event itself;
    ``fact=True`` to vouch for a name that the past-tense check does not know; ``owner``, who decides about the schema,
    and ``compatibility``, how it may change (`Level`, BACKWARD by default), which subclasses inherit. Raises
    `DefinitionError`.
    """

    model_config = ConfigDict(
        frozen=True,
        # NaN and infinities have no JSON: refused when made, not when somebody reads them back.
        allow_inf_nan=False,
        validate_by_name=True,
        validate_by_alias=True,
        # Errors end up in logs and dead letters, and what an event holds may be personal.
        hide_input_in_errors=True,
    )

    __sojourn__: ClassVar[EventSpec | None] = None
    __sojourn_declared__: ClassVar[tuple[str | None, Level | None]] = (None, None)
    __sojourn_upcasters__: ClassVar[dict[int, Callable[[dict[str, Any]], dict[str, Any]]]] = {}

    def __init_subclass__(
        cls,
        *,
        version: int = 1,
        abstract: bool = False,
        fact: bool = False,
        owner: str | None = None,
        compatibility: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init_subclass__(**kwargs)

    @classmethod
    def __pydantic_init_subclass__(
        cls,
        *,
        version: int = 1,
        abstract: bool = False,
        fact: bool = False,
        owner: str | None = None,
        compatibility: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        inherited = cls.__sojourn_declared__
        cls.__sojourn_declared__ = (
            _checked_owner(cls, owner) if owner is not None else inherited[0],
            _checked_level(cls, compatibility) if compatibility is not None else inherited[1],
        )
        cls.__sojourn_upcasters__ = {}
        # ItemBought[Book] is no event of its own, since its name is no type: class BookBought(ItemBought[Book]) is.
        parametrised = cls.__pydantic_generic_metadata__["origin"] is not None
        cls.__sojourn__ = None if abstract or parametrised else _inspect(cls, version, fact)

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        """What `repr` shows: personal values not, since it ends up in logs, tracebacks and dead letters."""
        hidden = self.__sojourn__.personal if self.__sojourn__ is not None else ()
        for name, value in super().__repr_args__():
            yield name, HIDDEN if name in hidden and value is not None else value


class _Hidden:
    def __repr__(self) -> str:
        return "•••"


HIDDEN = _Hidden()
"""Stands for a personal value wherever something is shown."""


def spec_of(event: Event | type[Event]) -> EventSpec:
    """The spec of an event or event class; `DefinitionError` for an abstract one."""
    spec = event.__sojourn__
    if spec is None:
        name = event.__name__ if isinstance(event, type) else type(event).__name__
        raise DefinitionError(f"{name} is an abstract base and no event: use one of its subclasses")
    return spec


def key_of(event: Event) -> str:
    """The customer that the event belongs to."""
    key: str = getattr(event, spec_of(event).key_field)
    return key


def holds_personal(event: Event) -> bool:
    """Whether one of its personal fields may hold something."""
    return any(getattr(event, name) is not None for name in spec_of(event).personal)


def _checked_owner(cls: type[Event], owner: str) -> str:
    if not isinstance(owner, str) or not owner.strip() or not owner.isprintable() or len(owner) > 100:
        raise DefinitionError(
            f"{calling_line()}: class {cls.__name__}: owner={owner!r} names nobody: a team or service, in 1 to 100 "
            'characters: owner="checkout"'
        )
    return owner.strip()


def _checked_level(cls: type[Event], compatibility: str) -> Level:
    try:
        return Level(compatibility)
    except ValueError:
        raise DefinitionError(
            f"{calling_line()}: class {cls.__name__}: compatibility={compatibility!r} is none of {', '.join(Level)}"
        ) from None


def _inspect(cls: type[Event], version: int, fact: bool) -> EventSpec:
    name = cls.__name__
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise DefinitionError(f"{calling_line()}: class {name}: version={version!r} is not a whole number from 1")
    if not name.isascii() or not name.isidentifier() or not name[0].isupper():
        raise DefinitionError(
            f"{calling_line()}: class {name}: an event's name becomes a subject: use CamelCase in ASCII"
        )
    if not fact and not is_fact(name):
        raise DefinitionError(
            f"{calling_line()}: class {name}: events are facts about the past, and {name!r} does not read as one. "
            f"Say what happened ({suggest_fact(name)}?), or vouch for the name: class {name}(Event, fact=True)"
        )
    keys = [field for field, info in cls.model_fields.items() if any(isinstance(m, _KeyMark) for m in info.metadata)]
    if len(keys) != 1:
        found = f"has {len(keys)} ({', '.join(keys)})" if keys else "has none"
        raise DefinitionError(
            f"{calling_line()}: class {name}: an event belongs to one customer's journey, "
            f"so exactly one field is a Key (itself, not Key | None); this one {found}: customer_id: Key"
        )
    key = cls.model_fields[keys[0]]
    if not key.is_required() and key.default_factory is None and not isinstance(key.default, str):
        raise DefinitionError(
            f"{calling_line()}: class {name}: {keys[0]} defaults to {key.default!r}, which is no customer: "
            f"write {keys[0]}: Key"
        )
    for field, info in cls.model_fields.items():
        written = info.serialization_alias or field
        left_out = info.exclude and info.is_required()
        if left_out or written not in {field, *names_read(info)}:
            lost = "is left out of what is stored" if left_out else f"is stored as {written!r}, but not read as that"
            raise DefinitionError(
                f"{calling_line()}: class {name}: the field {field} {lost}: "
                "what is published has to be readable again; use alias= for both directions"
            )
    try:
        check_personal(cls, key=keys[0])
        check_written(cls)
        personal = tuple(personal_names(cls))
        check_defaults(cls)
    except DefinitionError as error:
        raise DefinitionError(f"{calling_line()}: {error}") from None
    owner, level = cls.__sojourn_declared__
    return EventSpec(name, version, keys[0], personal, owner, level, f'"schemaversion":{version},'.encode())


def names_read(info: FieldInfo) -> list[str]:
    """The names, besides its own, under which a field is found in JSON, the preferred one first."""
    alias = info.validation_alias
    choices = alias.choices if isinstance(alias, AliasChoices) else [alias]
    return [choice for choice in choices if isinstance(choice, str)]
