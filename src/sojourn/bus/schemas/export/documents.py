"""Sojourn's CloudEvents documents as JSON Schemas: what the log holds, and what foreign producers send.

Source: CloudEvents 1.0.2, core and JSON format; `sojourn.bus.envelope` and `sojourn.bus.intake` for the rest.
"""

from __future__ import annotations

from collections.abc import Sequence

from sojourn.bus.envelope import MAX_HOPS
from sojourn.bus.schemas.schema import Schema

_MOST = 2**31 - 1


def logged() -> Schema:
    """An envelope in the log. Attributes that are not named here are the producer's own."""
    return _document(
        "Envelope",
        "A CloudEvents 1.0 document in structured mode, as it is stored under its customer.",
        ("specversion", "id", "source", "type", "subject", "time", "correlationid", "data"),
        {
            "subject": _text("The customer that the event belongs to; the unit of order.", longest=None),
            "time": _time("When it happened."),
            "datacontenttype": {"type": "string"},
            "dataschema": {
                "type": "string",
                "format": "uri",
                "description": "Of what Sojourn publishes, urn:sojourn:{type}:{schemaversion}.",
            },
            "schemaversion": _VERSION,
            "correlationid": _text("The whole journey of causes: the id of the event that it began with."),
            "causationid": {"type": "string", "description": "The id of the one event that caused this one."},
            "causeseq": {"type": "integer", "description": "That event's sequence in its stream."},
            "causetype": {"type": "string", "description": "That event's type."},
            "hops": {
                "type": "integer",
                "minimum": 0,
                "maximum": _MOST,
                "description": f"Causal depth: 0 for behaviour. Nothing deeper than {MAX_HOPS} is handled.",
            },
            "kind": {
                "enum": ["event", "out", "due"],
                "description": "event: behaviour; out: an action; due: a timer that fired.",
            },
            "timergen": {"type": "integer", "description": "Of a timer that fired: how often it had been set."},
            "traceparent": {"type": "string", "description": "W3C Trace Context."},
            "receivedtime": _time("Of a foreign document: when it came in."),
        },
    )


def foreign() -> Schema:
    """A document that a foreign producer sends. Attributes that are not named here are filed as they are."""
    return _document(
        "ForeignDocument",
        "A CloudEvents 1.0 document in structured mode, as any producer in any language sends it. "
        "It is checked, filed under its customer and then removed; what fails the check becomes a dead letter.",
        ("specversion", "id", "source", "type", "data"),
        {
            "subject": {
                "type": ["string", "null"],
                "description": "May be left out. Else the customer, as the key field of the data has it.",
            },
            "time": {"type": ["string", "null"], "format": "date-time", "description": "When it happened; else now."},
            "datacontenttype": {"type": ["string", "null"]},
            "dataschema": {"type": ["string", "null"], "format": "uri"},
            "schemaversion": _VERSION,
            "correlationid": {
                "type": ["string", "null"],
                "description": "May be left out: then the document begins a journey of causes of its own.",
            },
            "traceparent": {"type": ["string", "null"], "description": "W3C Trace Context."},
        },
    )


def message(envelope: str, type: str, version: int | None, data: Schema) -> Schema:
    """The document of one event type in one version: the envelope referred to by ``envelope``, with that data.
    Without a ``version``, of any."""
    properties: Schema = {"type": {"const": type}, "data": data}
    told: Schema = {"type": "object", "properties": properties}
    if version is not None:
        properties["schemaversion"] = {"const": version}
        if version > 1:
            # Where it is left out it reads as 1.
            told["required"] = ["schemaversion"]
    return {"allOf": [{"$ref": envelope}, told]}


def _document(title: str, description: str, required: Sequence[str], properties: Schema) -> Schema:
    core: Schema = {
        "specversion": {"const": "1.0"},
        "id": _text("Unique within its source."),
        "source": _text("Who says so.") | {"format": "uri-reference"},
        "type": _text("The event type."),
    }
    return {
        "title": title,
        "description": description,
        "type": "object",
        "required": list(required),
        "properties": {**core, **properties, "data": {"type": "object"}},
        "propertyNames": {"pattern": "^[a-z0-9]+$"},
    }


def _text(description: str, *, longest: int | None = 2048) -> Schema:
    limit = {"maxLength": longest} if longest is not None else {}
    return {"type": "string", "minLength": 1, **limit, "description": description}


def _time(description: str) -> Schema:
    return {"type": "string", "format": "date-time", "description": description}


_VERSION: Schema = {
    "type": "integer",
    "minimum": 1,
    "maximum": _MOST,
    "description": "The version of the data's schema; 1 where it is left out.",
}
