"""Options that commands share: where the bus is, and in which form data is wanted."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar
from urllib.parse import SplitResult, quote, unquote, urlsplit, urlunsplit

import click

from sojourn.bus.errors import ConfigurationError
from sojourn.bus.naming import check_token
from sojourn.console.cli import Session

F = TypeVar("F", bound=Callable[..., Any])

Form = Literal["text", "json", "jsonl"]


@dataclass(frozen=True, slots=True)
class Server:
    """A NATS server as the user gave it. ``url`` holds no credential, save a bare token, which has no other place."""

    url: str = field(repr=False)
    label: str
    user: str | None = None
    password: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class MasterKeyGiven:
    """Master keys as the user gave them: a file, or the ``text`` that such a file holds, or neither."""

    file: Path | None = None
    text: str | None = field(default=None, repr=False)


NO_MASTER_KEY = MasterKeyGiven()


@dataclass(frozen=True, slots=True)
class Settings:
    """Where the bus is. Without a ``server`` it is the one of the ``store``. ``frozen``: schemas are only checked."""

    server: Server | None
    creds: str | None
    namespace: str
    store: Path
    master_key: MasterKeyGiven = NO_MASTER_KEY
    frozen: bool = False

    @property
    def where(self) -> str:
        """The server in words, without credentials."""
        return self.server.label if self.server is not None else f"the server of {self.store}"


def connection(command: F) -> F:
    """Adds the options that say where the bus is; the command gets them as ``settings``."""
    master_key = click.option(
        "--master-key", metavar="FILE", envvar="SOJOURN_MASTER_KEY_FILE", show_envvar=True, callback=_master_key,
        type=click.Path(path_type=Path), help="Master keys, for personal data. Default: those of --store.",
    )  # fmt: skip
    return _connection(command, "sojourn", "SOJOURN_NAMESPACE", master_key)


def playground(command: F) -> F:
    """As `connection`, for a command that empties its namespace before it begins: one of its own by default, never the
    one that the environment names for everything else."""
    return _connection(command, "sim", "SOJOURN_SIM_NAMESPACE")


def _connection(command: F, namespace: str, variable: str, *more: Callable[[Any], Any]) -> F:
    @functools.wraps(command)
    def wrapped(
        *,
        server: Server | None,
        creds: str | None,
        namespace: str,
        store: Path,
        master_key: MasterKeyGiven = NO_MASTER_KEY,
        **rest: object,
    ) -> object:
        return command(settings=Settings(server, creds, namespace, store, master_key), **rest)

    options = (
        click.option(
            "--server", metavar="URL", envvar="SOJOURN_SERVER", show_envvar=True, callback=_server,
            help="A NATS server, 2.14 or newer (nats://host:4222). Without it: the one of --store.",
        ),
        click.option(
            "--creds", metavar="FILE", envvar="SOJOURN_CREDS", show_envvar=True,
            type=click.Path(exists=True, dir_okay=False), help="A NATS credentials file.",
        ),
        click.option(
            "--namespace", metavar="NAME", envvar=variable, show_envvar=True, default=namespace,
            show_default=True, callback=_namespace, help="One bus among several on a server.",
        ),
        click.option(
            "--store", metavar="DIR", envvar="SOJOURN_STORE", show_envvar=True, default=".sojourn", show_default=True,
            type=click.Path(file_okay=False, path_type=Path), help="Folder of the embedded server.",
        ),
        *more,
        debugging,
    )  # fmt: skip
    for option in reversed(options):
        wrapped = option(wrapped)
    return wrapped  # type: ignore[return-value]  # the same command, with fewer arguments for its caller


def frozen(command: F) -> F:
    """Adds ``--frozen``, for commands that would register schemas by themselves; the command gets it as ``frozen``."""
    return click.option(
        "--frozen/--no-frozen", envvar="SOJOURN_FROZEN", show_envvar=True, default=False,
        help="Only check schemas; do not register any.",
    )(command)  # fmt: skip


def debugging(command: F) -> F:
    """Adds ``--debug``."""
    return click.option(
        "--debug", is_flag=True, expose_value=False, is_eager=True, callback=_debug,
        help="Show the traceback of a failure.",
    )(command)  # fmt: skip


def form(command: F) -> F:
    """Adds ``-o``; the command gets it as ``output``."""
    return click.option(
        "-o", "--output", type=click.Choice(["text", "json", "jsonl"]), default="text", show_default=True,
        help="For people, or one JSON document, or one a line.",
    )(command)  # fmt: skip


def example(*lines: str) -> str:
    """The epilog of a command: what to type. Each is a line of its own."""
    return "\b\nExample:\n" + "\n".join(f"  {line}" for line in lines)


def _debug(ctx: click.Context, parameter: click.Parameter, wanted: bool) -> None:
    session = ctx.find_object(Session)
    if session is not None and wanted:
        session.debug = True


def _master_key(ctx: click.Context, parameter: click.Parameter, file: Path | None) -> MasterKeyGiven:
    text = os.environ.get("SOJOURN_MASTER_KEY") or None
    session = ctx.find_object(Session)
    if session is not None and text is not None:
        # Ids of keys may be told, the keys may not.
        session.secrets += [text, *(word for word in text.replace(",", " ").split() if len(word) >= 16)]
    if file is not None and text is not None:
        raise click.BadParameter("SOJOURN_MASTER_KEY is set too: keep one of the two", ctx, parameter)
    return MasterKeyGiven(file, text)


def _namespace(ctx: click.Context, parameter: click.Parameter, name: str) -> str:
    try:
        return check_token("namespace", name)
    except ConfigurationError as error:
        raise click.BadParameter(str(error), ctx, parameter) from error


def _server(ctx: click.Context, parameter: click.Parameter, text: str | None) -> Server | None:
    if text is None:
        return None
    try:
        server, secrets = parse_server(text)
    except ValueError as error:
        raise click.BadParameter(str(error), ctx, parameter) from error
    session = ctx.find_object(Session)
    if session is not None:
        session.secrets += secrets
    return server


def parse_server(text: str) -> tuple[Server, list[str]]:
    """A server from its URL (several with commas), and the secrets in it. Raises `ValueError`, without them."""
    parts = [_parse(url.strip()) for url in text.split(",")]
    first = parts[0]
    user = unquote(first.username) if first.username is not None else None
    password = unquote(first.password) if first.password is not None else None
    label = ",".join(_bare(part) for part in parts)
    secrets = [s for part in parts for s in ((part.password,) if part.password else (part.username,)) if s]
    secrets += [unquote(secret) for secret in secrets if unquote(secret) != secret]
    if user is not None and password is None:
        # A token has no option of its own: it stays where it is.
        return Server(",".join(f"{p.scheme}://{quote(user)}@{_host(p)}" for p in parts), label), secrets
    return Server(label, label, user, password), secrets


def _parse(url: str) -> SplitResult:
    parts = urlsplit(url if "://" in url else f"nats://{url}")
    try:
        sound = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        sound = False
    if not sound or parts.scheme not in ("nats", "tls", "ws", "wss"):
        raise ValueError("not the URL of a NATS server, such as nats://localhost:4222")
    return parts


def _host(parts: SplitResult) -> str:
    return parts.netloc.rpartition("@")[2]


def _bare(parts: SplitResult) -> str:
    return urlunsplit((parts.scheme, _host(parts), parts.path, "", ""))
