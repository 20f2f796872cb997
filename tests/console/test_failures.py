from __future__ import annotations

import pytest

from sojourn.bus.errors import (
    BusyError,
    ConfigurationError,
    NotFoundError,
    PermissionDenied,
    PublishError,
    SchemaError,
    SojournError,
    TimedOutError,
    UnavailableError,
    UnknownTypeError,
)
from sojourn.console.failures import Problems, report, status_of
from tests.console.conftest import Console


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (NotFoundError("x"), 3),
        (UnknownTypeError("x", type="T"), 3),
        (PermissionDenied("x"), 4),
        (UnavailableError("x"), 5),
        (TimedOutError("x"), 5),
        (BusyError("x"), 5),
        (ConfigurationError("x"), 1),
        (Problems(["x"]), 1),
        (PublishError("x", event=None, reason=UnavailableError("y")), 5),
        (ZeroDivisionError("x"), 1),
        (ExceptionGroup("g", [ConfigurationError("x"), ExceptionGroup("h", [PermissionDenied("y")])]), 4),
    ],
)
def test_exit_statuses(error: Exception, status: int) -> None:
    assert status_of(error) == status


def told(
    capsys: pytest.CaptureFixture[str], error: BaseException, *, debug: bool = False, secrets: tuple[str, ...] = ()
) -> str:
    report(error, debug=debug, secrets=secrets)
    out, err = capsys.readouterr()
    assert out == ""
    return err


def test_an_error_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert told(capsys, UnavailableError("no server\nat host\x1b[2J")) == "sojourn: no server at host\\x1b[2J\n"


def test_a_refusal_of_the_schema_registry_keeps_its_lines(capsys: pytest.CaptureFixture[str]) -> None:
    refusal = SchemaError("A differs:\n  value  type changed\x1b[2J\n\nraise the version")
    expected = "sojourn: A differs:\nsojourn:   value  type changed\\x1b[2J\nsojourn: raise the version\n"
    assert told(capsys, refusal) == expected
    assert told(capsys, PublishError(str(refusal), event=None, reason=refusal)) == expected
    assert told(capsys, ExceptionGroup("g", [refusal, refusal])) == expected


def test_the_unexpected_is_one_line_too_and_says_how_to_see_more(capsys: pytest.CaptureFixture[str]) -> None:
    assert told(capsys, ZeroDivisionError("division by zero")) == (
        "sojourn: ZeroDivisionError: division by zero (--debug shows where)\n"
    )
    assert told(capsys, KeyError()) == "sojourn: KeyError (--debug shows where)\n"


def test_a_group_tells_its_members_once_and_not_all_of_hundreds(capsys: pytest.CaptureFixture[str]) -> None:
    same = [PublishError("same", event=None, reason=SojournError("x")) for _ in range(5)]
    assert told(capsys, ExceptionGroup("g", same)) == "sojourn: same\n"
    many = [SojournError(f"no {number}") for number in range(5)]
    assert told(capsys, ExceptionGroup("g", many)).splitlines()[-1] == "sojourn: … and 2 more failures"


def test_short_secrets_do_not_blot_out_words(capsys: pytest.CaptureFixture[str]) -> None:
    err = told(capsys, SojournError("nats://me:w@host does not allow it"), secrets=("w",))
    assert err == "sojourn: nats://***@host does not allow it\n"


def test_secrets_are_blotted_out(capsys: pytest.CaptureFixture[str]) -> None:
    err = told(capsys, SojournError("nats://me:s3cret@host refused"), debug=True, secrets=("s3cret",))
    assert "s3cret" not in err
    assert "nats://***@host" in err


def test_commands_show_the_traceback_only_with_debug(console: Console) -> None:
    console.failure = UnavailableError("no NATS server answers at host:4222")
    plain, debug = console("agents", "ls"), console("agents", "ls", "--debug")
    assert plain == (5, "", "sojourn: no NATS server answers at host:4222\n")
    assert debug.status == 5
    assert debug.err.startswith("Traceback")
    assert debug.err.endswith(plain.err)


def test_a_defect_is_one_line(console: Console) -> None:
    console.failure = RuntimeError("never thought of")
    assert console("agents", "ls") == (1, "", "sojourn: RuntimeError: never thought of (--debug shows where)\n")
