"""The envelope: an event and its metadata, on the wire a CloudEvents 1.0 document in structured JSON mode.

Any CloudEvents SDK reads it, any NATS client writes it. Sojourn's own metadata are extension attributes:
``correlationid`` (the whole journey of causes), ``causationid`` and ``causeseq`` (id and stream sequence of the one
envelope that caused this one), ``causetype``, ``hops`` (causal depth), ``kind``, ``schemaversion``, ``timergen``,
``traceparent``. Source: CloudEvents 1.0.2, core and JSON format.
"""

from __future__ import annotations

import traceback
from datetime import UTC, datetime
from functools import lru_cache
from json.encoder import encode_basestring as quote
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypeVar, get_args

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, SerializeAsAny, ValidationError
from pydantic_core import ErrorDetails, from_json, to_json
from pydantic_core.core_schema import ErrorType

from sojourn.bus.errors import DecodeError, SchemaError
from sojourn.bus.event import Event, holds_personal, names_read, spec_of
from sojourn.bus.personal.documents import unseal_tree
from sojourn.bus.personal.field import Sealing, Unsealing
from sojourn.bus.personal.key import SEALED, CustomerKey, UnknownKeyError
from sojourn.bus.reading import NOBODY, Reader
from sojourn.bus.upcasting import upcasted

E = TypeVar("E", bound=Event, covariant=True)

MAX_HOPS = 32
"""The deepest chain of causes: an envelope beyond it is dead-lettered, so two agents cannot trigger each other for
ever."""

_MAX_INTEGER = 2**31 - 1
"""Source: CloudEvents 1.0.2, "Type system"."""

_NO_DATA = frozenset({"missing", "model_type", "model_attributes_type"})
_OWN = frozenset(get_args(ErrorType))

Text = Annotated[str, Field(min_length=1, max_length=2048)]


def _in_utc(moment: datetime) -> datetime:
    """The same moment in UTC; `ValueError` for one that is outside the years 1 to 9999 there."""
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("in UTC it is outside the years 1 to 9999") from None


class Envelope(BaseModel, Generic[E]):
    """An event with its metadata. ``key`` is the customer; ``time`` is when it happened, aware.

    ``causation_id`` and ``cause_sequence`` are None for behaviour, which nothing on this bus caused. ``kind`` is
    ``event``, ``out`` (an action) or ``due`` (a timer that fired, with its ``timer_generation``). ``schema_version`` is
    that of the stored document; the event is of the version that the code defines. ``erased`` names the personal fields
    that read None because the customer was erased.
    """

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    specversion: Literal["1.0"]
    id: Text
    source: Text
    type: Text
    key: str = Field(alias="subject")
    time: Annotated[AwareDatetime, AfterValidator(_in_utc)]
    event: SerializeAsAny[E] = Field(alias="data")
    correlation_id: Text = Field(alias="correlationid")
    causation_id: str | None = Field(None, alias="causationid")
    cause_sequence: int | None = Field(None, alias="causeseq")
    cause_type: str | None = Field(None, alias="causetype")
    hops: int = Field(0, ge=0, le=_MAX_INTEGER)
    kind: str = "event"
    schema_version: int = Field(1, alias="schemaversion", ge=1, le=_MAX_INTEGER)
    timer_generation: int | None = Field(None, alias="timergen")
    traceparent: str | None = None
    # Never from the wire: no attribute of CloudEvents has such a name.
    erased: tuple[str, ...] = Field((), validation_alias="\x00")


class Cause(NamedTuple):
    """What an envelope says of the one that caused it. ``sequence``: its place in its stream."""

    id: str
    type: str
    correlation_id: str
    sequence: int | None
    hops: int
    traceparent: str | None = None


class _NoKey(CustomerKey):
    """Stands for a customer's key where nothing is expected to be sealed."""

    __slots__ = ()

    def __init__(self) -> None:
        pass

    def seal(self, plain: bytes, *, remember: bool = True) -> str:
        raise ValueError("a personal value stands where the class does not say so: give the field the model's own type")


_NOTHING_PERSONAL = Sealing(_NoKey())


def cause_of(envelope: Envelope[Event], sequence: int | None) -> Cause:
    """The envelope as the cause of the next; ``sequence`` is its place in its stream."""
    return Cause(envelope.id, envelope.type, envelope.correlation_id, sequence, envelope.hops, envelope.traceparent)


