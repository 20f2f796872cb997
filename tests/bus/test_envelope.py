"""Documents come back as they went out, the SDK of CloudEvents reads them, errors hold no values."""

from __future__ import annotations

import json
import traceback
import uuid
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

import pytest
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from hypothesis import given
from hypothesis import strategies as st
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    Json,
    RootModel,
    computed_field,
    create_model,
    field_validator,
    model_validator,
)
from pydantic_core import to_json

from sojourn.bus.envelope import Cause, Envelope, cause_of, decode, encode, format_time
from sojourn.bus.errors import DecodeError, PermanentError, SchemaError, UnknownTypeError
from sojourn.bus.event import Event, Key
from sojourn.bus.ids import uuid7
from sojourn.bus.personal.field import Personal
from sojourn.bus.personal.key import SEALED, CustomerKey
from tests.ids import told

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


class Item(BaseModel):
    sku: str = Field(alias="SKU")
    price: Decimal
    tags: set[str] = set()
    inner: Item | None = None


class Card(BaseModel):
    kind: Literal["card"] = "card"
    last: str


class Cash(BaseModel):
    kind: Literal["cash"] = "cash"
    given: Decimal


class BasketFilled(Event, version=3):
    customer_id: Key = Field(alias="customerId")
    amount: Decimal = Decimal(0)
    ratio: float = 0.0
    count: int = 0
    note: str | None = None
    seen: datetime | None = None
    day: date | None = None
    lasted: timedelta | None = None
    raw: bytes = b""
    colour: Colour = Colour.RED
    ref: uuid.UUID | None = None
    items: tuple[Item, ...] = ()
    scores: dict[str, int] = {}  # noqa: RUF012 - a pydantic default
    by_number: dict[int, bool] = {}  # noqa: RUF012 - a pydantic default
    pairs: list[tuple[int, str]] = []  # noqa: RUF012 - a pydantic default
    anything: Any = None
    paid: Annotated[Card | Cash, Field(discriminator="kind")] | None = None
    words: RootModel[list[str]] | None = None


