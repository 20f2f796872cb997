"""The running system as an AsyncAPI 3.0 document: channels from subjects, operations from what is registered.

Channels are named ``event.{Type}``, ``ingress.{Type}``, ``action.{writer}.{Type}`` and ``due.{writer}``, messages
``{Type}.v{n}`` as the log holds them and ``{Type}.v{n}.foreign`` as foreign producers send them, operations
``{writer}.receive.{channel}`` and ``{writer}.send.{channel}``. Source: AsyncAPI 3.0.0.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from sojourn.bus.intake import INGRESS
from sojourn.bus.personal.field import MARK
from sojourn.bus.personal.key import SEALED
from sojourn.bus.registry import Registration
from sojourn.bus.schemas.export import documents
from sojourn.bus.schemas.export.embedding import embedded, explained, holds_personal, sealed
from sojourn.bus.schemas.records import SchemaRecord, VersionRecord
from sojourn.bus.schemas.schema import Schema
from sojourn.bus.subjects import MAX_KEY, Namespace

Document = dict[str, Any]

CONTENT_TYPE = "application/cloudevents+json"
SCHEMA_FORMAT = "application/schema+json;version=draft-2020-12"

_SEALED = f"^{SEALED}[A-Za-z0-9_-]+:[A-Za-z0-9_-]+=*$"
_SEALED_HERE = "Personal: encrypted here under the customer's key, which is destroyed when the customer is erased."
_PLAIN_HERE = "Personal: plain here; encrypted under the customer's key before it is stored."
_OPEN = "No schema of this type is registered: its data may be any object."


def asyncapi(
    namespace: Namespace,
    registrations: Sequence[Registration],
    records: Sequence[SchemaRecord],
    *,
    title: str,
    version: str,
) -> Document:
    """The AsyncAPI document of what is registered in a namespace; ``version`` is that of the document.

    Names every event that a registered writer handles, folds or publishes, one without a `SchemaRecord` with open
    data, and every registered type besides. The same input gives the same document. Servers are left out: which ones
    there are is not for the registry to say.
    """
    writers = sorted(registrations, key=lambda registration: registration.name)
    known = {record.type: record for record in records}
    types = sorted({*known, *(type for writer in writers for type in (*writer.reads, *writer.publishes))})
    messages = _Messages()
    for type in types:
        messages.add(type, known.get(type))
    owners = sorted({record.owner for record in records if record.owner})
    info: Document = {
        "title": title,
        "version": version,
        "description": f"The events of the namespace `{namespace.name}`, which Sojourn carries on NATS JetStream: "
        "what happened to customers, and what agents did about it.",
    }
    if owners:
        info["tags"] = [{"name": owner, "description": f"Events that {owner} owns."} for owner in owners]
    return {
        "asyncapi": "3.0.0",
        "info": info,
        "defaultContentType": CONTENT_TYPE,
        "channels": _channels(namespace, writers, types, messages),
        "operations": _operations(writers, types, messages),
        "components": {
            "schemas": {
                "Envelope": _schema(documents.logged()),
                "ForeignDocument": _schema(documents.foreign()),
                **messages.schemas,
            },
            "messages": messages.messages,
            "parameters": _parameters(namespace),
            "correlationIds": {
                "journey": {
                    "location": "$message.payload#/correlationid",
                    "description": "The whole journey of causes that an event belongs to.",
                }
            },
            "operationTraits": {
                INGRESS: {"title": INGRESS, "description": "The relay that checks and files foreign documents."},
                **{writer.name: _trait(writer) for writer in writers},
            },
        },
    }


class _Names(NamedTuple):
    """The messages of one event type, oldest version first."""

    stored: list[str]
    foreign: list[str]


class _Messages:
    """Collects messages and schemas, by their component keys."""

    def __init__(self) -> None:
        self.messages: dict[str, Document] = {}
        self.schemas: dict[str, Document] = {}
        self.names: dict[str, _Names] = {}

    def add(self, type: str, record: SchemaRecord | None) -> None:
        """Adds both messages of every version of a type; without a record, of any version, with open data."""
        self.names[type] = names = _Names([], [])
        if record is None or not record.versions:
            described: Document = {"description": _OPEN, "x-sojourn-unregistered": True}
            data: Schema = {"type": "object", "description": _OPEN}
            names.stored.append(self._message(f"{type}.any", "Envelope", type, None, data, described))
            names.foreign.append(self._message(f"{type}.any.foreign", "ForeignDocument", type, None, data, described))
            return
        for version in record.versions:
            name = f"{type}.v{version.version}"
            facts = _facts(record, version)
            plain = explained(version.schema_, _PLAIN_HERE)
            personal = holds_personal(plain)
            data = self._data(name, plain)
            stored = self._data(f"{name}.sealed", sealed(version.schema_, _SEALED, _SEALED_HERE)) if personal else data
            if personal:
                facts[MARK] = True
            number = version.version
            names.stored.append(self._message(name, "Envelope", type, number, stored, facts))
            names.foreign.append(self._message(f"{name}.foreign", "ForeignDocument", type, number, data, facts))

    def _data(self, name: str, schema: Schema) -> Schema:
        """Places the schema of an event's data, and refers to it."""
        at = f"#/components/schemas/{name}/schema"
        self.schemas[name] = _schema(embedded(schema, at))
        return {"$ref": at}

    def _message(
        self, name: str, envelope: str, type: str, version: int | None, data: Schema, facts: Mapping[str, Any]
    ) -> str:
        self.messages[name] = {
            "name": type,
            "title": f"{type}, version {version}" if version is not None else type,
            **facts,
            "contentType": CONTENT_TYPE,
            "correlationId": {"$ref": "#/components/correlationIds/journey"},
            "payload": _schema(
                documents.message(f"#/components/schemas/{envelope}/schema", type, version, data),
            ),
        }
        return name


