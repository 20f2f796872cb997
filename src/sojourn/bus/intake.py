"""What a foreign document is: an event to file, or a dead letter. Pure."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any, NamedTuple

from pydantic_core import from_json, to_json

from sojourn.bus.catalog import Catalog
from sojourn.bus.envelope import decode, format_time
from sojourn.bus.errors import DecodeError, PermanentError, SchemaError, TooLargeError, UnknownTypeError
from sojourn.bus.event import Event, key_of, names_read, spec_of
from sojourn.bus.personal.documents import seal_document
from sojourn.bus.personal.field import Sealing
from sojourn.bus.personal.key import CustomerKey
from sojourn.bus.ports import Append, Stored
from sojourn.bus.schemas.keywords import READ_AS
from sojourn.bus.schemas.records import SchemaRecord, VersionRecord
from sojourn.bus.schemas.schema import Schema, resolve
from sojourn.bus.schemas.validation import Contracts
from sojourn.bus.subjects import NO_KEY, Address, Namespace

INGRESS = "ingress"

NOBODY = "\x00nobody"
"""Stands for the customer of documents that name none: what is kept of them is sealed with a key of its own."""

_PART = 512 * 1024
"""Bytes of an original that one record holds at most; with its base64 it stays below the server's usual limit of
1 MB."""


_ATTRIBUTE = re.compile("[a-z0-9]+")
"""Source: CloudEvents 1.0.2, "Naming conventions"."""

_DATASCHEMA = "urn:sojourn:"
_NUMBER = re.compile("[1-9][0-9]{0,9}")

_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
"""Source: RFC 3339, section 5.6."""

_JSON = re.compile(r"[^/;\s]+/([^/;\s]+\+)?json\s*(;.*)?", re.IGNORECASE | re.DOTALL)
"""Source: CloudEvents 1.0.2, JSON format, section 3.1."""

_OURS = frozenset({"data", "kind", "causeseq", "timergen", "receivedtime"})
"""What a document of somebody else cannot say."""

Sealers = Callable[[str], CustomerKey | None]
"""The customer's key; None where none is at hand. Asked only for what has to be sealed."""


class KeyWantedError(Exception):
    """A document cannot be filed before its customer has a key."""

    def __init__(self, customer: str) -> None:
        super().__init__(customer)
        self.customer = customer


class Filing(NamedTuple):
    """What to store for one document. ``error`` where it is a dead letter."""

    sequence: int
    at: Address
    appends: list[Append]
    error: PermanentError | None = None