TEXT = st.text(max_size=12) | st.sampled_from(
    ["\0", "\x7f", "\u2028", '"', "\\", "</script>", "😀", "\r\n", "{}", "null"]
)
NAMES = st.text(min_size=1, max_size=12)
WHOLE = st.integers(-(2**70), 2**70)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
MONEY = st.decimals(allow_nan=False, allow_infinity=False)
MOMENTS = st.datetimes(timezones=st.timezones() | st.just(UTC))
OFFSETS = st.integers(-86_399, 86_399).map(lambda seconds: timezone(timedelta(seconds=seconds)))
JSON = st.recursive(
    st.none() | st.booleans() | WHOLE | FINITE | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
ITEMS = st.builds(
    lambda sku, price, tags: Item(SKU=sku, price=price, tags=tags, inner=Item(SKU=sku, price=price)),
    TEXT,
    MONEY,
    st.sets(TEXT, max_size=3),
)
FIELDS = st.fixed_dictionaries(
    {"customerId": NAMES},
    optional={
        "amount": MONEY,
        "ratio": FINITE,
        "count": WHOLE,
        "note": st.none() | TEXT,
        "seen": st.none() | st.datetimes() | st.datetimes(timezones=st.just(UTC)),
        "day": st.none() | st.dates(),
        "lasted": st.none() | st.timedeltas(timedelta(-(10**6)), timedelta(10**6)),
        "raw": TEXT.map(str.encode),
        "colour": st.sampled_from(Colour),
        "ref": st.none() | st.uuids(),
        "items": st.lists(ITEMS, max_size=3).map(tuple),
        "scores": st.dictionaries(TEXT, WHOLE, max_size=3),
        "by_number": st.dictionaries(st.integers(), st.booleans(), max_size=3),
        "pairs": st.lists(st.tuples(st.integers(), TEXT), max_size=3),
        "anything": JSON,
        "paid": st.none() | st.builds(Card, last=TEXT) | st.builds(Cash, given=MONEY),
        "words": st.none() | st.lists(TEXT, max_size=3).map(RootModel[list[str]]),
    },
)
CAUSES = st.none() | st.builds(
    Cause,
    id=NAMES,
    type=NAMES,
    correlation_id=NAMES,
    sequence=st.none() | st.integers(1, 2**63 - 1),
    hops=st.integers(0, 2**31 - 2),
    traceparent=st.none() | TEXT,
)


def make(event: Event, **changes: Any) -> bytes:
    facts: dict[str, Any] = {"id": "e-1", "source": "/shop", "key": "c1", "time": NOON}
    return encode(event, **facts | changes)


def document(**changes: Any) -> dict[str, Any]:
    made: dict[str, Any] = json.loads(make(BasketFilled(customerId="c1")))
    for name, value in changes.items():
        made.pop(name) if value is ... else made.update({name: value})
    return made


def read(changed: Any) -> Envelope[Event]:
    return decode(json.dumps(changed).encode(), BasketFilled)


@given(FIELDS, NAMES, NAMES, MOMENTS, CAUSES, st.none() | st.integers(1, 2**40), st.none() | TEXT)
def test_what_goes_out_comes_back(
    fields: dict[str, Any],
    id: str,
    source: str,
    time: datetime,
    cause: Cause | None,
    timer: int | None,
    trace: str | None,
) -> None:
    event = BasketFilled(**fields)
    try:
        time.astimezone(UTC)
    except OverflowError:
        with pytest.raises(ValueError, match="outside the years 1 to 9999"):
            make(event, time=time)
        return
    key = fields["customerId"]
    kind = "event" if cause is None else "out"
    raw = make(
        event,
        id=id,
        source=source,
        key=key,
        time=time,
        cause=cause,
        kind=kind,
        timer_generation=timer,
        traceparent=trace,
    )
    envelope = decode(raw, BasketFilled)
    assert envelope.event == event
    assert (envelope.id, envelope.source, envelope.type, envelope.key) == (id, source, "BasketFilled", key)
    assert envelope.time == time.astimezone(UTC) and envelope.time.utcoffset() == timedelta(0)
    assert (envelope.kind, envelope.schema_version, envelope.timer_generation) == (kind, 3, timer)
    if cause is None:
        assert (envelope.correlation_id, envelope.hops) == (id, 0)
        assert (envelope.causation_id, envelope.cause_sequence, envelope.cause_type) == (None, None, None)
        assert (envelope.traceparent or None) == (trace or None)
    else:
        assert (envelope.correlation_id, envelope.hops) == (cause.correlation_id, cause.hops + 1)
        assert (envelope.causation_id, envelope.cause_sequence, envelope.cause_type) == (
            cause.id,
            cause.sequence,
            cause.type,
        )
        assert (envelope.traceparent or None) == (trace or cause.traceparent or None)
    assert cause_of(envelope, 7) == Cause(
        id, "BasketFilled", envelope.correlation_id, 7, envelope.hops, envelope.traceparent
    )
    # Written again, it is the same: a fold of the log does not depend on how often it was copied.
    assert decode(make(envelope.event), BasketFilled).event == event


@given(FIELDS, CAUSES, st.datetimes(timezones=st.just(UTC)))
def test_the_sdk_of_cloudevents_reads_our_documents(
    fields: dict[str, Any], cause: Cause | None, time: datetime
) -> None:
    raw = make(BasketFilled(**fields), key=fields["customerId"], cause=cause, time=time)
    theirs = JSONFormat().read(None, raw)
    assert isinstance(theirs, CloudEvent)
    assert (theirs.get_id(), theirs.get_source(), theirs.get_type()) == ("e-1", "/shop", "BasketFilled")
    assert theirs.get_subject() == fields["customerId"]
    assert theirs.get_time() == time
    assert theirs.get_datacontenttype() == "application/json"
    assert theirs.get_dataschema() == "urn:sojourn:BasketFilled:3"
    assert theirs.get_data() == json.loads(raw)["data"]
    assert theirs.get_extension("hops") == (0 if cause is None else cause.hops + 1)


@given(NAMES, FINITE, st.datetimes(timezones=st.just(UTC)))
def test_we_read_the_documents_of_the_sdk(key: str, ratio: float, time: datetime) -> None:
    attributes = {
        "id": "x",
        "source": "/till/3",
        "type": "BasketFilled",
        "subject": key,
        "time": time,
        "correlationid": "j-1",
        "tillnumber": 3,
    }
    raw = JSONFormat().write(CloudEvent(attributes, {"customerId": key, "ratio": ratio, "more": True}))
    envelope = decode(raw, BasketFilled)
    assert envelope.event == BasketFilled(customerId=key, ratio=ratio)
    assert (envelope.time, envelope.key, envelope.correlation_id) == (time, key, "j-1")
    assert (envelope.kind, envelope.hops, envelope.schema_version) == ("event", 0, 1)


@pytest.mark.parametrize(
    ("moment", "text"),
    [
        (NOON, "2026-01-01T12:00:00Z"),
        (NOON.replace(microsecond=120), "2026-01-01T12:00:00.000120Z"),
        (NOON.astimezone(ZoneInfo("Asia/Kathmandu")), "2026-01-01T12:00:00Z"),
        (datetime(1, 1, 1, tzinfo=UTC), "0001-01-01T00:00:00Z"),
        (datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC), "9999-12-31T23:59:59.999999Z"),
        # Before standard time, offsets had seconds, which RFC 3339 cannot write.
        (datetime(1900, 1, 1, tzinfo=ZoneInfo("Europe/Amsterdam")), "1899-12-31T23:40:28Z"),
    ],
)
def test_times_are_written_in_utc(moment: datetime, text: str) -> None:
    assert format_time(moment) == text


