"""Which failures are tried again, after how long, and what a dead letter says of the last one."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import from_json

from sojourn.bus.delivery.failure import dead_facts, is_transient, pause
from sojourn.bus.envelope import decode, encode
from sojourn.bus.errors import (
    ConcurrencyError,
    DecodeError,
    HandlerError,
    PermanentError,
    SchemaError,
    TimedOutError,
    TransientError,
    UnavailableError,
)
from sojourn.bus.event import Event, Key
from sojourn.bus.processor import Recorded, Retry

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
REQUEST = httpx.Request("GET", "http://shop.test/")


class OrderPlaced(Event):
    customer_id: Key
    card: str = ""
    count: int = 0


def status(code: int) -> httpx.HTTPStatusError:
    return httpx.HTTPStatusError(str(code), request=REQUEST, response=httpx.Response(code, request=REQUEST))


class OwnError(PermanentError, TimeoutError):
    """Of two minds: what its author says last counts."""


@pytest.mark.parametrize(
    "error",
    [
        TransientError("x"),
        TimedOutError("x"),
        UnavailableError("x"),
        TimeoutError(),
        ConnectionResetError(),
        ConnectionRefusedError(),
        BrokenPipeError(),
        httpx.ConnectError("x"),
        httpx.ReadTimeout("x", request=REQUEST),
        httpx.RemoteProtocolError("x"),
        *(status(code) for code in (408, 425, 429, 500, 502, 503, 504, 520, 524, 529)),
        ExceptionGroup("", [TimeoutError(), ExceptionGroup("", [ConnectionError(), TransientError("x")])]),
    ],
    ids=repr,
)
def test_these_may_go_away(error: BaseException) -> None:
    assert is_transient(error)


@pytest.mark.parametrize(
    "error",
    [
        PermanentError("x"),
        SchemaError("x"),
        HandlerError("x"),
        OwnError(),
        ConcurrencyError("x", expected=1, actual=2),
        ValueError(),
        KeyError("x"),
        OSError("disk full"),
        ZeroDivisionError(),
        httpx.InvalidURL("x"),
        httpx.StreamConsumed(),
        httpx.CookieConflict("x"),
        *(status(code) for code in (400, 401, 403, 404, 409, 410, 422)),
        ExceptionGroup("", [TimeoutError(), ValueError()]),
        SystemExit(),
    ],
    ids=repr,
)
def test_these_will_not(error: BaseException) -> None:
    assert not is_transient(error)


@given(st.integers(1, 10**9), st.floats(0.001, 60), st.floats(60, 10**6))
def test_waits_double_up_to_their_bound_with_some_jitter(attempt: int, initial: float, maximum: float) -> None:
    seconds = pause(Retry(10, timedelta(seconds=initial), timedelta(seconds=maximum)), attempt)
    expected = min(initial * 2 ** min(attempt - 1, 100), maximum)
    assert expected * 0.99 <= seconds <= expected * 1.51


def test_waits_differ() -> None:
    assert len({pause(Retry(), 3) for _ in range(20)}) > 1


def recorded(**fields: Any) -> Recorded:
    raw = encode(OrderPlaced(customer_id="c1", **fields), id="e-1", source="/s", key="c1", time=NOON)
    return Recorded(decode(raw, OrderPlaced), 7)


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:  # noqa: BLE001 - whatever a handler may raise
        return caught


def facts_of(error: BaseException, **changes: Any) -> dict[str, Any]:
    told: dict[str, Any] = {
        "recorded": recorded(),
        "subject": "s.log.1.c1.evt.OrderPlaced",
        "attempts": 3,
        "version": 2,
    }
    return dead_facts(error, now=NOON, **told | changes)


def test_a_dead_letter_says_what_where_and_which() -> None:
    facts = facts_of(raised(ValueError("no stock")))
    assert "test_failure.py" in facts.pop("traceback")
    assert facts == {
        "reason": "no stock",
        "error": "ValueError",
        "attempts": 3,
        "version": 2,
        "subject": "s.log.1.c1.evt.OrderPlaced",
        "type": "OrderPlaced",
        "id": "e-1",
        "correlationid": "e-1",
        "time": "2026-01-01T12:00:00Z",
    }


class Broken(Exception):
    def __str__(self) -> str:
        raise RuntimeError("not even that")


@pytest.mark.parametrize(
    "error",
    [
        Broken(),
        ValueError(),
        ValueError("\ud800"),
        ValueError("x\udcff" * 9_000),
        ValueError("\0\r\n"),
        RecursionError("x" * 10**6),
    ],
    ids=["broken", "empty", "surrogate", "long", "control", "huge"],
)
def test_whatever_an_exception_says_the_record_is_small_and_can_be_read_again(error: Exception) -> None:
    facts = facts_of(raised(error))
    assert facts["reason"] and len(facts["reason"]) <= 2_000
    assert len(facts["traceback"]) <= 8_000
    # As lanes write and read it.
    assert from_json(json.dumps(facts).encode()) == facts


@given(st.text(st.characters(), max_size=30))
def test_any_reason_is_kept_readable(text: str) -> None:
    facts = facts_of(raised(ValueError(text)))
    assert from_json(json.dumps(facts).encode()) == facts


def test_the_end_of_a_long_traceback_is_kept() -> None:
    def deeper(depth: int) -> None:
        if depth:
            deeper(depth - 1)
        raise ValueError("x" * 3_000 + " the end")

    with pytest.raises(ValueError, match="the end") as caught:
        deeper(50)
    assert facts_of(caught.value)["traceback"].rstrip().endswith("the end")


@pytest.mark.parametrize(
    "data", [{"customer_id": "c1", "count": "4111-1111"}, {"customer_id": "c1", "card": ["4111-1111"]}]
)
def test_of_what_could_not_be_read_nothing_is_quoted(data: dict[str, Any]) -> None:
    document = json.loads(encode(OrderPlaced(customer_id="c1"), id="e", source="/s", key="c1", time=NOON))
    with pytest.raises(SchemaError) as caught:
        decode(json.dumps(document | {"data": data}).encode(), OrderPlaced)
    facts = facts_of(caught.value, recorded=None)
    assert "4111" not in json.dumps(facts)
    assert (facts["traceback"], facts["id"], facts["type"], facts["correlationid"]) == ("", None, "OrderPlaced", None)


def test_without_a_traceback_there_is_none() -> None:
    assert facts_of(DecodeError("made, not raised"))["traceback"] == ""