def _facts(record: SchemaRecord, version: VersionRecord) -> Document:
    """What the registry knows of a version, as both of its messages tell it."""
    facts: Document = {
        "x-sojourn-version": version.version,
        "x-sojourn-key": record.key_field,
        "x-sojourn-compatibility": str(record.compatibility),
        "x-sojourn-hash": version.hash,
    }
    if record.description:
        facts["description"] = record.description
    if record.owner:
        facts["tags"] = [{"name": record.owner}]
    if version is not record.latest:
        facts["deprecated"] = True
    return facts


def _schema(schema: Schema) -> Document:
    """A schema with the name of its dialect: AsyncAPI's own is draft 07."""
    return {"schemaFormat": SCHEMA_FORMAT, "schema": schema}


def _parameters(namespace: Namespace) -> Document:
    last = namespace.partitions - 1
    return {
        "partition": {
            "description": f"FNV-1a (32 bits) of the key token modulo {namespace.partitions}: 0 to {last}. "
            f"Its stream is {namespace.prefix}_n with n = partition modulo {namespace.shards}.",
            "enum": [str(partition) for partition in range(namespace.partitions)],
        },
        "key": {
            "description": "The customer, escaped: letters, digits, `_` and `-` stay, any other byte of its UTF-8 is "
            f"`=XX` in hexadecimal capitals. {MAX_KEY} bytes at most.",
            "examples": ["c-17", "ann=40shop=2Eexample"],
        },
        "timer": {"description": "The timer's name, as the agent gave it."},
    }


def _trait(writer: Registration) -> Document:
    trait: Document = {
        "title": writer.name,
        "tags": [{"name": writer.name, "description": f"What the {writer.kind} {writer.name} receives and sends."}],
        "x-sojourn-version": writer.version,
        "x-sojourn-group": writer.group,
        "x-sojourn-mode": writer.mode,
    }
    if writer.doc:
        trait["description"] = writer.doc
    return trait


