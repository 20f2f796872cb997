from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from sojourn.console.options import MasterKeyGiven, Settings, parse_server
from tests.console.conftest import Console


@pytest.mark.parametrize(
    ("text", "url", "user", "password", "secrets"),
    [
        ("nats://host:4222", "nats://host:4222", None, None, []),
        ("host", "nats://host", None, None, []),
        ("tls://me:s3cret@host", "tls://host", "me", "s3cret", ["s3cret"]),
        ("nats://me:p%40ss@host:1", "nats://host:1", "me", "p@ss", ["p%40ss", "p@ss"]),
        ("nats://a:1,nats://b:2", "nats://a:1,nats://b:2", None, None, []),
        ("nats://me:x@a:1,nats://me:x@b:2", "nats://a:1,nats://b:2", "me", "x", ["x", "x"]),
        ("nats://t0ken@host", "nats://t0ken@host", "t0ken", None, ["t0ken"]),
        ("nats://[::1]:4222", "nats://[::1]:4222", None, None, []),
    ],
)
def test_credentials_are_taken_out_of_the_url(
    text: str, url: str, user: str | None, password: str | None, secrets: list[str]
) -> None:
    server, found = parse_server(text)
    assert (server.url, server.password, found) == (url, password, secrets)
    assert server.user == (user if password is not None else None)
    assert not any(secret in server.label or secret in repr(server) for secret in secrets)


@pytest.mark.parametrize(
    "text", ["", "nats://", "http://host", "nats://host:99999", "nats://me:s3cret@:1", "nats://h:x"]
)
def test_what_is_no_server_is_refused_without_telling_secrets(text: str) -> None:
    with pytest.raises(ValueError, match="such as nats://localhost:4222") as caught:
        parse_server(text)
    assert "s3cret" not in str(caught.value)


def test_options_come_from_the_environment_too(console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOJOURN_SERVER", "nats://me:s3cret@example:4333")
    monkeypatch.setenv("SOJOURN_NAMESPACE", "other")
    monkeypatch.setenv("SOJOURN_STORE", "elsewhere")
    console.make("other")
    assert console("agents", "ls").status == 0
    (asked,) = console.connected
    assert (asked["url"], asked["user"], asked["password"]) == ("nats://example:4333", "me", "s3cret")
    assert (asked["namespace"], asked["store"]) == ("other", Path("elsewhere"))


@pytest.mark.parametrize(
    "arguments",
    [
        ("lag",), ("lag", "--watch"), ("agents", "ls"), ("agents", "show", "a"), ("agents", "pause", "a"),
        ("agents", "resume", "--all"), ("agents", "mode", "a", "live"), ("dead", "ls"), ("dead", "show", "SHOP_0:1"),
        ("dead", "redrive", "--all", "--yes"), ("dead", "drop", "--all", "--yes"), ("schemas", "ls"),
        ("schemas", "show", "CartAbandoned"), ("schemas", "diff", "CartAbandoned"), ("schemas", "pull"),
        ("schemas", "check", "shop", "--against", "server"), ("schemas", "export", "--format", "asyncapi"),
        ("watch",), ("watch", "--no-follow"), ("journeys", "erase", "c1", "--yes"),
        ("journeys", "erase", "c1", "--dry-run"), ("keys", "status"), ("keys", "rotate", "--yes"),
        ("keys", "forget", "master-1", "--yes"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_a_namespace_that_is_not_there_is_not_made(console: Console, arguments: tuple[str, ...]) -> None:
    console.make("shop")
    before = asyncio.run(console.transport.streams())
    ended = console(*arguments, "--namespace", "shpo")
    assert (ended.status, ended.out) == (3, "")
    assert ended.err == (
        "sojourn: there is no namespace 'shpo' on this server (there: shop); "
        "the first `sojourn run` or `sojourn publish` on it creates one\n"
    )
    assert asyncio.run(console.transport.streams()) == before


@pytest.mark.parametrize(
    "arguments", [("--namespace", "No Good"), ("--namespace", "act"), ("--server", "http://x"), ("--creds", "nowhere")]
)
def test_options_that_cannot_be_are_usage_errors(console: Console, arguments: tuple[str, str]) -> None:
    ended = console("agents", "ls", *arguments)
    assert ended.status == 2
    assert "Traceback" not in ended.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("schemas", "check", "shop", "--against", ""), ("schemas", "lint", "shop", "--against", ""),
        ("schemas", "pull", ""), ("schemas", "export", "--format", "asyncapi", ""), ("keys", "new", ""),
    ],
)  # fmt: skip
def test_a_file_without_a_name_is_not_the_current_folder(console: Console, arguments: tuple[str, ...]) -> None:
    ended = console(*arguments)
    assert (ended.status, ended.out, console.connected) == (2, "", [])
    assert "an empty name; a variable that is not set?" in ended.err


def test_a_master_key_file_that_is_not_there(console: Console) -> None:
    ended = console("keys", "status", "--master-key", "gone.key")
    assert (ended.status, ended.err) == (
        3, "sojourn: the master key file gone.key cannot be read: No such file or directory\n",
    )  # fmt: skip
    assert console("keys", "status", "--master-key", ".").status == 1


def test_where_it_runs_is_told_without_credentials() -> None:
    server, _ = parse_server("nats://me:s3cret@host")
    assert Settings(server, None, "n", Path("s")).where == "nats://host"
    assert Settings(None, None, "n", Path(".sojourn")).where == "the server of .sojourn"


@pytest.mark.parametrize(
    ("arguments", "variable", "frozen"),
    [((), "", False), (("--frozen",), "", True), ((), "1", True), ((), "0", False), (("--no-frozen",), "1", False)],
)
def test_frozen_comes_from_the_option_or_the_environment(
    console: Console, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], variable: str, frozen: bool
) -> None:
    if variable:
        monkeypatch.setenv("SOJOURN_FROZEN", variable)
    console("publish", "OrderPlaced", '{"customer_id": "c1"}', "--module", "shop", *arguments)
    assert console.connected[-1]["frozen"] is frozen
    console("agents", "ls")
    assert console.connected[-1]["frozen"] is False


def test_settings_show_no_master_key() -> None:
    given = MasterKeyGiven(text="master-1 c2VjcmV0")
    assert "c2VjcmV0" not in repr(Settings(None, None, "sojourn", Path(".sojourn"), given))