def file_document(
    message: Stored,
    namespace: Namespace,
    catalog: Catalog,
    known: Mapping[str, SchemaRecord],
    max_size: int,
    contracts: Contracts,
    sealers: Sealers | None = None,
) -> Filing:
    """Files a document of the stream of foreign documents under its customer, or buries it with the reason.

    It has to fit the registered schema of the version it says it has, in ``schemaversion`` or ``dataschema``; one that
    says nothing is of the oldest. What it has under other names that the type reads, is filed under the stored ones.
    Personal values, and the whole of a document that is buried, are sealed; without ``sealers``, which a worker without
    a master key has not, a document that is buried stays as it is. A document without personal values needs no key,
    whatever its type could hold. Raises `KeyWantedError`: without ``sealers`` also for what is buried of a type that
    has personal values.
    """
    record: SchemaRecord | None = None
    document: dict[str, Any] = {}
    at: Address | None = None
    try:
        document = _parse(message.payload)
        type = _check(document, message.subject, namespace)
        record = known.get(type)
        if record is None:
            raise UnknownTypeError(f"no worker of this namespace has registered the event type {type!r}", type=type)
        cls = catalog.get(type)
        key = _key(document["data"], type, cls, record)
        try:
            at = namespace.locate(key)
        except ValueError as error:
            raise SchemaError(f"the key cannot be used: {error}") from None
        _check_subject(document, key)
        version = _version(document, record)
        own = cls is not None and spec_of(cls).version == version.version
        contract = contracts.own(cls) if cls is not None and own else contracts.of(version)
        data = contract.stored(document["data"])
        wrong = contract.problems(data)
        if wrong is not None and not own:
            raise _misfit(type, version, wrong)
        completed = _complete(document, data, key, message) | {"schemaversion": version.version}
        payload = _written(completed)
        envelope = decode(payload, cls or Event)
        if wrong is not None:  # what the class has to say of it comes first
            raise _misfit(type, version, wrong)
        if cls is not None and (located := key_of(envelope.event)) != key:
            raise SchemaError(f"the key field reads as {located[:100]!r} once validated, and as {key[:100]!r} before")
        if contract.personal or (cls is not None and own and spec_of(cls).personal):
            event = envelope.event if own else None
            sealer = sealers(key) if sealers is not None else None
            completed["data"] = _seal_data(data, contract.schema, event, _Noting(key, sealer))
            payload = _written(completed)
        if len(payload) > max_size:
            raise TooLargeError(
                f"the document is {len(payload):,} bytes with its envelope, more than {max_size:,}",
                size=len(payload),
                limit=max_size,
            )
    except (PermanentError, RecursionError) as caught:
        refused = caught if isinstance(caught, PermanentError) else SchemaError("data is nested too deeply")
        where = at if at is not None else _nowhere(namespace)
        content, sealed = message.payload, False
        if sealers is not None or (record is not None and any(contracts.of(one).personal for one in record.versions)):
            content, sealed = _sealed(content, sealers, where), True
        letters = _bury(message, document, where, namespace, refused, max_size, content, sealed=sealed)
        return Filing(message.sequence, where, list(letters), refused)
    # As JSON, so that no source and id can pass for another pair.
    names = json.dumps([document["source"], type, document["id"]])
    identity = blake2b(names.encode(), digest_size=20).hexdigest()
    return Filing(message.sequence, at, [Append(namespace.event(at, type), payload, message_id=f"in-{identity}")])


def _written(document: dict[str, Any]) -> bytes:
    payload = to_json(document)
    if b"Infinity" in payload:
        _parse(payload)
    return payload


def _version(document: dict[str, Any], record: SchemaRecord) -> VersionRecord:
    """The registered version that a document is of. Raises `DecodeError` and `UnknownTypeError`."""
    said, named = document.get("schemaversion"), _named_version(document, record.type)
    if said is None:
        said = named
    if said is None:
        return record.versions[0]
    if isinstance(said, bool) or not isinstance(said, int) or not 1 <= said < 2**31:
        raise DecodeError("'schemaversion' has to be the version of the event's schema, a whole number from 1")
    if named not in {None, said}:
        raise DecodeError(f"'schemaversion' says that it is of version {said}, 'dataschema' says {named}")
    version = record.version(said)
    if version is None:
        registered = ", ".join(str(one.version) for one in record.versions)
        raise UnknownTypeError(
            f"{record.type} version {said} is not registered (registered: {registered})", type=record.type
        )
    return version


def _named_version(document: dict[str, Any], type: str) -> int | None:
    """The version in ``dataschema``; None where that is not there, or a schema of the producer's own."""
    schema = document.get("dataschema")
    if not isinstance(schema, str | None):
        raise DecodeError("no CloudEvents 1.0 document: 'dataschema' has to be a text, the URI of a schema")
    if schema is None or not schema.startswith(_DATASCHEMA):
        return None
    number = schema.removeprefix(f"{_DATASCHEMA}{type}:")
    if not _NUMBER.fullmatch(number):
        raise DecodeError(
            f"'dataschema' is {schema[:100]!r}: here it has to be {_DATASCHEMA}{type}: and a whole number from 1"
        )
    return int(number)