def _channels(
    namespace: Namespace, writers: Sequence[Registration], types: Sequence[str], messages: _Messages
) -> Document:
    customer = f"{namespace.name}.log.{{partition}}.{{key}}"
    channels: Document = {}
    for type in types:
        channels[f"event.{type}"] = _channel(
            f"{customer}.evt.{type}",
            f"{type} as behaviour, by customer",
            "Written by Sojourn's publishers and its ingress; foreign producers send to the ingress channel.",
            messages.names[type].stored,
        )
        channels[f"ingress.{type}"] = _channel(
            f"{namespace.name}.in.{type}",
            f"{type} from foreign producers",
            f"Stored in {namespace.ingress_stream} until it is filed under its customer. "
            "Any further tokens of the subject are the producer's own.",
            messages.names[type].foreign,
        )
    for writer in writers:
        for type in writer.publishes:
            channels[f"action.{writer.name}.{type}"] = _channel(
                f"{customer}.act.{writer.name}.{type}",
                f"{type} as an action of {writer.name}, by customer",
                f"Written by {writer.name} alone.",
                messages.names[type].stored,
            )
        if _sets_timers(writer):
            channels[f"due.{writer.name}"] = _channel(
                f"{customer}.evt.due.{writer.name}.{{timer}}",
                f"Timers of {writer.name} that fired, if it sets any, by customer",
                f"What {writer.name} set to be told later: events of types that it handles. For {writer.name} alone.",
                [name for type in writer.handles for name in messages.names[type].stored],
            )
    return {name: channels[name] for name in sorted(channels)}


def _channel(address: str, title: str, description: str, messages: Iterable[str]) -> Document:
    channel: Document = {
        "address": address,
        "title": title,
        "description": description,
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in messages},
    }
    parameters = [name for name in ("partition", "key", "timer") if f"{{{name}}}" in address]
    if parameters:
        channel["parameters"] = {name: {"$ref": f"#/components/parameters/{name}"} for name in parameters}
    return channel


def _operations(writers: Sequence[Registration], types: Sequence[str], messages: _Messages) -> Document:
    operations: Document = {}

    def add(actor: str, action: str, channel: str, names: Iterable[str], summary: str, **facts: Any) -> None:
        operations[f"{actor}.{action}.{channel}"] = {
            "action": action,
            "channel": {"$ref": f"#/channels/{channel}"},
            "summary": summary,
            "messages": [{"$ref": f"#/channels/{channel}/messages/{name}"} for name in names],
            "traits": [{"$ref": f"#/components/operationTraits/{actor}"}],
            **facts,
        }

    for type in types:
        names = messages.names[type]
        add(INGRESS, "receive", f"ingress.{type}", names.foreign, f"Checks {type} of foreign producers.")
        add(INGRESS, "send", f"event.{type}", names.stored, f"Files {type} under its customer.")
    publishers: defaultdict[str, list[str]] = defaultdict(list)
    for writer in writers:
        for type in writer.publishes:
            publishers[type].append(writer.name)
    for writer in writers:
        name = writer.name
        who = {f"x-sojourn-{writer.kind}": name}
        for type in sorted(writer.reads):
            uses = [use for use, of in (("handles", writer.handles), ("folds", writer.folds)) if type in of]
            stored = messages.names[type].stored
            said = f"{name} {' and '.join(uses)} {type}"
            add(name, "receive", f"event.{type}", stored, f"{said}.", **who, **{"x-sojourn-uses": uses})
            for publisher in publishers[type]:
                # Its own actions are part of its state, and never handled.
                mine = [use for use in uses if publisher != name or use == "folds"]
                if mine:
                    said = f"{name} {' and '.join(mine)} {type} of {publisher}."
                    add(
                        name,
                        "receive",
                        f"action.{publisher}.{type}",
                        stored,
                        said,
                        **who,
                        **{"x-sojourn-uses": mine},
                    )
        if _sets_timers(writer):
            due = [message for type in writer.handles for message in messages.names[type].stored]
            summary = f"{name} handles its timers that fired."
            add(name, "receive", f"due.{name}", due, summary, **who, **{"x-sojourn-uses": ["handles"]})
        for type in writer.publishes:
            # What it publishes from now on is of the newest version; the channel also holds what it once published.
            newest = messages.names[type].stored[-1:]
            add(name, "send", f"action.{name}.{type}", newest, f"{name} publishes {type}.", **who)
    return {name: operations[name] for name in sorted(operations)}


def _sets_timers(writer: Registration) -> bool:
    """Whether an agent may set timers: a handler can only where it takes a context. One that does not say may."""
    if writer.kind != "agent" or not writer.handles:
        return False
    handlers = writer.description.get("handlers", [])
    return not handlers or any(handler.get("context", True) for handler in handlers)