@given(st.datetimes(), OFFSETS)
def test_every_written_time_is_read_again(moment: datetime, zone: timezone) -> None:
    try:
        text = format_time(moment.replace(tzinfo=zone))
    except ValueError as error:
        assert moment.year in (1, 9999), error  # noqa: PT017 - either outcome is right
        return
    assert read(document(time=text)).time == moment.replace(tzinfo=zone)


def test_a_naive_time_is_refused() -> None:
    with pytest.raises(ValueError, match=r"is naive; say which zone"):
        format_time(datetime(2026, 1, 1))  # noqa: DTZ001 - that is the point
    with pytest.raises(DecodeError, match="time: Input should have timezone info"):
        read(document(time="2026-01-01T12:00:00"))


@pytest.mark.parametrize("time", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-01:00"])
def test_a_time_that_is_none_in_utc_is_refused_when_read(time: str) -> None:
    with pytest.raises(DecodeError, match="time: Value error, in UTC it is outside the years 1 to 9999"):
        read(document(time=time))


class LinkClicked(Event):
    customer_id: Key
    anything: Any = None


class Closed(BaseModel):
    model_config = ConfigDict(extra="forbid")
    n: int = 1

    @computed_field
    def twice(self) -> int:
        return 2 * self.n


class LeftOut(BaseModel):
    n: int = Field(exclude=True)


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (Json[list[int]], "[1]"),
        (Closed, Closed()),
        (LeftOut, LeftOut(n=1)),
        (dict[tuple[int, str], int], {(1, "a"): 1}),
        (dict[int | None, int], {None: 1}),
        (int, 10**4400),
    ],
    ids=["json", "closed", "left out", "keys", "no key", "long"],
)
def test_what_its_own_class_could_not_read_again_is_refused(annotation: Any, value: object) -> None:
    cls = create_model("ThingSeen", __base__=Event, customer_id=(Key, ...), thing=(annotation, ...))
    for _ in range(2):
        with pytest.raises(
            SchemaError, match=r"^ThingSeen is written in a way that it does not read itself.*: (thing|document)"
        ):
            make(cls.model_validate({"customer_id": "c1", "thing": value}))