def encode(
    event: Event,
    *,
    id: str,
    source: str,
    key: str,
    time: datetime,
    cause: Cause | None = None,
    kind: str = "event",
    timer_generation: int | None = None,
    traceparent: str | None = None,
    sealer: CustomerKey | None = None,
) -> bytes:
    """The document of an event. Without a ``cause`` it begins a journey of causes of its own: correlation id = id.

    Personal values are sealed with ``sealer``, the key of the customer. Raises `SchemaError` where the event holds
    something that has no JSON, or something personal and there is no sealer.
    """
    spec = spec_of(event)
    if spec.personal and sealer is None and holds_personal(event):
        raise SchemaError(f"{spec.type} has personal values, and the customer's key to seal them is not at hand")
    try:
        context = Sealing(sealer) if sealer is not None and spec.personal else _NOTHING_PERSONAL
        data = event.__pydantic_serializer__.to_json(event, by_alias=True, context=context).decode()
    except Exception as error:
        raise SchemaError(f"{spec.type} cannot be written as JSON: {error}") from error
    if type(event) not in _readable:
        _read_back(type(event), data, sealer)
    head = (
        f'{{"specversion":"1.0","id":{quote(id)},"source":{quote(source)},"type":"{spec.type}","subject":{quote(key)},'
        f'"time":"{format_time(time)}","datacontenttype":"application/json",'
        f'"dataschema":"urn:sojourn:{spec.type}:{spec.version}","schemaversion":{spec.version},"kind":"{kind}"'
    )
    if cause is None:
        links = f',"correlationid":{quote(id)},"hops":0'
    else:
        traceparent = traceparent or cause.traceparent
        links = (
            f',"correlationid":{quote(cause.correlation_id)},"causationid":{quote(cause.id)},'
            f'"causetype":{quote(cause.type)},"hops":{cause.hops + 1}'
        )
        if cause.sequence is not None:
            links += f',"causeseq":{cause.sequence}'
    if timer_generation is not None:
        links += f',"timergen":{timer_generation}'
    if traceparent is not None:
        links += f',"traceparent":{quote(traceparent)}'
    return f'{head}{links},"data":{data}}}'.encode()


_readable: set[type[Event]] = set()
"""Classes of which an event was read back."""


def _read_back(cls: type[Event], data: str, sealer: CustomerKey | None) -> None:
    """Holds the first event of a class to its own class, as every reader will.

    Not every event, which would take half as long again as writing it: a class that writes what it does not read does
    so with all of them, mostly. Raises `SchemaError`.
    """
    try:
        cls.__pydantic_validator__.validate_json(data, context=Unsealing(sealer))
    except ValidationError as error:
        raise SchemaError(
            f"{cls.__name__} is written in a way that it does not read itself, so nobody could: "
            f"{problems(error, of=cls)}. What is published has to be readable again"
        ) from None
    except Exception as error:
        raise SchemaError(
            f"{cls.__name__} cannot be read back as it is written: a validator failed with {type(error).__name__}"
        ) from error
    _readable.add(cls)


def decode(payload: bytes, cls: type[Event], reader: Reader = NOBODY) -> Envelope[Event]:
    """The envelope in a stored document whose type is known to be that of ``cls``; with `Event` itself, that of any
    type, without its data.

    Data of an older version are brought up to that of ``cls`` by its upcasters, those of a newer one are read where its
    schema allows that. Raises `DecodeError` (no CloudEvents document), `SchemaError` (its data does not fit) and
    `UnknownTypeError` (a newer version that cannot be read); their messages hold nothing of the data. With a ``reader``
    that is not certain also `UnknownKeyError` and `UnknownVersionError`, for `read_as`.
    """
    spec = cls.__sojourn__
    if spec is None:
        return _validated(payload, cls, None)
    unsealing = reader.unsealing() if spec.personal else None
    # Nearly all documents are of the version that the code defines, and those of another tell by their number.
    if spec.version == 1 or spec.marker in payload:
        try:
            envelope = _validated(payload, cls, unsealing)
        except SchemaError:
            if _version_of(payload, cls) == spec.version:
                raise
        else:
            if envelope.schema_version == spec.version:
                return envelope
    version = _version_of(payload, cls)
    if version < spec.version:
        return _brought_up(payload, cls, version, reader)
    if version > spec.version:
        reader.check_newer(cls, version)
    return _validated(payload, cls, reader.unsealing() if spec.personal else None, other=version != spec.version)


def _validated(
    payload: bytes, cls: type[Event], unsealing: Unsealing | None, *, other: bool = False
) -> Envelope[Event]:
    """``other``: the document is of another version, whose further fields a closed model has to bear, too."""
    try:
        try:
            envelope = _model(cls).model_validate_json(payload, context=unsealing)
        except ValidationError as error:
            if not other or all(item["type"] != "extra_forbidden" for item in error.errors()):
                raise
            envelope = _model(cls).model_validate_json(payload, context=unsealing, extra="ignore")
    except ValidationError as error:
        # Not `from error`, which quotes keys of dictionaries and more in every traceback.
        raise _explain(error, cls) from None
    except (DecodeError, UnknownKeyError):
        raise
    except Exception as error:
        # A validator that raises something else has a fault, which no retry mends.
        place = traceback.extract_tb(error.__traceback__)[-1]
        raise SchemaError(
            f"a validator of {cls.__name__} failed with {type(error).__name__} at {place.filename}:{place.lineno}"
        ) from error
    if unsealing is not None and unsealing.erased:
        vars(envelope)["erased"] = tuple(dict.fromkeys(unsealing.erased))
    return envelope


