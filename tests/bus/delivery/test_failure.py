"""Which failures are tried again, after how long, and what a dead letter says of the last one."""

from __future__ import annotations

import errno
import json
import socket
import sqlite3
import ssl
from datetime import UTC, datetime, timedelta
from email.message import Message
from typing import Any
from urllib.error import HTTPError, URLError

import httpx
import nats.errors
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import from_json

from sojourn.bus.delivery.failure import dead_facts, hosts_of, is_transient, pause, retry_after
from sojourn.bus.envelope import decode, encode
from sojourn.bus.errors import (
    ConcurrencyError,
    DecodeError,
    HandlerError,
    PermanentError,
    PublishError,
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


def database_error(name: str) -> Exception:
    """An error as SQLAlchemy has it, which is known by its names: nothing here depends on it."""
    base = type("SQLAlchemyError", (Exception,), {"__module__": "sqlalchemy.exc"})
    cls: type[Exception] = type(name, (base,), {"__module__": "sqlalchemy.exc"})
    return cls("x")


def raised_from(error: Exception, cause: BaseException) -> Exception:
    error.__cause__ = cause
    return error


class ClientError(Exception):
    """Of some client of an API, which wraps what its HTTP library raised."""

    def __init__(self, status: int | None = None, **facts: object) -> None:
        super().__init__(status)
        if status is not None:
            self.status_code = status
        self.__dict__.update(facts)


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
        ClientError(429),
        ClientError(response=httpx.Response(503)),
        raised_from(ClientError(), httpx.ConnectError("x")),
        raised_from(RuntimeError("x"), raised_from(ClientError(), TimeoutError())),
        OSError(errno.EHOSTUNREACH, "x"),
        OSError(errno.ENETDOWN, "x"),
        OSError(errno.EMFILE, "x"),
        socket.gaierror(socket.EAI_AGAIN, "x"),
        ssl.SSLEOFError("x"),
        HTTPError("http://shop.test", 503, "x", Message(), None),
        URLError(ConnectionRefusedError()),
        sqlite3.OperationalError("database is locked"),
        database_error("OperationalError"),
        database_error("TimeoutError"),
        database_error("DisconnectionError"),
        nats.errors.TimeoutError(),
        nats.errors.NoRespondersError(),
        nats.errors.ConnectionClosedError(),
        PublishError("x", event=None, reason=UnavailableError("x")),
        *(status(code) for code in (408, 425, 429, 500, 502, 503, 504, 520, 524, 529)),
        ExceptionGroup("", [TimeoutError(), ExceptionGroup("", [ConnectionError(), TransientError("x")])]),
    ],
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
        ClientError(404),
        raised_from(ClientError(404), TimeoutError()),
        raised_from(PermanentError("x"), TimeoutError()),
        raised_from(ValueError("x"), TimeoutError()),
        ClientError(),
        OSError(errno.ENOSPC, "x"),
        FileNotFoundError(errno.ENOENT, "x"),
        PermissionError(errno.EACCES, "x"),
        ssl.SSLCertVerificationError("x"),
        HTTPError("http://shop.test", 404, "x", Message(), None),
        URLError("unknown url type"),
        httpx.UnsupportedProtocol("x"),
        httpx.TooManyRedirects("x"),
        sqlite3.IntegrityError("x"),
        database_error("IntegrityError"),
        database_error("ProgrammingError"),
        nats.errors.BadSubjectError(),
        PublishError("x", event=None, reason=SchemaError("x")),
        *(status(code) for code in (400, 401, 403, 404, 409, 410, 422)),
        ExceptionGroup("", [TimeoutError(), ValueError()]),
        SystemExit(),
    ],
)
def test_these_will_not(error: BaseException) -> None:
    assert not is_transient(error)


@given(st.integers(1, 10**9), st.floats(0.001, 60), st.floats(60, 10**6))
def test_waits_double_up_to_their_bound_with_some_jitter(attempt: int, initial: float, maximum: float) -> None:
    seconds = pause(Retry(10, timedelta(seconds=initial), timedelta(seconds=maximum)), attempt)
    expected = min(initial * 2 ** min(attempt - 1, 100), maximum)
    assert expected * 0.99 <= seconds <= expected * 1.51


def circle() -> BaseException:
    one, other = ClientError(), ClientError()
    one.__cause__, other.__cause__ = other, one
    return one


def test_errors_in_a_circle_have_an_end() -> None:
    assert not is_transient(circle())
    assert hosts_of(circle()) == []


@pytest.mark.parametrize(
    ("error", "hosts"),
    [
        (httpx.ConnectError("x", request=REQUEST), ["shop.test"]),
        (httpx.ConnectError("x", request=httpx.Request("GET", "https://shop.test:8443/a")), ["shop.test:8443"]),
        (httpx.ConnectError("x"), []),
        (status(503), ["shop.test"]),
        (raised_from(TransientError("x"), status(503)), ["shop.test"]),
        (ClientError(host="db.test", port=5432), ["db.test:5432"]),
        (ClientError(host="db.test"), ["db.test"]),
        (ClientError(url="https://api.test/v1"), ["api.test"]),
        (ClientError(url="https://[oops"), []),
        (ClientError(host=7), []),
        (ExceptionGroup("", [status(503), ClientError(host="db.test"), status(500)]), ["shop.test", "db.test"]),
        (TimeoutError(), []),
    ],
)
def test_the_hosts_that_an_error_names(error: BaseException, hosts: list[str]) -> None:
    assert hosts_of(error) == hosts


def told(after: str, code: int = 503) -> httpx.HTTPStatusError:
    response = httpx.Response(code, request=REQUEST, headers={"Retry-After": after})
    return httpx.HTTPStatusError("x", request=REQUEST, response=response)


@pytest.mark.parametrize(
    ("error", "seconds"),
    [
        (told("7"), 7),
        (told("0.5"), 0.5),
        (told("Thu, 01 Jan 2026 12:00:30 GMT"), 30),
        (told("Thu, 01 Jan 2026 12:00:30 -0000"), 30),
        (told("Thu, 01 Jan 2026 11:00:00 GMT"), 0),
        (told("86400"), 300),
        (told("inf"), 300),
        (told("nan"), 0),
        (told("-3"), 0),
        (told("soon"), 0),
        (told(""), 0),
        (raised_from(TransientError("x"), told("7")), 7),
        (ClientError(retry_after=9), 9),
        (ClientError(retry_after=timedelta(seconds=9)), 9),
        (ClientError(headers={"retry-after": "4"}), 4),
        (ExceptionGroup("", [told("3"), told("5")]), 5),
        (status(503), 0),
        (TimeoutError(), 0),
    ],
)
def test_how_long_the_server_asked_to_wait(error: BaseException, seconds: float) -> None:
    assert retry_after(error, NOON) == seconds


def test_nobody_is_called_before_the_time_that_was_asked_for() -> None:
    assert 20 <= pause(Retry(), 1, 20.0) <= 30
    assert pause(Retry(), 1, 0.01) >= 0.2


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
