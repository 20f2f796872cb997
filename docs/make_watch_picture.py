"""Draws docs/watch.svg: a simulation on a real server, then what `sojourn watch` shows of it on a terminal.

Run from the repository: ``.venv/bin/python docs/make_watch_picture.py``. The same seed gives the same actions.
"""
# ruff: noqa: INP001

from __future__ import annotations

import fcntl
import html
import os
import pty
import re
import struct
import subprocess
import sys
import tempfile
import termios
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

WIDTH, LINES = 112, 15
COMMAND = "sojourn watch --namespace sim --since 1h"
TEXT = re.compile(r'<text class="(\S+)" x="(\S+)" y="(\S+)" textLength="(\S+)" (clip-path="\S+")>(.*?)</text>')
FONTS = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace"


def main() -> None:
    """Simulates, watches, draws."""
    repository = Path(__file__).resolve().parent.parent
    sojourn = Path(sys.executable).with_name("sojourn")
    with tempfile.TemporaryDirectory() as store:
        # SOJOURN_… of whoever draws it must not show in the picture.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("SOJOURN_")}
        environment |= {"TZ": "UTC", "TERM": "xterm-256color", "SOJOURN_STORE": store}
        days = ["--customers", "60", "--days", "60", "--lines", "0"]
        subprocess.run([sojourn, "simulate", "examples.retail", *days], cwd=repository, env=environment, check=True)
        shown = on_terminal(
            [str(sojourn), *COMMAND.split()[1:], "--no-follow"], cwd=repository, environment=environment
        )
    head, *actions = shown.splitlines()
    draw([head, *actions[-LINES:]], repository / "docs" / "watch.svg")


def on_terminal(command: list[str], *, cwd: Path, environment: dict[str, str]) -> str:
    """What a command writes to a terminal of that width, colours included."""
    mine, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 24, WIDTH, 0, 0))
    with subprocess.Popen(command, cwd=cwd, env=environment, stdout=its, stdin=subprocess.DEVNULL) as process:
        os.close(its)
        written = b""
        try:
            while chunk := os.read(mine, 65536):
                written += chunk
        except OSError:  # how Linux says that the other end has closed
            pass
        os.close(mine)
    assert process.returncode == 0, written
    return written.decode()


def draw(lines: list[str], path: Path) -> None:
    """A window with the command and its output."""
    with Path(os.devnull).open("w") as nowhere:
        console = Console(record=True, width=WIDTH, force_terminal=True, color_system="standard", file=nowhere)
        console.print(Text.assemble(("$ ", "dim"), COMMAND))
        for line in lines:
            console.print(Text.from_ansi(line), no_wrap=True, overflow="crop")
        picture = console.export_svg(title="sojourn", theme=MONOKAI, unique_id="watch")
    # Pictures in a README load nothing from elsewhere: fonts of the reader's machine.
    picture = re.sub(r"@font-face \{.*?\}\s*", "", picture, flags=re.DOTALL)
    picture = picture.replace("font-family: Fira Code, monospace", f"font-family: {FONTS}")
    picture = TEXT.sub(words, picture)
    path.write_text("".join(f"{line.rstrip()}\n" for line in picture.splitlines()))


def words(found: re.Match[str]) -> str:
    """A text with each of its words at its own place: without the font that Rich meant, a long one would drift."""
    style, left, top, length, clip, escaped = found.groups()
    text = html.unescape(escaped)
    cell = float(length) / len(text)
    return "".join(
        f'<text class="{style}" x="{float(left) + cell * word.start():.1f}" y="{top}" '
        f'textLength="{cell * len(word[0]):.1f}" {clip}>{html.escape(word[0])}</text>'
        for word in re.finditer(r"[^\s\xa0]+", text)
    )


if __name__ == "__main__":
    main()
