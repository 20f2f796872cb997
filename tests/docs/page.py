"""Runs a page of the documentation in an empty folder: writes its code there, types its commands, and tells what the
page would look like if every output on it were today's.

- A ``python`` block begins with the name of its file, ``# shop.py``. What it defines takes the place of what has the
  same name in that file, or is added; so a page shows what changes and not the whole file each time.
- A ``console`` block is a session: ``$ `` and a command, then what it prints, both outputs together. A shell runs it.
  ``export`` holds for the rest of the page; a command that ends with ``&`` goes on until ``kill %1`` or the end.

``python -m tests.docs.page docs/some-page.md`` writes today's outputs into the page, to be read before they are
committed.
"""

from __future__ import annotations

import ast
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests import forks

DEADLINE = 30.0
"""Seconds after which what a command should show at last is not awaited any more."""

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_FILE = re.compile(r"# (\w+\.py)\n")
_COMMAND = re.compile(r"^\$ ", re.MULTILINE)
_LOG = re.compile(r"2> ?(\S+)")

_ASKS = ("sojourn watch", "sojourn dead ls", "sojourn dead show", "grep ", "cat ", "python waiting.py")
"""What only looks, and may look too early for what an agent is still doing."""

_CHANCE = [
    (re.compile(r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b"), "<uuid>"),
    (re.compile(r"\b(\d{4}-)?\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d+)?)?Z?)?"), "<time>"),
    (re.compile(r"\b\d\d:\d\d:\d\d(\.\d+)?\b"), "<time>"),
    (re.compile(r"sealed:1:[\w-]+:[\w-]+=*"), "<sealed>"),
    (re.compile(r"\b127\.0\.0\.1:\d+"), "127.0.0.1:<port>"),
    # Cursors and leases are written on their own time, and take sequences.
    (re.compile(r"\b(SOJOURN_\d)(-| sequence )\d+"), r"\1\2<sequence>"),
    # Columns are as wide as what is in them.
    (re.compile(r"(?<=\S) {2,}"), "  "),
]


class Block(NamedTuple):
    """A fenced block. ``line`` is that of its first line of text, from 1."""

    language: str
    text: str
    line: int


def blocks(page: str) -> list[Block]:
    """The fenced blocks of a page."""
    return [Block(m[1], m[2], page.count("\n", 0, m.start()) + 2) for m in _BLOCK.finditer(page)]


def masked(text: str) -> str:
    """The text without what is different every time: ids, times, sealed values."""
    for pattern, instead in _CHANCE:
        text = pattern.sub(instead, text)
    return text


def merged(source: str, addition: str) -> str:
    """The source of a module with a block's definitions in it. New names stand before the next one that is replaced,
    since that may use them, or at the end."""
    parts = _parts(source)
    pending: list[tuple[str, str]] = []
    for name, text in _parts(addition):
        places = [at for at, (known, _) in enumerate(parts) if known == name]
        pending.append((name, text))
        if places:
            parts[places[0] : places[0] + 1] = pending
            pending = []
    imports = [part for part in pending if part[0].startswith(("import ", "from "))]
    rest = [part for part in pending if part not in imports]
    return "\n\n\n".join(text for _, text in [*imports, *parts, *rest]) + "\n"


def _parts(source: str) -> list[tuple[str, str]]:
    """The statements of a module with what names each of them."""
    lines = source.splitlines()
    found = []
    for node in ast.parse(source).body:
        first = min([node.lineno, *(one.lineno for one in getattr(node, "decorator_list", ()))])
        text = "\n".join(lines[first - 1 : node.end_lineno])
        match node:
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                found.append((name, text))
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                found.append((name, text))
            case _:
                found.append((text, text))
    return found


class Session:
    """A shell in a folder, as a page's reader would have it. ``programs``: a folder that it looks in first for what
    is typed."""

    def __init__(self, folder: Path, programs: Path | None = None) -> None:
        self._folder = folder
        self._status = 0
        self._background: list[tuple[subprocess.Popen[bytes], Path]] = []
        folders = [*([str(programs)] if programs else []), str(Path(sys.executable).parent), os.environ["PATH"]]
        path = os.pathsep.join(folders)
        kept = {name: value for name, value in os.environ.items() if not name.startswith("SOJOURN_")}
        self._environment = kept | {
            "PATH": path, "NO_COLOR": "1", "COLUMNS": "110", "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1",
        }  # fmt: skip

    def write(self, block: str) -> None:
        """Writes a block of code to its file."""
        head = _FILE.match(block)
        assert head is not None, f"a block of code names its file: {block[:80]}"
        file = self._folder / head[1]
        file.write_text(merged(file.read_text() if file.exists() else "", block[head.end() :]))

    def type(self, block: str, *, as_shown: bool = True) -> str:
        """Types a block's commands and returns it with what they print now. ``as_shown``: what may come a moment
        later is waited for as the block shows it, else until nothing changes any more."""
        assert block.startswith("$ "), f"a session begins with a command: {block[:80]}"
        told = ""
        for part in _COMMAND.split(block)[1:]:
            command, shown = _split(part)
            asks = command.startswith(_ASKS)
            deadline, before = time.monotonic() + DEADLINE, None
            while True:
                output = self._run(command)
                settled = masked(output) == masked(shown) if as_shown else output == before
                if not asks or settled or time.monotonic() > deadline:
                    break
                before = output
                time.sleep(0.1 if as_shown else 2)
            told += f"$ {command}\n{output}"
        return told

    def end(self) -> None:
        """Ends what goes on in the background."""
        while self._background:
            self._kill()

    def _run(self, command: str) -> str:
        match shlex.split(command):
            case ["export", assignment]:
                name, _, value = assignment.partition("=")
                self._environment[name] = value
                return ""
            case ["kill", "%1"]:
                self._kill()
                return ""
            case [*_, "&"]:
                self._start(command)
                return ""
        done = subprocess.run(
            ["sh", "-c", f"(exit {self._status}); {command}"], cwd=self._folder, env=self._environment, timeout=120,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip
        self._status = done.returncode
        return "\n".join(line.rstrip() for line in done.stdout.decode().splitlines()) + "\n" if done.stdout else ""

    def _start(self, command: str) -> None:
        log = _LOG.search(command)
        assert log is not None, f"what goes on in the background has a log: {command}"
        file = self._folder / log[1]
        file.unlink(missing_ok=True)  # what the one before has said is no news
        process = subprocess.Popen(
            ["sh", "-c", f"exec {command.removesuffix('&')}"], cwd=self._folder, env=self._environment,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
        self._background.append((process, file))
        deadline = time.monotonic() + DEADLINE
        while not file.exists() or "running" not in file.read_text():
            assert process.poll() is None and time.monotonic() < deadline, file.read_text()
            time.sleep(0.05)

    def _kill(self) -> None:
        process, log = self._background.pop(0)
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE) == 0, log.read_text()


def _split(part: str) -> tuple[str, str]:
    """A command, which goes on in the next line after a backslash, and what is shown of its output."""
    lines = part.splitlines(keepends=True)
    count = next(number for number, line in enumerate(lines, 1) if not line.endswith("\\\n"))
    return "".join(lines[:count]).rstrip("\n"), "".join(lines[count:])


def played(page: str, folder: Path, *, as_shown: bool = True) -> str:
    """The page with the outputs that its commands have now, run in the folder."""
    told, end = "", 0
    with _server(folder), tempfile.TemporaryDirectory() as programs:
        if forks.POSSIBLE:
            forks.shim(Path(programs))
        session = Session(folder, Path(programs))
        try:
            for match in _BLOCK.finditer(page):
                language, text = match[1], match[2]
                if language == "python":
                    session.write(text)
                elif language == "console":
                    text = session.type(text, as_shown=as_shown)
                told += page[end : match.start(2)] + text
                end = match.end(2)
        finally:
            session.end()
    return told + page[end:]


@contextmanager
def _server(folder: Path) -> Iterator[None]:
    """Keeps the folder's embedded server running, which would otherwise start and stop with each command."""
    hold = (
        "import asyncio, sys\n"
        "from sojourn import connect\n"
        "async def main():\n"
        "    async with connect():\n"
        "        print('ready', flush=True)\n"
        "        await asyncio.to_thread(sys.stdin.read)\n"
        "asyncio.run(main())\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", hold], cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"ready\n"
        yield
    finally:
        holder.communicate(timeout=DEADLINE)


def main() -> None:
    """Writes today's outputs into the pages named on the command line."""
    for name in sys.argv[1:]:
        path = Path(name)
        with tempfile.TemporaryDirectory() as folder:
            path.write_text(played(path.read_text(), Path(folder), as_shown=False))


if __name__ == "__main__":
    main()
