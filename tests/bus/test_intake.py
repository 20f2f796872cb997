"""Whatever a stranger publishes becomes an event of a customer or a dead letter, and never anything else."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import IntEnum
from typing import Any

import pytest
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import AliasChoices, AliasPath, BaseModel, Field, field_validator
from pydantic_core import from_json

from sojourn.bus.appends import check_batch
from sojourn.bus.catalog import Catalog
from sojourn.bus.client import open_bus
from sojourn.bus.clock import WallClock
from sojourn.bus.deadletters import dead_letters, original
from sojourn.bus.envelope import MAX_HOPS, decode, encode
from sojourn.bus.errors import DecodeError, PermanentError, SchemaError, TooLargeError, UnknownTypeError
from sojourn.bus.event import Event, Key
from sojourn.bus.intake import Filing, file_document
from sojourn.bus.memory import MemoryTransport
from sojourn.bus.personal.field import Personal
from sojourn.bus.personal.key import CustomerKey
from sojourn.bus.ports import Append, Stored
from sojourn.bus.reading import Reader
from sojourn.bus.schemas.records import SchemaRecord, VersionRecord
from sojourn.bus.schemas.schema import Schema, fingerprint, key_name, schema_of
from sojourn.bus.schemas.validation import Contracts
from sojourn.bus.subjects import NO_KEY, Namespace, unescape_key
from sojourn.bus.timers import VirtualTimers
from tests.ids import told

LIMIT = 1_048_576 - 1024
NAMESPACE = Namespace("test", 4, 2)
RECEIVED = 1_767_225_600_123_456_789
"""2026-01-01T00:00:00.123456789Z"""


class Item(BaseModel):
    sku: str
    price: Decimal = Decimal(0)


class OrderPlaced(Event, version=2):
    customer_id: Key = Field(alias="customerId")
    total: Decimal = Decimal(0)
    ratio: float = 0
    items: list[Item] = []  # noqa: RUF012 - a pydantic default
    scores: dict[str, int] = {}  # noqa: RUF012 - a pydantic default
    anything: Any = None


class CardRead(Event):
    holder: Key = Field(validation_alias=AliasChoices("Holder", "owner"), serialization_alias="Holder")

    @field_validator("holder", mode="before")
    @classmethod
    def trimmed(cls, value: object) -> object:
        if value == "fault":
            raise ZeroDivisionError
        return value.strip() if isinstance(value, str) else value


CATALOG = Catalog([OrderPlaced, CardRead])


def registered(type: str, *versions: tuple[int, Schema]) -> SchemaRecord:
    return SchemaRecord(
        type=type,
        key_field=key_name(versions[-1][1]),
        versions=[
            VersionRecord(
                version=number, schema=schema, hash=fingerprint(schema), registered=datetime.now(UTC), reference=""
            )
            for number, schema in versions
        ],
    )


GIFT: Schema = {
    "type": "object",
    "properties": {"to": {"type": "string", "x-sojourn-key": True}, "size": {"type": "integer"}},
    "required": ["to"],
}
KNOWN = {
    "OrderPlaced": registered("OrderPlaced", (2, schema_of(OrderPlaced))),
    "CardRead": registered("CardRead", (1, schema_of(CardRead))),
    "GiftSent": registered("GiftSent", (1, GIFT)),
}
CONTRACTS = Contracts()


def document(**changes: Any) -> dict[str, Any]:
    """A good document; ``...`` leaves an attribute out."""
    made: dict[str, Any] = {
        "specversion": "1.0",
        "id": "till-1",
        "source": "/tills/3",
        "type": "OrderPlaced",
        "time": "2025-12-31T23:00:00+01:00",
        "data": {"customerId": "c.1", "total": "9.50"},
    } | changes
    return {name: value for name, value in made.items() if value is not ...}


def file(payload: bytes | Mapping[str, Any], subject: str = "test.in.OrderPlaced", limit: int = LIMIT) -> Filing:
    if isinstance(payload, Mapping):
        payload = json.dumps(payload).encode()
    message = Stored(subject, 17, payload, RECEIVED)
    filing = file_document(message, NAMESPACE, CATALOG, KNOWN, limit, CONTRACTS)
    check(filing, message, limit)
    return filing


def check(filing: Filing, message: Stored, limit: int) -> None:
    """What every filing has to be."""
    assert filing.sequence == message.sequence
    check_batch(filing.appends)
    assert filing.at == NAMESPACE.locate_token(filing.at.key, filing.at.token)
    assert all(append.expect is None and append.schedule is None for append in filing.appends)
    assert all(len(append.payload) <= limit for append in filing.appends)
    first = from_json(filing.appends[0].payload, allow_inf_nan=False)
    if filing.error is None:
        assert len(filing.appends) == 1
        assert unescape_key(filing.at.token) == first["subject"]
        assert filing.appends[0].subject == NAMESPACE.event(filing.at, first["type"])
        assert filing.appends[0].message_id is not None
        cls = CATALOG.get(first["type"])
        envelope = decode(filing.appends[0].payload, cls or Event)
        assert envelope.key == filing.at.key and envelope.kind == "event" and envelope.hops >= 0
        assert envelope.cause_sequence is None and envelope.timer_generation is None
        return
    assert isinstance(filing.error, PermanentError)
    assert [append.subject for append in filing.appends] == [
        NAMESPACE.record(filing.at, "ingress", "dead" if number == 0 else "part")
        for number in range(len(filing.appends))
    ]
    parts = [from_json(append.payload) for append in filing.appends]
    assert first["parts"] == len(parts)
    assert b"".join(base64.b64decode(part["original"]) for part in parts) == message.payload
    assert first["reason"] and first["error"] == type(filing.error).__name__
    assert (first["cause"], first["stream"], first["subject"]) == (17, "TEST_IN", message.subject)


def refused(payload: bytes | Mapping[str, Any], subject: str = "test.in.OrderPlaced") -> PermanentError:
    filing = file(payload, subject)
    assert filing.error is not None
    return filing.error


def test_a_good_document_is_filed_under_its_customer_with_what_the_log_needs() -> None:
    filing = file(document(tillnumber=3, traceparent="00-a"))
    stored = json.loads(filing.appends[0].payload)
    assert stored == {
        "specversion": "1.0",
        "id": "till-1",
        "source": "/tills/3",
        "type": "OrderPlaced",
        "time": "2025-12-31T23:00:00+01:00",
        "tillnumber": 3,
        "traceparent": "00-a",
        "subject": "c.1",
        "kind": "event",
        "receivedtime": "2026-01-01T00:00:00.123456Z",
        "correlationid": "till-1",
        "hops": 0,
        "schemaversion": 2,
        "data": {"customerId": "c.1", "total": "9.50"},
    }
    assert filing.appends[0].subject == NAMESPACE.event(NAMESPACE.locate("c.1"), "OrderPlaced")
    theirs = JSONFormat().read(None, filing.appends[0].payload)
    assert isinstance(theirs, CloudEvent) and theirs.get_extension("tillnumber") == 3


def test_what_the_sdk_of_cloudevents_writes_is_filed() -> None:
    attributes = {
        "id": "1",
        "source": "s",
        "type": "OrderPlaced",
        "time": datetime(2026, 1, 1, tzinfo=UTC),
        "subject": "c1",
    }
    filing = file(JSONFormat().write(CloudEvent(attributes, {"customerId": "c1"})))
    assert filing.error is None and filing.at.key == "c1"


def test_without_a_time_it_happened_when_it_came() -> None:
    for changed in (document(time=...), document(time=None)):
        stored = json.loads(file(changed).appends[0].payload)
        assert stored["time"] == stored["receivedtime"] == "2026-01-01T00:00:00.123456Z"


def test_further_tokens_of_the_subject_are_the_producers() -> None:
    assert file(document(), "test.in.OrderPlaced.till.3").error is None


def test_a_type_that_only_others_know_is_filed_by_their_key() -> None:
    filing = file(document(type="GiftSent", data={"to": "c7", "more": [1]}), "test.in.GiftSent")
    assert filing.error is None and filing.at.key == "c7"
    # Its attributes are checked all the same.
    assert isinstance(refused(document(type="GiftSent", data={"to": "c7"}, hops=-1), "test.in.GiftSent"), DecodeError)
    assert isinstance(refused(document(type="GiftSent", data={"to": 7}), "test.in.GiftSent"), SchemaError)


@pytest.mark.parametrize("data", [{"customerId": "c"}, {"customer_id": "c"}, {"customerId": "c", "customer_id": "d"}])
def test_the_key_is_found_by_its_alias_or_its_name(data: dict[str, Any]) -> None:
    assert file(document(data=data)).at.key == "c"


@pytest.mark.parametrize("name", ["Holder", "owner", "holder"])
def test_the_key_is_found_by_any_of_its_aliases(name: str) -> None:
    assert file(document(type="CardRead", data={name: "c"}), "test.in.CardRead").at.key == "c"


def test_a_key_that_validation_changes_is_refused() -> None:
    error = refused(document(type="CardRead", data={"holder": " c "}), "test.in.CardRead")
    assert "reads as 'c' once validated, and as ' c ' before" in str(error)


def test_a_validator_that_breaks_is_a_dead_letter() -> None:
    error = refused(document(type="CardRead", data={"holder": "fault"}), "test.in.CardRead")
    assert isinstance(error, SchemaError) and "failed with ZeroDivisionError" in str(error)


@pytest.mark.parametrize(
    "payload",
    [
        *(b"", b" ", b"{", b"}", b"nonsense", b"\xff\xfe", b'{"id":"\xff"}', b"\xef\xbb\xbf{}", b'{"a":"\\ud800"}'),
        *(b"{'a':1}", b'{"a":NaN}', b'{"a":Infinity}', b"[" * 100_000, b'{"a":' * 50_000, b"1" * 5_000, b"\0" * 100),
        *(b'{"a":' + b"9" * 5_000 + b"}", b'{"specversion":' + b"1" * 4_300 + b"}", b"PK\x03\x04", b"\x80\x04K\x01."),
    ],
    ids=lambda payload: repr(payload[:12] + b"%d" % len(payload)),
)
def test_what_is_no_json_object_is_buried_nowhere(payload: bytes) -> None:
    filing = file(payload)
    assert isinstance(filing.error, DecodeError)
    assert filing.at.token == NO_KEY


@pytest.mark.parametrize("payload", [b"[]", b"1", b'"x"', b"null", b"true", b"1.5", b"[{}]"])
def test_json_that_is_no_object_says_so(payload: bytes) -> None:
    assert "a CloudEvents document is a JSON object, this is a " in str(refused(payload))


BAD: dict[str, list[Any]] = {
    "specversion": [..., None, "0.3", "1.0.2", 1.0, 10**4_000, [[]], {}],
    "id": [..., None, "", 7, "x" * 2_049, []],
    "source": [..., None, "", {}, "x" * 2_049],
    "type": [..., None, "", 5, "Order Placed", "OrderPlaced.x"],
    "data": [..., None, [], "{}", 5, "<xml/>"],
    "data_base64": ["e30=", 5],
    "time": [
        *(5, 1e9, True, [], {}, "yesterday", "", "2026-01-01", "2026-01-01T00:00:00", "2026-02-30T00:00:00Z"),
        *("0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"),
        *("1767225600", "2026-01-01 00:00:00Z", "2026-01-01T00:00Z", "2026-01-01T00:00:00+0100", "20260101T000000Z"),
        *("2026-01-01T00:00:00,5Z", "2026-01-01T00:00:00Z\n", "٢٠٢٦-01-01T00:00:00Z"),
    ],
    "datacontenttype": [5, "", "json", "text/plain", "application/xml", "application/jsonp", "application/json/x"],
    "dataschema": [
        *(5, {}, "urn:sojourn:", "urn:sojourn:OrderPlaced", "urn:sojourn:OrderPlaced:", "urn:sojourn:OrderPlaced:0"),
        *("urn:sojourn:OrderPlaced:02", "urn:sojourn:OrderPlaced:-1", "urn:sojourn:OrderPlaced:new"),
        *("urn:sojourn:Other:2", "urn:sojourn:OrderPlaced:2:2", "urn:sojourn:OrderPlaced:99999999999"),
    ],
    "hops": [-1, "x", 0.5, [], 2**31, 10**4_000],
    "schemaversion": [0, -1, "new", {}, 10**4_000],
    "causationid": [5, [], {}],
    "causetype": [5, [], {}],
    "traceparent": [5, [], {}],
    "correlationid": ["x" * 2_049],
    **{name: [1] for name in ("My-Ext", "my_ext", "tillNumber", "", "ä", "a.b", "a\r\nb")},
}


@pytest.mark.parametrize(
    "changes",
    [{name: value} for name, values in BAD.items() for value in values],
    ids=lambda changes: str(changes)[:60],
)
def test_bad_attributes_are_buried_under_their_reason(changes: dict[str, Any]) -> None:
    subject = (
        f"test.in.{changes['type']}"
        if isinstance(changes.get("type"), str) and changes["type"].isalpha()
        else "test.in.OrderPlaced"
    )
    assert isinstance(refused(document(**changes), subject), DecodeError)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"specversion": ...}, "send structured mode, with all attributes in the JSON"),
        (
            {"dataschema": "urn:sojourn:Other:2"},
            "'urn:sojourn:Other:2': here it has to be urn:sojourn:OrderPlaced: and",
        ),
        (
            {"dataschema": "urn:sojourn:OrderPlaced:1", "schemaversion": 2},
            "'schemaversion' says that it is of version 2, 'dataschema' says 1",
        ),
        ({"datacontenttype": "text/xml"}, "'datacontenttype' has to be JSON, application/json"),
        ({"time": "1767225600"}, "'time' has to be a text as in RFC 3339, 2026-01-31T10:00:00Z"),
    ],
    ids=told,
)
def test_reasons_name_the_way_out(changes: dict[str, Any], reason: str) -> None:
    assert reason in str(refused(document(**changes)))


@pytest.mark.parametrize(
    "changes",
    [
        *({"datacontenttype": content} for content in ("application/json", "Application/JSON; charset=utf-8", None)),
        *({"datacontenttype": content} for content in ("application/vnd.till+json", "text/json")),
        *({"dataschema": schema} for schema in ("urn:sojourn:OrderPlaced:2", "https://till.example/order/7", None)),
        {"dataschema": "urn:sojourn:OrderPlaced:2", "schemaversion": 2},
    ],
    ids=told,
)
def test_what_it_says_of_its_data_may_be_said_in_several_ways(changes: dict[str, Any]) -> None:
    assert file(document(**changes)).error is None


@pytest.mark.parametrize(
    "time", ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z", "2026-01-01T00:00:00-23:59", "1969-07-20t20:17:40z"]
)
def test_odd_times_that_are_times_are_kept(time: str) -> None:
    assert json.loads(file(document(time=time)).appends[0].payload)["time"] == time


def test_a_time_may_be_as_precise_as_it_likes() -> None:
    assert file(document(time="2026-01-01T00:00:00.123456789123Z")).error is None


@pytest.mark.parametrize(
    "forged",
    [
        {"causeseq": 1, "timergen": 5, "kind": "out", "receivedtime": "1999"},
        {"causeseq": "x", "timergen": {}, "kind": 7, "receivedtime": None},
        {"correlationid": 5},
        {"correlationid": ""},
        {"correlationid": None, "hops": None, "causationid": None, "schemaversion": None, "subject": None},
    ],
    ids=told,
)
def test_what_only_this_bus_can_say_is_not_taken_from_others(forged: dict[str, Any]) -> None:
    stored = json.loads(file(document(**forged)).appends[0].payload)
    assert stored["kind"] == "event"
    assert not {"causeseq", "timergen"} & {*stored}
    assert stored["receivedtime"] == "2026-01-01T00:00:00.123456Z"
    assert (stored["correlationid"], stored["hops"], stored["subject"]) == ("till-1", 0, "c.1")
    assert None not in stored.values()


def test_a_journey_of_causes_goes_on_and_its_depth_counts() -> None:
    stored = json.loads(file(document(correlationid="j-1", causationid="e-1", hops=MAX_HOPS + 1)).appends[0].payload)
    assert (stored["correlationid"], stored["causationid"], stored["hops"]) == ("j-1", "e-1", MAX_HOPS + 1)
    assert json.loads(file(document(hops=10**9)).appends[0].payload)["hops"] == 10**9


def test_type_and_subject_have_to_agree() -> None:
    error = refused(document(), "test.in.CardRead")
    assert "the document says it is a 'OrderPlaced', its subject says 'CardRead'" in str(error)


@pytest.mark.parametrize("subject", ["c1", "", 5, [], {}, "c.1 ", "x" * 900_000])
def test_customer_and_subject_attribute_have_to_agree(subject: Any) -> None:
    filing = file(document(subject=subject))
    assert isinstance(filing.error, SchemaError) and len(str(filing.error)) < 500
    # The customer is known, so it is buried with the customer.
    assert filing.at == NAMESPACE.locate("c.1")


@pytest.mark.parametrize("key", [..., None, 5, "", "x" * 513, "😀" * 50, ["c"], {"c": 1}, True])
def test_a_document_without_a_usable_key_is_buried_nowhere(key: Any) -> None:
    data = {} if key is ... else {"customerId": key}
    filing = file(document(data=data))
    assert isinstance(filing.error, SchemaError)
    assert filing.at.token == NO_KEY


@pytest.mark.parametrize("key", ["a.b", "*", ">", "\r\n", " ", "=", "😀", "\0", "é"])
def test_hostile_keys_are_escaped(key: str) -> None:
    filing = file(document(data={"customerId": key}, subject=key))
    assert filing.error is None and filing.at.key == key


def test_an_unknown_type_and_a_newer_version() -> None:
    error = refused(document(type="Unheard"), "test.in.Unheard")
    assert isinstance(error, UnknownTypeError) and error.type == "Unheard"
    assert isinstance(refused(document(schemaversion=3)), UnknownTypeError)
    assert str(refused(document(schemaversion=1))) == "OrderPlaced version 1 is not registered (registered: 2)"
    assert file(document(schemaversion=2)).error is None
    assert file(document(dataschema="urn:sojourn:OrderPlaced:2")).error is None


@pytest.mark.parametrize(
    "data", [{"total": "much"}, {"items": [{}]}, {"scores": {"a": "b"}}, {"ratio": "nan"}, {"total": "NaN"}]
)
def test_data_of_the_wrong_shape_are_buried_with_their_customer(data: dict[str, Any]) -> None:
    filing = file(document(data={"customerId": "c.1"} | data))
    assert isinstance(filing.error, SchemaError) and "data does not fit OrderPlaced: data." in str(filing.error)
    assert filing.at == NAMESPACE.locate("c.1")


class Meter(BaseModel):
    unit: str = Field("kWh", validation_alias=AliasChoices("unit", "Unit"))
    value: Personal[int] | None = Field(None, alias="reading")


class Tree(BaseModel):
    inner: Tree | None = None


class Kind(IntEnum):
    HOUSE = 1


class MeterRead(Event):
    customer_id: Key = Field(validation_alias=AliasChoices("customer_id", "customer"))
    n: int = 0
    share: float = 0
    cents: Decimal = Field(Decimal(0), multiple_of=0.01)
    at: datetime | None = None
    on: date | None = None
    took: timedelta | None = None
    known: bool = False
    kind: Kind | None = None
    tags: set[str] = set()  # noqa: RUF012 - a pydantic default
    mail: Personal[str] | None = Field(None, validation_alias=AliasChoices("e-mail", "mail", AliasPath("who", "mail")))
    meters: list[Meter] = Field([], validation_alias=AliasChoices("meters", "Meters"))
    any_of: Meter | Item | None = None
    tree: Tree | None = None


METER = registered("MeterRead", (1, schema_of(MeterRead)))
ANN, _ = CustomerKey.new()


def meter(data: dict[str, Any], catalog: Catalog | None = None, record: SchemaRecord = METER) -> Filing:
    payload = json.dumps(document(type="MeterRead", data={"customer": "ann"} | data)).encode()
    message = Stored("test.in.MeterRead", 17, payload, RECEIVED)
    catalog = catalog if catalog is not None else Catalog([MeterRead])
    return file_document(message, NAMESPACE, catalog, {"MeterRead": record}, LIMIT, CONTRACTS, lambda _: ANN)


OTHERS: list[tuple[dict[str, Any], str]] = [
    ({"n": "5"}, "n: is not of type integer"),
    ({"n": True}, "n: is not of type integer"),
    ({"share": "0.5"}, "share: is not of type number"),
    ({"share": False}, "share: is not of type number"),
    ({"at": 1767225600}, "at: does not fit anyOf"),
    ({"on": 1767225600}, "on: does not fit anyOf"),
    ({"took": 60}, "took: does not fit anyOf"),
    ({"known": "yes"}, "known: is not of type boolean"),
    ({"known": 1}, "known: is not of type boolean"),
    ({"kind": "1"}, "kind: does not fit anyOf"),
    ({"tags": ["a", "a"]}, "tags: does not fit uniqueItems"),
    ({"meters": [{"reading": "17"}]}, "meters.0.reading: does not fit anyOf"),
    ({"Meters": [{"Unit": 5}]}, "data.meters.0.unit: Input should be a valid string"),
]


@pytest.mark.parametrize(("data", "reason"), OTHERS, ids=told)
@pytest.mark.parametrize("catalog", [Catalog([MeterRead]), Catalog()], ids=["own", "others"])
def test_what_the_class_would_convert_does_not_fit_what_is_registered(
    data: dict[str, Any], reason: str, catalog: Catalog
) -> None:
    filing = meter(data, catalog)
    assert isinstance(filing.error, SchemaError) and filing.at == NAMESPACE.locate("ann")
    # Of what it refuses itself, the class tells more.
    assert reason.startswith("data.") or f"data does not fit MeterRead version 1: {reason}" == str(filing.error)
    assert not reason.startswith("data.") or not {*catalog} or reason in str(filing.error)


@pytest.mark.parametrize(
    "data",
    [
        {"n": 5, "share": 1, "cents": 19.99, "at": "2026-01-01T00:00:00Z", "on": "2026-01-01", "took": "PT5S"},
        {"known": True, "kind": 1, "tags": ["a", "b"], "cents": "0.30", "more": {"any": 1}},
        {"meters": [{"reading": 17}, {}], "any_of": {"sku": "a"}},
    ],
    ids=told,
)
def test_what_fits_is_filed_by_those_who_know_the_class_and_those_who_do_not(data: dict[str, Any]) -> None:
    assert [meter(data, catalog).error for catalog in (Catalog([MeterRead]), Catalog())] == [None, None]


@pytest.mark.parametrize("catalog", [Catalog([MeterRead]), Catalog()], ids=["own", "others"])
def test_other_names_that_the_class_reads_are_filed_as_the_stored_ones(catalog: Catalog) -> None:
    filing = meter({"Meters": [{"Unit": "MWh"}], "any_of": {"Unit": "W"}, "more": 1}, catalog)
    assert filing.error is None
    stored = json.loads(filing.appends[0].payload)
    assert (filing.at.key, stored["subject"]) == ("ann", "ann")
    assert stored["data"] == {"customer_id": "ann", "meters": [{"unit": "MWh"}], "any_of": {"unit": "W"}, "more": 1}


PLAIN = "eva@example.com"


@pytest.mark.parametrize("catalog", [Catalog([MeterRead]), Catalog()], ids=["own", "others"])
@pytest.mark.parametrize(
    "data",
    [
        {"mail": PLAIN},
        {"e-mail": PLAIN},
        {"who": {"mail": PLAIN, "at": "home"}},
        {"mail": PLAIN, "e-mail": PLAIN, "who": {"mail": PLAIN}},
        {"e-mail": None, "mail": PLAIN, "who": {"mail": PLAIN}},
    ],
    ids=told,
)
def test_a_personal_value_is_sealed_under_whatever_name_it_comes(data: dict[str, Any], catalog: Catalog) -> None:
    filing = meter(data, catalog)
    assert filing.error is None
    payload = filing.appends[0].payload
    event = decode(payload, MeterRead, Reader(None, ANN)).event
    expected = MeterRead.model_validate({"customer": "ann"} | data)
    assert isinstance(event, MeterRead) and event.mail == expected.mail
    assert PLAIN.encode() not in payload
    assert b"sealed:1:" in payload or expected.mail is None


@pytest.mark.parametrize("catalog", [Catalog([MeterRead]), Catalog()], ids=["own", "others"])
def test_a_personal_value_in_a_model_in_the_event_is_sealed_under_its_alias(catalog: Catalog) -> None:
    filing = meter({"Meters": [{"reading": 4711}], "any_of": {"reading": 4712}}, catalog)
    assert filing.error is None
    assert b"471" not in filing.appends[0].payload
    event = decode(filing.appends[0].payload, MeterRead, Reader(None, ANN)).event
    assert isinstance(event, MeterRead)
    assert event.meters[0].value == 4711 and isinstance(event.any_of, Meter) and event.any_of.value == 4712


def test_what_an_earlier_build_registered_without_its_other_names_is_read_as_the_class_reads_it() -> None:
    def without(part: Any) -> Any:
        if isinstance(part, list):
            return [without(inner) for inner in part]
        own = {"x-sojourn-read-as", "x-sojourn-complete"}
        return (
            {name: without(inner) for name, inner in part.items() if name not in own}
            if isinstance(part, dict)
            else part
        )

    filing = meter({"Meters": []}, record=registered("MeterRead", (1, without(schema_of(MeterRead)))))
    assert filing.error is None
    assert json.loads(filing.appends[0].payload)["data"] == {"customer_id": "ann", "meters": []}


@pytest.mark.parametrize("catalog", [Catalog([MeterRead]), Catalog()], ids=["own", "others"])
def test_data_nested_deeper_than_can_be_looked_at_are_buried(catalog: Catalog) -> None:
    tree: dict[str, Any] = {}
    for _ in range(190):
        tree = {"inner": tree}
    filing = meter({"tree": tree}, catalog)
    assert isinstance(filing.error, SchemaError) and filing.at == NAMESPACE.locate("ann")


@pytest.mark.parametrize("where", ["data", "extension", "known"])
def test_a_number_beyond_all_numbers_is_no_json_either(where: str) -> None:
    raw = json.dumps(
        document(data={"customerId": "c", "anything": 0} if where == "data" else {"customerId": "c"}, ext=0)
    )
    if where == "known":
        raw = json.dumps(document(type="GiftSent", data={"to": "c", "anything": 0}))
    raw = (
        raw.replace('"anything": 0', '"anything": 1e999')
        if where != "extension"
        else raw.replace('"ext": 0', '"ext": 1e999')
    )
    assert isinstance(
        refused(raw.encode(), f"test.in.{'GiftSent' if where == 'known' else 'OrderPlaced'}"), DecodeError
    )
    assert file(document(data={"customerId": "c", "anything": "Infinity"})).error is None


def test_of_a_name_that_comes_twice_the_last_counts_everywhere() -> None:
    once = json.dumps(document(data={"first": "a", "customerId": "b"}))
    twice = once.replace('"first"', '"customerId"').replace(
        '{"specversion"', '{"type":"CardRead","data":{},"specversion"'
    )
    filing = file(twice.encode())
    assert filing.error is None and filing.at.key == "b"
    assert json.loads(filing.appends[0].payload)["data"] == {"customerId": "b"}


def test_identity_is_source_type_and_id_and_nothing_else() -> None:
    def identity(**changes: Any) -> str | None:
        return file(document(**changes)).appends[0].message_id

    assert identity() == identity(time=..., data={"customerId": "other"})
    others = [
        {"id": "till-2"},
        {"source": "/tills/4"},
        {"id": "x\x1fOrderPlaced\x1fy", "source": "s"},
        {"id": "y", "source": "s\x1fOrderPlaced\x1fx"},
    ]
    found = [identity(**changes) for changes in [{}, *others]]
    assert len({*found}) == len(found)
    assert all(name is not None and name.isascii() and name.isprintable() and len(name) < 64 for name in found)


SIZES = [1, 512 * 1024, 512 * 1024 + 1, LIMIT - 600, LIMIT - 200, LIMIT, LIMIT + 1024, 3 * 1024 * 1024]


@pytest.mark.parametrize("size", SIZES)
def test_near_the_limit_it_is_filed_or_buried_in_parts(size: int) -> None:
    filing = file(document(data={"customerId": "c.1", "anything": "x" * size}))
    assert (filing.error is None) == (size <= LIMIT - 600)
    if filing.error is not None:
        assert isinstance(filing.error, TooLargeError) and filing.error.limit == LIMIT


@pytest.mark.parametrize("limit", [20_000, 65_536, 262_144, 8 << 20])
def test_a_server_with_another_limit_can_store_every_part(limit: int) -> None:
    payload = b"\xff" * (limit - 100)
    message = Stored("test.in.OrderPlaced", 17, payload, RECEIVED)
    check(file_document(message, NAMESPACE, CATALOG, KNOWN, limit, CONTRACTS), message, limit)


@pytest.mark.parametrize(
    "payload", [b"", b"\xff\x00" * 700_000, json.dumps(document(data={"customerId": "c.1", "total": []})).encode()]
)
async def test_the_original_comes_back_from_the_dead_letter(payload: bytes) -> None:
    async with open_bus(MemoryTransport(VirtualTimers()), NAMESPACE, clock=WallClock()) as bus:
        for before in range(2):
            await bus.committer.store("TEST_0", [Append("test.cursor.x.0", b"%d" % before)])
        filing = file(payload)
        await bus.committer.store(filing.at.stream, filing.appends)
        [letter] = [letter async for letter in dead_letters(bus)]
        assert (letter.writer, letter.cause, letter.cause_stream, letter.attempts) == ("ingress", 17, "TEST_IN", 0)
        assert letter.customer == (filing.at.key or None)
        assert letter.type == "OrderPlaced" and letter.reason == str(filing.error)[:2000]
        assert await original(bus, letter) == payload


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**40), 10**40) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
ATTRIBUTES = [
    *("specversion", "id", "source", "type", "time", "data", "subject", "kind", "hops", "correlationid", "causationid"),
    *(
        "causeseq",
        "causetype",
        "timergen",
        "schemaversion",
        "receivedtime",
        "traceparent",
        "data_base64",
        "event",
        "key",
    ),
    *("datacontenttype", "dataschema", "cause_sequence", "x", ""),
]
SUBJECTS = st.sampled_from(["OrderPlaced", "CardRead", "GiftSent", "Unheard", "OrderPlaced.x", "²", "a.*.b"]).map(
    "test.in.{}".format
)


@given(JSON, SUBJECTS)
def test_any_json_has_a_clean_end(value: Any, subject: str) -> None:
    file(json.dumps(value).encode(), subject)


@given(st.dictionaries(st.sampled_from(ATTRIBUTES), JSON, max_size=4), SUBJECTS)
@example({"subject": 10**4_299}, "test.in.OrderPlaced")
@example({"specversion": -(10**4_299)}, "test.in.OrderPlaced")
@example({"x": 10**4_299}, "test.in.OrderPlaced")
@example({"time": "2026-01-01T00:00:00Z\n"}, "test.in.OrderPlaced")
def test_any_attributes_have_a_clean_end(changes: dict[str, Any], subject: str) -> None:
    file(json.dumps(document() | changes).encode(), subject)


@given(
    st.dictionaries(
        st.sampled_from(["customerId", "customer_id", "total", "ratio", "items", "scores", "anything"]), JSON
    )
)
def test_any_data_have_a_clean_end(data: dict[str, Any]) -> None:
    file(json.dumps(document(data={"customerId": "c"} | data)).encode())


@given(
    st.binary(max_size=40) | st.sampled_from([b"NaN", b"1e999", b"\\ud800", b"{" * 200, b"9" * 4_400, b"\xf0\x9f"]),
    st.integers(0, 200),
    st.integers(0, 30),
)
def test_any_damage_has_a_clean_end(patch: bytes, start: int, length: int) -> None:
    raw = json.dumps(document(ext=1.5)).encode()
    file(raw[:start] + patch + raw[start + length :])


@given(st.text(min_size=1, max_size=30), st.text(min_size=1, max_size=30), st.text(min_size=1, max_size=30))
def test_our_own_documents_are_documents_for_us(key: str, id: str, source: str) -> None:
    event = OrderPlaced(customerId=key, anything={"a": [1.5]})
    raw = encode(event, id=id, source=source, key=key, time=datetime(2026, 1, 1, tzinfo=UTC))
    filing = file(raw)
    assert filing.error is None
    envelope = decode(filing.appends[0].payload, OrderPlaced)
    assert (envelope.event, envelope.id, envelope.source) == (event, id, source)