def _sealer(sealers: Sealers | None, customer: str) -> CustomerKey:
    key = sealers(customer) if sealers is not None else None
    if key is None:
        raise KeyWantedError(customer)
    return key


def _seal_data(data: dict[str, Any], schema: Schema, event: Event | None, noted: _Noting) -> dict[str, Any]:
    """The data with what is personal sealed, as the producer wrote the rest of it. Raises `KeyWantedError`."""
    sealed = seal_document(data, schema, noted)
    noted.check()
    if event is None:
        return sealed
    found, noted.sealed = noted.sealed, 0
    written = event.__pydantic_serializer__.to_json(event, by_alias=True, exclude_unset=True, context=Sealing(noted))
    noted.check()
    if noted.sealed == found:
        return sealed
    # The class also reads names that its schema does not have: then the event is written as the class does.
    own: dict[str, Any] = from_json(written)
    return own


class _Noting(CustomerKey):
    """A customer's key that counts the values it seals, or, where it is not at hand, notes that it would be needed."""

    __slots__ = ("_customer", "_key", "_wanted", "sealed")

    def __init__(self, customer: str, key: CustomerKey | None) -> None:
        self.id = key.id if key is not None else ""
        self._customer = customer
        self._key = key
        self._wanted = False
        self.sealed = 0

    def seal(self, plain: bytes, *, remember: bool = True) -> str:
        self.sealed += plain != b"null"
        if self._key is not None:
            return self._key.seal(plain, remember=remember)
        # Not raised here: a serializer would make another error of it.
        self._wanted = True
        return ""

    def check(self) -> None:
        """Raises `KeyWantedError` where something had to be sealed without a key."""
        if self._wanted:
            raise KeyWantedError(self._customer)


def _sealed(content: bytes, sealers: Sealers | None, at: Address) -> bytes:
    key = _sealer(sealers, NOBODY if at.token == NO_KEY else at.key)
    return key.seal(to_json(base64.b64encode(content).decode()), remember=False).encode()


def _parse(payload: bytes) -> dict[str, Any]:
    try:
        document = from_json(payload, allow_inf_nan=False)
    except ValueError as error:
        raise DecodeError(f"not JSON: {error}") from None
    if not isinstance(document, dict):
        raise DecodeError(f"a CloudEvents document is a JSON object, this is a {type(document).__name__}")
    return document


def _check(document: dict[str, Any], subject: str, namespace: Namespace) -> str:
    if document.get("specversion") != "1.0":
        # In binary mode the attributes are headers, and the message is the data alone.
        way_out = "" if "specversion" in document else "; send structured mode, with all attributes in the JSON"
        raise DecodeError(f"no CloudEvents 1.0 document: 'specversion' has to be \"1.0\"{way_out}")
    for name in ("id", "source", "type"):
        value = document.get(name)
        if not isinstance(value, str) or not 0 < len(value) <= 2048:
            raise DecodeError(f"no CloudEvents 1.0 document: {name!r} has to be a text of 1 to 2,048 characters")
    if document.get("data_base64") is not None:
        raise DecodeError("data_base64 is not read: send the event's fields as a JSON object in 'data'")
    if not isinstance(document.get("data"), dict):
        raise DecodeError("'data' has to be a JSON object with the event's fields")
    time = document.get("time")
    if time is not None and not (isinstance(time, str) and _TIME.fullmatch(time)):
        raise DecodeError("no CloudEvents 1.0 document: 'time' has to be a text as in RFC 3339, 2026-01-31T10:00:00Z")
    content = document.get("datacontenttype")
    if content is not None and not (isinstance(content, str) and _JSON.fullmatch(content)):
        raise DecodeError("'datacontenttype' has to be JSON, application/json: nothing else is read")
    for name in document:
        if not _ATTRIBUTE.fullmatch(name) and name != "data_base64":
            raise DecodeError(
                f"no CloudEvents 1.0 document: {name[:100]!r} cannot name an attribute, which takes only a-z and 0-9"
            )
    named = subject.removeprefix(f"{namespace.name}.in.").split(".", 1)[0]
    type: str = document["type"]
    if named != type:
        raise DecodeError(f"the document says it is a {type[:100]!r}, its subject says {named[:100]!r}")
    return type


