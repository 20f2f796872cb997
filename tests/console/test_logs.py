from __future__ import annotations

import asyncio
import gc
import io
import json
import logging
import re
import sys
import threading
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
import structlog
from pydantic import BaseModel

from sojourn.bus.personal.key import CustomerKey, handle, handling
from sojourn.console import logs


class Order(BaseModel):
    name: str
    amount: int


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    out, err = capsys.readouterr()
    assert out == ""
    return err.splitlines()


def test_elsewhere_than_on_a_terminal_logs_are_json_lines(capsys: pytest.CaptureFixture[str]) -> None:
    assert logs.configure() is False
    log = structlog.get_logger("sojourn.worker").bind(agent="win-back", customer="c1", envelope="e", correlation="k")
    log.info("did it", count=3)
    (line,) = lines(capsys)
    document = json.loads(line)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", document.pop("timestamp"))
    assert document == {
        "event": "did it", "level": "info", "logger": "sojourn.worker", "count": 3,
        "agent": "win-back", "customer": "c1", "envelope": "e", "correlation": "k",
    }  # fmt: skip


def test_text_puts_the_message_first_and_identifiers_last(capsys: pytest.CaptureFixture[str]) -> None:
    assert logs.configure(style="text") is True
    structlog.get_logger().bind(envelope="e", customer="c 1", correlation="k", agent="a").warning("oh no", why="x=1")
    (line,) = lines(capsys)
    assert re.fullmatch(r'\d\d:\d\d:\d\d warning oh no agent=a customer="c 1" why=x=1 envelope=e correlation=k', line)


def test_json_lines_are_readable_in_any_alphabet_and_escape_what_does_not_print(
    capsys: pytest.CaptureFixture[str],
) -> None:
    logs.configure()
    odd = "\x1b[2J\x9b\x85\u2028\u202e\udc80\U000e0041\n"
    structlog.get_logger().info("••• aus Köln 🛒", odd=odd)
    (line,) = lines(capsys)
    assert "••• aus Köln 🛒" in line and line.isprintable()
    assert json.loads(line)["odd"] == odd


def test_json_lines_are_ascii_where_the_terminal_has_no_utf8(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(raw, encoding="latin-1", write_through=True))
    logs.configure()
    structlog.get_logger().info("••• 🛒")
    assert json.loads(raw.getvalue().decode("ascii"))["event"] == "••• 🛒"


