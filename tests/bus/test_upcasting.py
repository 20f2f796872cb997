"""Older versions are read as the code's own, wherever they are read, and broken upcasters say where they are."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from sojourn import Event, Key, Personal, upcast
from sojourn.bus.clock import WallClock
from sojourn.bus.envelope import decode, encode
from sojourn.bus.errors import DefinitionError, SchemaError, UnknownTypeError
from sojourn.bus.memory import MemoryTransport
from sojourn.bus.personal.key import CustomerKey, UnknownKeyError
from sojourn.bus.personal.keyring import KeyRing
from sojourn.bus.personal.master import MasterKeys
from sojourn.bus.reading import Reader, UnknownVersionError, read_as
from sojourn.bus.schemas.store import Schemas
from sojourn.bus.subjects import Namespace
from sojourn.bus.timers import VirtualTimers

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


class Old:
    class OrderPlaced(Event):
        customer_id: Key
        amount: Decimal
        name: Personal[str] | None = None


class Middle:
    class OrderPlaced(Event, version=2):
        customer_id: Key
        total: Decimal
        name: Personal[str] | None = None


class OrderPlaced(Event, version=3):
    customer_id: Key
    total: Decimal
    currency: str
    first_name: Personal[str] | None = None
    note: str = ""


@upcast(OrderPlaced, from_version=1)
def renamed(data: dict[str, Any]) -> dict[str, Any]:
    return {("total" if name == "amount" else name): value for name, value in data.items()}


@upcast(OrderPlaced, from_version=2)
def with_currency(data: dict[str, Any]) -> dict[str, Any]:
    name = data.pop("name", None)
    return {**data, "currency": "EUR", "first_name": name.split()[0] if name is not None else None}


def stored(event: Event, key: CustomerKey | None = None, **changes: Any) -> bytes:
    payload = encode(event, id="e-1", source="/shop", key="c1", time=NOON, sealer=key)
    return json.dumps(json.loads(payload) | changes).encode() if changes else payload


def test_each_version_is_brought_up_by_its_own_steps() -> None:
    for older in (Old.OrderPlaced(customer_id="c1", amount=Decimal("1.50")),
                  Middle.OrderPlaced(customer_id="c1", total=Decimal("1.50"))):  # fmt: skip
        envelope = decode(stored(older), OrderPlaced)
        assert envelope.event == OrderPlaced(customer_id="c1", total=Decimal("1.50"), currency="EUR")
        assert envelope.schema_version == older.__sojourn__.version  # type: ignore[union-attr]
    now = OrderPlaced(customer_id="c1", total=Decimal(2), currency="USD")
    assert decode(stored(now), OrderPlaced).event == now


def test_a_document_that_does_not_say_its_version_is_the_first() -> None:
    document = json.loads(stored(Old.OrderPlaced(customer_id="c1", amount=Decimal(1))))
    del document["schemaversion"]
    assert decode(json.dumps(document).encode(), OrderPlaced).event == OrderPlaced(
        customer_id="c1", total=Decimal(1), currency="EUR"
    )


@pytest.mark.parametrize(
    "trap",
    [
        {"id": '"schemaversion":3,'},
        {"correlationid": '"schemaversion":3,'},
        {"data": {"customer_id": "c1", "amount": "1", "schemaversion": 3, "total": "7", "currency": "USD"}},
    ],
)
def test_what_looks_like_a_version_is_none(trap: dict[str, Any]) -> None:
    payload = json.dumps(
        json.loads(stored(Old.OrderPlaced(customer_id="c1", amount=Decimal(1)))) | trap, separators=(",", ":")
    ).encode()
    event = decode(payload, OrderPlaced).event
    assert isinstance(event, OrderPlaced) and event.currency == "EUR"


def test_personal_values_come_to_upcasters_plain_and_as_none_once_they_are_erased() -> None:
    key, _ = CustomerKey.new()
    payload = stored(Old.OrderPlaced(customer_id="c1", amount=Decimal(1), name="Ann Example"), key)
    assert b"Ann" not in payload
    read = decode(payload, OrderPlaced, Reader(key=key)).event
    assert isinstance(read, OrderPlaced) and read.first_name == "Ann"
    erased = decode(payload, OrderPlaced, Reader())
    assert erased.event == OrderPlaced(customer_id="c1", total=Decimal(1), currency="EUR")
    assert erased.erased == ("name",)
    with pytest.raises(UnknownKeyError):
        decode(payload, OrderPlaced, Reader(key=CustomerKey.new()[0], certain=False))


class Broken(Event, fact=True, version=6):
    customer_id: Key
    count: int = 0


@upcast(Broken, from_version=1)
def failing(data: dict[str, Any]) -> dict[str, Any]:
    return {"customer_id": data["secret-that-is-missing"]}


@upcast(Broken, from_version=2)
def forgetful(data: dict[str, Any]) -> dict[str, Any]:
    data["customer_id"] = "c2"
    return None  # type: ignore[return-value]  # as people forget


@upcast(Broken, from_version=4)
def moving(data: dict[str, Any]) -> dict[str, Any]:
    data["customer_id"] = "the-secret-customer"
    return data


@upcast(Broken, from_version=5)
def leaving(data: dict[str, Any]) -> dict[str, Any]:
    raise SystemExit("secret")


@pytest.mark.parametrize(
    ("version", "message"),
    [
        (1, r"the upcaster of Broken from version 1 \(.*test_upcasting\.py:\d+\) failed with KeyError$"),
        (2, r"the upcaster of Broken from version 2 \(.*\) returned NoneType: it has to return .* version 3, a dict"),
        (
            4,
            r"the upcaster of Broken from version 4 \(.*\) changed customer_id, the customer: events stay",
        ),
        (5, r"the upcaster of Broken from version 5 \(.*\) failed with SystemExit$"),
    ],
)
def test_what_goes_wrong_in_an_upcaster_is_told_without_the_data(version: int, message: str) -> None:
    payload = stored(Broken(customer_id="c1"), schemaversion=version)
    with pytest.raises(SchemaError, match=message) as caught:
        decode(payload, Broken)
    assert "secret" not in str(caught.value)


class Misread(Event, fact=True, version=2):
    customer_id: Key
    count: int = 0


@upcast(Misread, from_version=1)
def unfitting(data: dict[str, Any]) -> dict[str, Any]:
    return {**data, "count": {"secret": 1}}


def test_what_an_upcaster_made_has_to_fit() -> None:
    payload = stored(Misread(customer_id="c1"), schemaversion=1)
    with pytest.raises(
        SchemaError, match=r"^brought up from version 1: data does not fit Misread: data\.count: "
    ) as caught:
        decode(payload, Misread)
    assert "secret" not in str(caught.value)


def test_an_upcaster_is_checked_when_it_is_made() -> None:
    async def later(data: dict[str, Any]) -> dict[str, Any]:
        return data

    def steps(data: dict[str, Any]) -> Iterator[dict[str, Any]]:
        yield data

    def two(data: dict[str, Any], more: int) -> dict[str, Any]:
        return data

    def fine(data: dict[str, Any]) -> dict[str, Any]:
        return data

    class Abstract(Event, abstract=True):
        customer_id: Key

    class TillOpened(Event, version=2):
        customer_id: Key

    functions: list[tuple[Any, str]] = [(later, "async"), (steps, "yield"), (two, "nothing else"), (dict, "a function")]
    for function, says in functions:
        with pytest.raises(DefinitionError, match=says):
            upcast(TillOpened, from_version=1)(function)
    for version in (0, -1, True, "1", 1.0):
        with pytest.raises(DefinitionError, match="whole number from 1"):
            upcast(TillOpened, from_version=version)  # type: ignore[arg-type]
    with pytest.raises(DefinitionError, match=r"the class is version 2, .* class TillOpened\(Event, version=3\)"):
        upcast(TillOpened, from_version=2)
    with pytest.raises(DefinitionError, match="abstract"):
        upcast(Abstract, from_version=1)
    with pytest.raises(DefinitionError, match="takes an event class"):
        upcast(dict, from_version=1)  # type: ignore[arg-type]
    assert upcast(TillOpened, from_version=1)(fine) is fine
    assert upcast(TillOpened, from_version=1)(fine) is fine  # a module that is read twice
    with pytest.raises(DefinitionError, match="reads that version already"):
        upcast(TillOpened, from_version=1)(lambda data: data)


def test_upcasters_are_a_classes_own() -> None:
    class Base(Event, fact=True, version=2):
        customer_id: Key

    @upcast(Base, from_version=1)
    def up(data: dict[str, Any]) -> dict[str, Any]:
        return data

    class Derived(Base, fact=True, version=2):
        pass

    assert Base.__sojourn_upcasters__ == {1: up} and Derived.__sojourn_upcasters__ == {}


# What a reader has to fetch first.


class Newer:
    class OrderPlaced(Event, version=4):
        customer_id: Key
        total: Decimal
        currency: str
        first_name: Personal[str] | None = None
        note: str = ""
        gift: bool = False


class Closed:
    class TillOpened(Event, extra="forbid"):
        customer_id: Key
        float_: int = 0

    class Shut:
        class TillOpened(Event, version=2, extra="forbid"):
            customer_id: Key
            by: str = "nobody"


def test_a_closed_model_bears_the_fields_of_another_version() -> None:
    """Lenient rules let fields come and go in closed models, too, so readers have to live with that."""
    old, new = Closed.TillOpened, Closed.Shut.TillOpened
    brought_up = decode(stored(old(customer_id="c1", float_=7)), new)
    assert brought_up.event == new(customer_id="c1")
    with pytest.raises(SchemaError, match="Extra inputs are not permitted"):
        decode(stored(new(customer_id="c1"), data={"customer_id": "c1", "more": 1}), new)


class Foreign:
    class OrderPlaced(Event, version=4, compatibility="NONE"):
        customer_id: Key
        lines: list[str]


@pytest.fixture
async def transport() -> MemoryTransport:
    return MemoryTransport(VirtualTimers())


@pytest.mark.parametrize(("newer", "readable"), [(Newer.OrderPlaced, True), (Foreign.OrderPlaced, False)])
async def test_a_newer_version_is_read_where_its_schema_allows(
    transport: MemoryTransport, newer: type[Event], readable: bool
) -> None:
    facts = {"total": "1", "currency": "EUR"} if readable else {"lines": ["a"]}
    payload = stored(newer.model_validate({"customer_id": "c1", **facts}))
    bucket = await transport.bucket("T_registry")
    theirs, ours = Schemas(bucket, clock=WallClock()), Schemas(bucket, clock=WallClock())
    keys = KeyRing(transport, Namespace("t"), MasterKeys.new())
    reader = Reader(ours, certain=False)
    try:
        with pytest.raises(UnknownVersionError):
            decode(payload, OrderPlaced, reader)
        with pytest.raises(UnknownTypeError, match=r"OrderPlaced version 4 is newer than version 3, .* not registered"):
            await read_as(reader, keys, "c1", lambda: decode(payload, OrderPlaced, reader))
        await theirs.admit(newer)
        read = read_as(reader, keys, "c1", lambda: decode(payload, OrderPlaced, reader))
        if readable:
            envelope = await read
            assert envelope.event == OrderPlaced(customer_id="c1", total=Decimal(1), currency="EUR")
            assert envelope.schema_version == 4
        else:
            with pytest.raises(UnknownTypeError, match="cannot be read"):
                await read
    finally:
        for opened in (theirs, ours, keys):
            await opened.close()


async def test_a_key_that_is_not_at_hand_is_fetched_and_one_that_is_gone_reads_none(
    transport: MemoryTransport,
) -> None:
    master = MasterKeys.new()
    theirs, ours = (KeyRing(transport, Namespace("t"), master) for _ in range(2))
    reader = Reader(certain=False)
    event = OrderPlaced(customer_id="c1", total=Decimal(1), currency="EUR", first_name="Ann")
    first = stored(event, await theirs.ensure("c1"))
    try:
        assert (await read_as(reader, ours, "c1", lambda: decode(first, OrderPlaced, reader))).event == event
        await theirs.erase("c1")
        second = stored(event, await theirs.ensure("c1"))
        for payload, name in ((second, "Ann"), (first, None), (second, "Ann")):
            envelope = await read_as(reader, ours, "c1", lambda raw=payload: decode(raw, OrderPlaced, reader))  # type: ignore[misc]
            assert isinstance(envelope.event, OrderPlaced) and envelope.event.first_name == name
            assert envelope.erased == (() if name else ("first_name",))
            assert not reader.certain
    finally:
        await theirs.close()
        await ours.close()