def _version_of(payload: bytes, cls: type[Event]) -> int:
    """The version that a document says it has, 1 where it says nothing. Raises what is wrong with it as a document."""
    try:
        return _validated(payload, Event, None).schema_version
    except DecodeError:
        _validated(payload, cls, None)  # says it of the class
        raise


def _brought_up(payload: bytes, cls: type[Event], version: int, reader: Reader) -> Envelope[Event]:
    document = from_json(payload)
    data, erased = document["data"], []
    if SEALED in payload.decode():
        # Before the upcasters, which may move, split and rename what is personal.
        unsealing = reader.unsealing()
        data, erased = unseal_tree(data, unsealing), unsealing.erased
    document["data"] = upcasted(cls, data, version)
    try:
        payload = to_json(document)
    except ValueError as error:
        raise SchemaError(f"the upcasters of {cls.__name__} made something that has no JSON: {error}") from error
    try:
        envelope = _validated(payload, cls, None, other=True)
    except SchemaError as error:
        raise SchemaError(f"brought up from version {version}: {error}") from error
    if erased:
        vars(envelope)["erased"] = tuple(dict.fromkeys(erased))
    return envelope


def format_time(moment: datetime) -> str:
    """RFC 3339 in UTC, with as many digits as the moment has. Raises `ValueError` for one that is naive, or outside
    the years 1 to 9999 in UTC."""
    if moment.tzinfo is not UTC:
        if moment.utcoffset() is None:
            raise ValueError(f"{moment.isoformat()} is naive; say which zone: datetime(…, tzinfo=UTC)")
        moment = _in_utc(moment)
    return f"{moment.isoformat()[:-6]}Z"


def problems(error: ValidationError, limit: int = 3, *, of: type[BaseModel] | None = None) -> str:
    """What a validation error found, on one line and without the values, which may be personal.

    ``of``: the model that was read. Then keys of dictionaries, which are values too, are hidden as ``*``.
    """
    known = _names(of) if of is not None else None
    found = error.errors(include_url=False, include_context=False)
    told = [f"{_place(item['loc'], known) or 'document'}: {_message(item)}" for item in found[:limit]]
    more = f" (and {len(found) - limit} more)" if len(found) > limit else ""
    return "; ".join(told) + more


def _message(item: ErrorDetails) -> str:
    # Pydantic's own messages quote nothing of the input, but for these two; a validator's author may.
    kind, message = item["type"], item["msg"]
    quotes = kind in {"union_tag_invalid", "uuid_parsing"}
    if quotes or ((kind in {"value_error", "assertion_error"} or kind not in _OWN) and _quoted(item["input"], message)):
        return f"refused ({kind})"
    return message


def _quoted(value: object, message: str) -> bool:
    match value:
        case dict():
            return any(_quoted(part, message) for part in (*value, *value.values()))
        case list() | tuple() | set() | frozenset():
            return any(_quoted(part, message) for part in value)
        case BaseModel():
            return _quoted(vars(value), message)
        case None | bool() | "":
            return False
    return str(value).casefold() in message.casefold()


def _place(loc: tuple[int | str, ...], known: frozenset[str] | None) -> str:
    return ".".join(str(part) if known is None or isinstance(part, int) or part in known else "*" for part in loc)


@lru_cache(maxsize=1024)
def _names(model: type[BaseModel]) -> frozenset[str]:
    """The names of all fields in a model and the models in it."""
    names: set[str] = set()
    models, pending = {model}, [model]
    while pending:
        for field, info in pending.pop().model_fields.items():
            names |= {field, *names_read(info)}
            annotations: list[Any] = [info.annotation]
            while annotations:
                annotation = annotations.pop()
                annotations += get_args(annotation)
                if isinstance(annotation, type) and issubclass(annotation, BaseModel) and annotation not in models:
                    models.add(annotation)
                    pending.append(annotation)
    return frozenset(names)


@lru_cache(maxsize=1024)
def _model(cls: type[Event]) -> type[Envelope[Event]]:
    return Envelope[cls]  # type: ignore[valid-type]  # a runtime parametrisation, one per event class


def _explain(error: ValidationError, cls: type[Event]) -> DecodeError | SchemaError:
    errors = error.errors(include_url=False, include_input=False, include_context=False)
    if errors[0]["type"] == "json_invalid":
        return DecodeError(f"not JSON: {errors[0]['msg']}")
    what = problems(error, of=_model(cls))
    if all(item["loc"][:1] == ("data",) and (len(item["loc"]) > 1 or item["type"] not in _NO_DATA) for item in errors):
        return SchemaError(f"data does not fit {cls.__name__}: {what}")
    return DecodeError(f"no CloudEvents 1.0 document of a {cls.__name__}: {what}")