def test_context_variables_are_on_every_line(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure()
    with structlog.contextvars.bound_contextvars(customer="c1"):
        structlog.get_logger().info("a")
        logging.getLogger("library").info("b")
    assert [json.loads(line)["customer"] for line in lines(capsys)] == ["c1", "c1"]


def test_libraries_are_routed_in_and_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure()
    for name in ("nats", "nats.aio.client", "asyncio", "httpx"):
        logging.getLogger(name).info("chatter")
        logging.getLogger(name).warning("trouble with %s", name)
    logging.getLogger("users.own").info("news")
    told = [json.loads(line) for line in lines(capsys)]
    assert [one["event"] for one in told] == [
        "trouble with nats", "trouble with nats.aio.client", "trouble with asyncio", "trouble with httpx", "news",
    ]  # fmt: skip


def test_what_customers_sent_is_withheld(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure()
    order = Order(name="Zoë", amount=3)
    structlog.get_logger().info("got", order=order, raw=b"Zo\xeb", several=[order, {"inner": order}], n=3)
    document = json.loads(lines(capsys)[0])
    assert document["order"] == "<Order>"
    assert document["raw"] == "<3 bytes>"
    assert document["several"] == ["<Order>", {"inner": "<Order>"}]
    assert document["n"] == 3


@pytest.mark.parametrize("style", ["text", "json"])
def test_tracebacks_do_not_hold_refused_values(style: logs.Style, capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(style=style)
    sent = {"name": {"secret": "Zoë"}, "amount": "none of yours"}
    try:
        try:
            Order.model_validate(sent)
        except ValueError as error:
            raise ExceptionGroup("several", [error, RuntimeError("plain")]) from error
    except ExceptionGroup:
        structlog.get_logger().exception("failed")
        logging.getLogger("users.own").exception("failed too")
    told = "\n".join(lines(capsys))
    assert "Zoë" not in told
    assert "none of yours" not in told
    assert told.count("amount: Input should be a valid integer") == 4
    assert "RuntimeError: plain" in told
    assert sys._getframe().f_code.co_name in told


def test_nothing_in_a_text_log_moves_the_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(style="text")
    structlog.get_logger().info("odd \x1b[2J", customer="evil\x1b[1A\u202e", kind=["\x1b"])
    logging.getLogger("users.own").warning("odd\r\nsojourn: all is well")
    told = lines(capsys)
    assert len(told) == 2
    assert all(line.isprintable() for line in told)


def test_levels(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(level="warning")
    structlog.get_logger().info("a")
    structlog.get_logger().warning("b")
    assert [json.loads(line)["event"] for line in lines(capsys)] == ["b"]


def test_a_log_that_nobody_reads_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone:
        def write(self, text: str) -> int:
            raise BrokenPipeError

        def flush(self) -> None:
            raise BrokenPipeError

        def isatty(self) -> bool:
            return False

    monkeypatch.setattr(sys, "stderr", Gone())
    logs.configure()
    structlog.get_logger().info("anyone?")


@pytest.fixture
def key() -> Iterator[CustomerKey]:
    """The key of the customer whose event is being handled; it has sealed a few values."""
    made, _ = CustomerKey.new()
    for value in ("ann@example.org", "Zoë Müller", 4711, {"street": "Long Way 7"}):
        made.seal(json.dumps(value).encode())
    token = handling.set(made)
    yield made
    handling.reset(token)


PERSONAL = ("ann@example.org", "ANN@", "Zoë", "Zo\\u00eb", "Zo\\xeb", "M\xfcller", "4711", "Long Way")


@pytest.mark.parametrize("style", ["text", "json"])
def test_personal_values_of_whom_is_handled_are_scrubbed_from_every_line(
    style: logs.Style, key: CustomerKey, capsys: pytest.CaptureFixture[str]
) -> None:
    class Telling:
        def __repr__(self) -> str:
            return "<to ann@example.org>"

    logs.configure(style=style)
    log = structlog.get_logger("sojourn.worker").bind(to="ann@example.org")
    log.info("mail to ANN@Example.org", deep=[{"Zoë Müller": ("4711", 4711)}], it=Telling(), url="?q=ann%40example.org")
    log.info(
        "as %s", "ann@example.org", error=ValueError("Zoë Müller"), when=datetime(2026, 1, 1, tzinfo=UTC), n=5, ok=True
    )
    logging.getLogger("users.own").warning("mail to %s: %r", "ann@example.org", {"name": "Zoë Müller"})
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("no mail for ann@example.org", UserWarning, stacklevel=1)
    try:
        try:
            raise KeyError("ann@example.org")
        except KeyError as error:
            raise RuntimeError("lost Zoë Müller at Long Way 7") from error
    except RuntimeError:
        log.exception("failed for Zoë Müller")
        logging.getLogger("users.own").exception("failed")
    told = "\n".join(lines(capsys))
    for value in PERSONAL:
        assert value not in told, value
    assert told.count("RuntimeError: lost ••• at •••") == 2
    assert told.count("UserWarning: no mail for") == 1
    assert "2026-01-01" in told
    assert ("n=5" if style == "text" else '"n": 5') in told
    if style == "json":
        assert all(json.loads(line)["level"] in ("info", "warning", "error") for line in told.splitlines())


@pytest.mark.parametrize("style", ["text", "json"])
def test_nothing_is_scrubbed_while_nobody_is_handled(style: logs.Style, capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(style=style)
    structlog.get_logger().info("mail to ann@example.org", age=42)
    assert "mail to ann@example.org" in lines(capsys)[0]


def test_what_a_line_says_of_itself_stays_whatever_is_personal(
    key: CustomerKey, capsys: pytest.CaptureFixture[str]
) -> None:
    key.seal(b'"info"')
    key.seal(json.dumps(datetime.now(UTC).year).encode())
    logs.configure()
    structlog.get_logger().info("info")
    document = json.loads(lines(capsys)[0])
    assert (document["level"], document["event"]) == ("info", "•••")
    assert datetime.fromisoformat(document["timestamp"]).year == datetime.now(UTC).year


async def test_a_thread_that_takes_the_context_along_is_scrubbed_too(
    key: CustomerKey, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.configure()
    await asyncio.to_thread(logging.getLogger("users.own").warning, "mail to ann@example.org")
    assert json.loads(lines(capsys)[0])["event"] == "mail to •••"


@pytest.fixture
def handled() -> CustomerKey:
    """The key of a customer whose event was handled a moment ago."""
    made, _ = CustomerKey.new()
    for value in ("eva@example.org", "Eva", "Zoë Müller", 47):
        made.seal(json.dumps(value).encode())
    handling.reset(handle(made))
    return made


async def test_a_task_that_a_handler_left_behind_is_scrubbed_when_it_is_told_of(
    handled: CustomerKey, capsys: pytest.CaptureFixture[str]
) -> None:
    async def fail() -> None:
        raise ValueError("no mail for eva@example.org")

    logs.configure()
    task = asyncio.create_task(fail())
    await asyncio.wait([task])
    del task
    gc.collect()
    (line,) = lines(capsys)
    assert "Task exception was never retrieved" in line and "ValueError: no mail for •••" in line
    assert "eva@" not in line


async def test_a_thread_that_a_handler_started_is_scrubbed(
    handled: CustomerKey, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.configure()
    log = logging.getLogger("users.own")
    thread = threading.Thread(target=log.warning, args=("mail to %s, Zo\\u00eb M\\xfcller", "EVA@example.org"))
    thread.start()
    thread.join()
    assert json.loads(lines(capsys)[0])["event"] == "mail to •••, •••"


def test_outside_a_handling_only_what_stands_alone_is_hidden(
    handled: CustomerKey, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.configure()
    structlog.get_logger("users.own").info("an evaluation for Eva, 47 seconds", count=47)
    structlog.get_logger("sojourn.worker").info("worker Eva started")
    told = [json.loads(line) for line in lines(capsys)]
    assert [line["event"] for line in told] == ["an evaluation for •••, 47 seconds", "worker Eva started"]
    assert told[0]["count"] == 47


def test_an_error_is_scrubbed_in_its_own_lines_too(handled: CustomerKey, capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure()
    try:
        raise ValueError("eva@example.org")
    except ValueError:
        structlog.get_logger("sojourn.worker").exception("a handling failed")
    assert "ValueError: •••" in lines(capsys)[0]


def test_the_last_thousand_customers_are_remembered_and_none_is_kept_alive(
    handled: CustomerKey, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.configure()
    log = logging.getLogger("users.own")
    others = [CustomerKey.new()[0] for _ in range(1_000)]
    for number in range(1_000):
        others[number].seal(json.dumps(f"{number:04}@example.org").encode())
        if number == 999:
            log.info("eva@example.org")
        handling.reset(handle(others[number]))
    log.info("eva@example.org and 0000@example.org")
    del others
    gc.collect()
    log.info("0000@example.org")
    assert [json.loads(line)["event"] for line in lines(capsys)] == [
        "•••",
        "eva@example.org and •••",
        "0000@example.org",
    ]