def test_what_is_sealed_is_read_back_with_its_own_key() -> None:
    class SecretTold(Event, fact=True):
        customer_id: Key
        secret: Personal[Annotated[str, Field(min_length=3)]] | None = None

    key = CustomerKey.new()[0]
    with pytest.raises(
        SchemaError, match=r"does not read itself.*secret: String should have at least 3 characters"
    ) as caught:
        make(SecretTold.model_construct(customer_id="c1", secret="q!"), sealer=key)
    assert "q!" not in str(caught.value)
    assert SEALED.encode() in make(SecretTold(customer_id="c1", secret="abc"), sealer=key)


@pytest.mark.parametrize("value", [object(), b"\xff", "\ud800", {1, object()}, {"a": [lambda: 1]}], ids=told)
def test_what_has_no_json_is_refused(value: object) -> None:
    with pytest.raises(SchemaError, match="LinkClicked cannot be written as JSON"):
        make(LinkClicked(customer_id="c", anything=value))


@pytest.mark.parametrize("payload", [b"", b"{", b"\xff", b"nonsense", b'{"a":NaN', b"\xef\xbb\xbf{}", b"[" * 10_000])
def test_what_is_no_json_is_a_decode_error(payload: bytes) -> None:
    with pytest.raises(DecodeError, match=r"^not JSON: "):
        decode(payload, BasketFilled)


@pytest.mark.parametrize("payload", [b"[]", b"1", b"null", b'"{}"', b"true", b"{}", b'{"specversion":"0.3"}'])
def test_json_that_is_no_document_is_a_decode_error(payload: bytes) -> None:
    with pytest.raises(DecodeError, match=r"^no CloudEvents 1.0 document of a BasketFilled: "):
        decode(payload, BasketFilled)


@pytest.mark.parametrize(
    "changes",
    [
        {"specversion": "1.1"},
        {"specversion": 1.0},
        {"id": ...},
        {"id": ""},
        {"id": 5},
        {"id": "x" * 2049},
        {"source": None},
        {"type": []},
        {"subject": ...},
        {"time": "yesterday"},
        {"time": ...},
        {"time": "2026-13-01T00:00:00Z"},
        {"hops": -1},
        {"hops": "x"},
        {"hops": 2**31},
        {"schemaversion": 10**4_000},
        {"hops": None},
        {"correlationid": {}},
        {"causeseq": "first"},
        {"schemaversion": 0},
        {"data": ...},
        {"data": None},
        {"data": []},
        {"data": "{}"},
    ],
    ids=lambda changes: str(changes)[:60],
)
def test_bad_attributes_are_a_decode_error_that_names_them(changes: dict[str, Any]) -> None:
    with pytest.raises(DecodeError) as caught:
        read(document(**changes))
    assert f"{next(iter(changes))}: " in str(caught.value)


@pytest.mark.parametrize("data", [{}, {"customerId": ""}, {"customerId": 5}, {"customerId": "c", "count": "many"}])
def test_bad_data_are_a_schema_error(data: dict[str, Any]) -> None:
    with pytest.raises(SchemaError, match=r"^data does not fit BasketFilled: data\.\w+: ") as caught:
        read(document(data=data))
    assert type(caught.value) is SchemaError


def test_many_problems_are_counted() -> None:
    with pytest.raises(SchemaError, match=r"\(and 2 more\)$"):
        read(document(data={"customerId": "c", "count": "a", "ratio": "b", "amount": "c", "day": "d", "ref": "e"}))


def test_names_of_ours_are_no_attributes() -> None:
    # Only what stands on the wire counts: a stranger cannot set what has another name inside.
    envelope = read(document(cause_sequence=5, timer_generation=6, causation_id="x", key="other", event={}))
    assert (envelope.cause_sequence, envelope.timer_generation, envelope.causation_id, envelope.key) == (
        None,
        None,
        None,
        "c1",
    )


def test_versions() -> None:
    assert read(document(schemaversion=1)).schema_version == 1
    with pytest.raises(
        UnknownTypeError, match=r"BasketFilled version 4 is newer than version 3, .* update the code"
    ) as caught:
        read(document(schemaversion=4))
    assert caught.value.type == "BasketFilled"