def _key(data: dict[str, Any], type: str, cls: type[Event] | None, record: SchemaRecord) -> str:
    names = [record.key_field]
    if cls is not None:
        field = spec_of(cls).key_field
        names = [*names_read(cls.model_fields[field]), field]
    elif record.latest is not None:
        schema = record.latest.schema_
        read_as = resolve(schema, schema).get(READ_AS, {}).get(record.key_field, [])
        names = [name for name in read_as if isinstance(name, str)] or names
    key = next((data[name] for name in names if name in data), None)
    if not isinstance(key, str):
        raise SchemaError(f"data.{names[0]} is the customer that {type} belongs to and has to be a text")
    return key


def _check_subject(document: dict[str, Any], key: str) -> None:
    subject = document.get("subject")
    if subject is not None and subject != key:
        raise SchemaError(f"the document's subject is another one than the customer in its data, {key[:100]!r}")


def _misfit(type: str, version: VersionRecord, wrong: str) -> SchemaError:
    return SchemaError(f"data does not fit {type} version {version.version}: {wrong}")


def _complete(document: dict[str, Any], data: dict[str, Any], key: str, message: Stored) -> dict[str, Any]:
    """The document with what the log needs; its own further attributes stay."""
    received = format_time(datetime.fromtimestamp(message.timestamp // 1000 / 1e6, UTC))
    # An attribute that is null is not there. Source: CloudEvents 1.0.2, JSON format, section 2.2.
    completed = {name: value for name, value in document.items() if name not in _OURS and value is not None}
    completed |= {"subject": key, "kind": "event", "receivedtime": received}
    completed.setdefault("time", received)
    if not isinstance(completed.get("correlationid"), str) or not completed["correlationid"]:
        completed["correlationid"] = document["id"]
    completed.setdefault("hops", 0)
    return completed | {"data": data}


def _nowhere(namespace: Namespace) -> Address:
    return namespace.locate_token("", NO_KEY)


def _bury(
    message: Stored,
    document: dict[str, Any],
    at: Address,
    namespace: Namespace,
    error: PermanentError,
    max_size: int,
    content: bytes,
    *,
    sealed: bool,
) -> Iterator[Append]:
    # A part is a third longer in base64, and the first one travels with the facts.
    size = min(_PART, (max_size - min(max_size // 4, 65_536)) * 3 // 4)
    parts = [content[start : start + size] for start in range(0, len(content), size)] or [b""]
    named = document.get("type")
    facts: dict[str, Any] = {
        "kind": "dead",
        "cause": message.sequence,
        "stream": namespace.ingress_stream,
        "generation": 0,
        "timers": {},
        "reason": str(error)[:2000],
        "error": type(error).__name__,
        "traceback": "",
        "attempts": 0,
        "version": 0,
        "subject": message.subject,
        "type": named[:200] if isinstance(named, str) else message.subject.split(".")[2],
        "id": document["id"][:2048] if isinstance(document.get("id"), str) else None,
        "correlationid": None,
        "time": format_time(datetime.fromtimestamp(message.timestamp // 1000 / 1e6, UTC)),
        "parts": len(parts),
        "sealed": sealed,
        "original": base64.b64encode(parts[0]).decode(),
    }
    yield Append(namespace.record(at, INGRESS, "dead"), json.dumps(facts).encode())
    for number, part in enumerate(parts[1:], 2):
        rest = {"kind": "part", "cause": message.sequence, "part": number, "original": base64.b64encode(part).decode()}
        yield Append(namespace.record(at, INGRESS, "part"), json.dumps(rest).encode())
