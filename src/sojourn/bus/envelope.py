"""The envelope: an event and its metadata, on the wire a CloudEvents 1.0 document in structured JSON mode.

Any CloudEvents SDK reads it, any NATS client writes it. Sojourn's own metadata are extension attributes:
``correlationid`` (the whole journey of causes), ``causationid`` and ``causeseq`` (id and stream sequence of the one
envelope that caused this one), ``causetype``, ``hops`` (causal depth), ``kind``, ``schemaversion``, ``timergen``,
``traceparent``. Source: CloudEvents 1.0.2, core and JSON format.
"""

from __future__ import annotations

from datetime import datetime
from functools import lru_cache
from json.encoder import encode_basestring as quote
from typing import Annotated, Generic, Literal, NamedTuple, TypeVar

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, SerializeAsAny, ValidationError

from sojourn.bus.errors import DecodeError, SchemaError, UnknownTypeError
from sojourn.bus.event import Event, spec_of

E = TypeVar("E", bound=Event, covariant=True)

MAX_HOPS = 32
"""The deepest chain of causes: an envelope beyond it is dead-lettered, so two agents cannot trigger each other for
ever."""

Text = Annotated[str, Field(min_length=1, max_length=2048)]


class Envelope(BaseModel, Generic[E]):
    """An event with its metadata. ``key`` is the customer; ``time`` is when it happened, aware.

    ``causation_id`` and ``cause_sequence`` are None for behaviour, which nothing on this bus caused. ``kind`` is
    ``event``, ``out`` (an action) or ``due`` (a timer that fired, with its ``timer_generation``).
    """

    model_config = ConfigDict(frozen=True, validate_by_name=True, validate_by_alias=True)

    specversion: Literal["1.0"]
    id: Text
    source: Text
    type: Text
    key: str = Field(alias="subject")
    time: AwareDatetime
    event: SerializeAsAny[E] = Field(alias="data")
    correlation_id: Text = Field(alias="correlationid")
    causation_id: str | None = Field(None, alias="causationid")
    cause_sequence: int | None = Field(None, alias="causeseq")
    cause_type: str | None = Field(None, alias="causetype")
    hops: int = Field(0, ge=0)
    kind: str = "event"
    schema_version: int = Field(1, alias="schemaversion", ge=1)
    timer_generation: int | None = Field(None, alias="timergen")
    traceparent: str | None = None


class Cause(NamedTuple):
    """What an envelope says of the one that caused it. ``sequence``: its place in its stream."""

    id: str
    type: str
    correlation_id: str
    sequence: int | None
    hops: int
    traceparent: str | None = None


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
) -> bytes:
    """The document of an event. Without a ``cause`` it begins a journey of causes of its own: correlation id = id.

    Raises `SchemaError` where the event holds something that has no JSON.
    """
    spec = spec_of(event)
    try:
        data = event.__pydantic_serializer__.to_json(event, by_alias=True).decode()
    except Exception as error:
        raise SchemaError(f"{spec.type} cannot be written as JSON: {error}") from error
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


def decode(payload: bytes, cls: type[Event]) -> Envelope[Event]:
    """The envelope in a stored document whose type is known to be that of ``cls``.

    Raises `DecodeError` (no CloudEvents document), `SchemaError` (its data does not fit) and `UnknownTypeError` (a
    newer version).
    """
    try:
        envelope = _model(cls).model_validate_json(payload)
    except ValidationError as error:
        raise _explain(error, cls) from error
    spec = spec_of(cls)
    if envelope.schema_version > spec.version:
        raise UnknownTypeError(
            f"{spec.type} version {envelope.schema_version} is newer than version {spec.version}, "
            "which this code knows: update the code that reads it",
            type=spec.type,
        )
    return envelope


def format_time(moment: datetime) -> str:
    """RFC 3339 in UTC, with as many digits as the moment has."""
    text = moment.isoformat()
    return text[:-6] + "Z" if text.endswith("+00:00") else text


def problems(error: ValidationError, limit: int = 3) -> str:
    """What a validation error found, on one line and without the values, which may be personal."""
    found = [
        f"{'.'.join(map(str, item['loc'])) or 'document'}: {item['msg']}"
        for item in error.errors(include_url=False, include_input=False, include_context=False)
    ]
    more = f" (and {len(found) - limit} more)" if len(found) > limit else ""
    return "; ".join(found[:limit]) + more


@lru_cache(maxsize=1024)
def _model(cls: type[Event]) -> type[Envelope[Event]]:
    return Envelope[cls]  # type: ignore[valid-type]  # a runtime parametrisation, one per event class


def _explain(error: ValidationError, cls: type[Event]) -> DecodeError | SchemaError:
    errors = error.errors(include_url=False, include_input=False, include_context=False)
    if errors[0]["type"] == "json_invalid":
        return DecodeError(f"not JSON: {errors[0]['msg']}")
    if all(item["loc"][:1] in (("data",), ("event",)) and len(item["loc"]) > 1 for item in errors):
        return SchemaError(f"data does not fit {cls.__name__}: {problems(error)}")
    return DecodeError(f"no CloudEvents 1.0 document of a {cls.__name__}: {problems(error)}")
