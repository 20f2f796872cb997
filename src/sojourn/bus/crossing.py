"""The records in which events for other customers wait in the lane of the customer whose handling put them out. Pure.

Its subject is ``{ns}.lane.{p}.{key}.act.{writer}.relay``, and it holds the document as it will stand under the other
customer, but for ``causeseq``: that is the record's own sequence.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple

from pydantic_core import from_json, to_json

from sojourn.bus.envelope import Cause, encode
from sojourn.bus.errors import DecodeError
from sojourn.bus.event import Event, key_of, spec_of
from sojourn.bus.ids import derived_id
from sojourn.bus.personal.key import CustomerKey
from sojourn.bus.ports import Append, Expectation
from sojourn.bus.subjects import Address, Namespace, relay_writer


class Crossing(NamedTuple):
    """A ``relay`` record, taken apart: what is to be stored, and where. ``lane`` is the filter of its lane there."""

    stream: str
    lane: str
    subject: str
    payload: bytes


def write_record(
    namespace: Namespace,
    writer: str,
    source: str,
    at: Address,
    expect: Expectation,
    cause: Cause,
    event: Event,
    index: int,
    now: datetime,
    *,
    sealers: Mapping[str, CustomerKey],
) -> Append:
    """The record of an event of another customer, the ``index``-th that ``writer`` puts out for this cause.

    ``sealers`` are the keys of other customers, for personal values. Raises `ValueError` for a key that is none, and
    `SchemaError` as `encode` does.
    """
    target = namespace.locate(key_of(event))
    assert cause.sequence is not None
    document = encode(
        event,
        id=derived_id("relay", namespace.name, at.token, writer, cause.sequence, index),
        source=source,
        key=target.key,
        time=now,
        # Its cause has no place in the other customer's stream.
        cause=cause._replace(sequence=None),
        kind="out",
        sealer=sealers.get(target.key),
    )
    to = namespace.action(target, relay_writer(writer, at.token), spec_of(event).type)
    # With the subject it is never smaller than what is made of it, so a record that could be stored can be relayed.
    head = f'{{"kind":"relay","cause":{cause.sequence},"to":{json.dumps(to)},"event":'
    return Append(namespace.record(at, writer, "relay"), head.encode() + document + b"}", expect)


def read_record(namespace: Namespace, subject: str, payload: bytes, sequence: int) -> Crossing:
    """What the record at ``sequence`` of its stream asks for. Raises `DecodeError` for what is no such record."""
    try:
        _, _, _, token, _, writer, _ = subject.split(".")
        record = from_json(payload)
        document = record["event"]
        at = namespace.locate(document["subject"])
        lane = relay_writer(writer, token)
        to = namespace.action(at, lane, document["type"])
        if record["kind"] != "relay" or record["to"] != to:
            raise ValueError("it does not say where it belongs")
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise DecodeError(f"no record of an event for another customer: {type(error).__name__}") from error
    # The place of what caused it is the record's: what is known of it there, and what orders the lane.
    return Crossing(at.stream, namespace.lane_filter(at, lane), to, to_json({**document, "causeseq": sequence}))
