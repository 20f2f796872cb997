from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import click
import pytest

import sojourn.console.commands
from sojourn.console.cli import COMMANDS, cli
from tests.console.conftest import Console
from tests.forks import SOJOURN


def tree(command: click.Command = cli, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            yield from tree(inner, (*path, name))


PATHS = [path for path, _ in tree()]


def modules_after(script: str) -> set[str]:
    code = f"{script}\nimport sys\nprint('MODULES', *sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.rpartition("MODULES")[2].split())


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"], ["--version"], ["watch", "--help"], ["simulate", "--help"], ["schemas", "check", "--help"],
        ["journeys", "erase", "--help"], ["keys", "rotate", "--help"],
    ],
)  # fmt: skip
def test_help_loads_none_of_the_libraries(arguments: list[str]) -> None:
    loaded = modules_after(f"from sojourn.console.cli import run\nassert run({arguments!r}) == 0")
    heavy = "pydantic nats langgraph structlog httpx rich uvloop asyncio cryptography jsonschema"
    assert not loaded & {*heavy.split()}


def test_what_needs_no_personal_data_loads_no_cryptography(folder: Path) -> None:
    ready = [*SOJOURN, "agents", "register", "shop"]
    assert subprocess.run(ready, cwd=folder, capture_output=True, timeout=60, check=False).returncode == 0
    script = "from sojourn.console.cli import run\nassert run(['agents', 'ls', '-o', 'json']) == 0"
    loaded = modules_after(script)
    assert "nats" in loaded
    assert not loaded & {"cryptography", "jsonschema"}


def test_a_command_is_imported_when_it_is_called() -> None:
    loaded = modules_after("from sojourn.console.cli import run\nrun(['--help'])\nrun(['watch', '--help'])")
    assert {name for name in loaded if name.startswith("sojourn.console.commands.")} == {
        "sojourn.console.commands.watch"
    }


def test_the_list_of_commands_is_that_of_the_modules() -> None:
    folder = Path(sojourn.console.commands.__file__).parent
    assert set(COMMANDS) == {path.stem for path in folder.glob("*.py")} - {"__init__"}
    for name, help in COMMANDS.items():
        assert getattr(import_module(f"sojourn.console.commands.{name}"), name).short_help == help


@pytest.mark.parametrize("path", PATHS, ids=" ".join)
def test_every_help_shows_examples_of_the_command_that_parse(path: tuple[str, ...], console: Console) -> None:
    ended = console(*path, "--help")
    assert ended.status == 0
    examples = [line.strip() for line in ended.out.partition("Example:")[2].splitlines() if line.strip()]
    assert examples
    for line in examples:
        words = shlex.split(line.partition(" <")[0])
        assert words[: len(path) + 1] == ["sojourn", *path]
        cli.make_context("sojourn", words[1:]).close()


@pytest.mark.parametrize("path", [path for path in PATHS if path])
def test_every_option_is_explained(path: tuple[str, ...]) -> None:
    command = dict(tree())[path]
    assert command.short_help
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, parameter.name


@pytest.mark.parametrize("path", [path for path, command in tree() if path and not isinstance(command, click.Group)])
def test_everywhere_the_same_options(path: tuple[str, ...]) -> None:
    names = {parameter.name for parameter in dict(tree())[path].params}
    assert "debug" in names
    if path != ("keys", "new"):  # needs no bus
        assert {"server", "creds", "namespace", "store"} <= names
    if path not in (("run",), ("schemas", "export")):  # one has no output, the other is told its form by --format
        assert "output" in names
    if path not in (("simulate",), ("replay",), ("keys", "new")):  # whose customers, and their keys, are made up
        assert "master_key" in names


def test_an_unknown_command_suggests_the_one_meant(console: Console) -> None:
    ended = console("wacth")
    assert ended.status == 2
    assert "Did you mean 'watch'?" in ended.err
    assert "`sojourn --help` lists the commands" in console("xyz").err


def test_without_a_command_there_is_help(console: Console) -> None:
    ended = console()
    assert ended.status == 2
    assert "Commands:" in ended.out + ended.err


def test_the_version(console: Console) -> None:
    assert console("--version").out.startswith("sojourn 0.")