def test_the_event_itself_stands_for_any_type() -> None:
    envelope = decode(json.dumps(document(type="Unheard", schemaversion=99)).encode(), Event)
    assert (envelope.type, envelope.schema_version, envelope.key) == ("Unheard", 99, "c1")


# What follows holds values that must not be seen in any message.


class Point(BaseModel):
    street: int

    @field_validator("street", mode="before")
    @classmethod
    def quoted(cls, value: object) -> object:
        if isinstance(value, str):
            raise ValueError(f"{value.upper()} is no number")
        return value


class CustomerMoved(Event):
    customer_id: Key
    address: Point | None = None
    scores: dict[str, int] = {}  # noqa: RUF012 - a pydantic default
    paid: Annotated[Card | Cash, Field(discriminator="kind")] | None = None
    ref: uuid.UUID | None = None
    day: date | None = None
    colour: Colour = Colour.RED
    number: int = 0
    short: Annotated[str, Field(max_length=2)] = ""
    note: str = ""

    @model_validator(mode="after")
    def whole(self) -> CustomerMoved:
        assert self.note != "secret-note", f"not {self.note}"
        if self.note == "secret-fault":
            raise KeyError(self.note)
        return self


@pytest.mark.parametrize(
    "data",
    [
        {"address": {"street": "secret lane"}},
        {"address": "secret"},
        {"scores": {"secret@example.com": "many"}},
        {"scores": {"secret@example.com": {"secret": "secret"}}},
        {"paid": {"kind": "secret"}},
        {"paid": {"kind": "cash", "given": "secret"}},
        {"ref": "secret"},
        {"day": "secret"},
        {"colour": "secret"},
        {"number": "secret"},
        {"short": "secret"},
        {"note": "secret-note"},
        {"note": "secret-fault"},
        {"note": ["secret"]},
        {"customer_id": "secret" * 100},
    ],
    ids=told,
)
def test_errors_hold_nothing_of_the_data(data: dict[str, Any]) -> None:
    raw = json.dumps(document(type="CustomerMoved", schemaversion=1, data={"customer_id": "c1"} | data)).encode()
    with pytest.raises(SchemaError) as caught:
        decode(raw, CustomerMoved)
    assert "secret" not in str(caught.value).lower()
    if "secret-fault" not in data.values():
        assert str(caught.value).startswith("data does not fit CustomerMoved: data")
        assert "secret" not in "".join(traceback.format_exception(caught.value)).replace(str(raw), "").lower()


def test_a_validator_that_breaks_is_a_schema_error_at_its_line() -> None:
    raw = json.dumps(
        document(type="CustomerMoved", schemaversion=1, data={"customer_id": "c1", "note": "secret-fault"})
    ).encode()
    with pytest.raises(
        SchemaError, match=r"a validator of CustomerMoved failed with KeyError at .*test_envelope\.py:\d+$"
    ):
        decode(raw, CustomerMoved)


@given(JSON, st.sampled_from(sorted(document())))
def test_any_change_of_a_document_is_read_or_refused_cleanly(value: Any, name: str) -> None:
    try:
        envelope = decode(to_json(document() | {name: value}), BasketFilled)
    except PermanentError:
        return
    assert isinstance(envelope.event, BasketFilled)


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode), st.integers(0, 300), st.integers(0, 20))
def test_any_damage_is_read_or_refused_cleanly(patch: bytes, start: int, length: int) -> None:
    raw = make(BasketFilled(customerId="c1", note="x", scores={"a": 1}), cause=Cause("i", "T", "j", 3, 1))
    try:
        decode(raw[:start] + patch + raw[start + length :], BasketFilled)
    except PermanentError:
        return


def test_a_document_has_no_line_breaks_and_only_what_it_says() -> None:
    raw = make(BasketFilled(customerId="c\n1", note="a\r\nb"), id=uuid7(), key="c\n1", source="/\r\n")
    assert b"\n" not in raw and b"\r" not in raw
    assert set(json.loads(raw)) == {
        *("specversion", "id", "source", "type", "subject", "time", "datacontenttype", "dataschema", "schemaversion"),
        *("kind", "correlationid", "hops", "data"),
    }
