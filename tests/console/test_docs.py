"""The commands on the page run."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

from sojourn.console.cli import COMMANDS
from tests import forks

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "command-line.md").read_text()


def test_every_command_on_the_page_runs(folder: Path) -> None:
    shutil.copytree(ROOT / "examples", folder / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "carts.jsonl").write_text('{"customer_id": "ann", "cart_value": 70}\n')
    lines = [line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]
    assert len(lines) >= 9
    # The page tells of a namespace that is there.
    assert forks.run(["agents", "register", "examples.retail"], folder).returncode == 0
    for line in lines:
        command, _, file = line.partition("#")[0].partition(" < ")
        words = shlex.split(command)
        assert words[0] == "sojourn"
        if words[1] == "watch" and "--no-follow" not in words:
            words.append("--no-follow")  # otherwise it would go on for ever
        done = forks.run(words[1:], folder, stdin=(folder / file.strip()).read_bytes() if file else b"")
        assert done.returncode == 0, (line, done.stderr)


def test_the_page_names_every_command_and_every_schema() -> None:
    for name in COMMANDS:
        assert f"`sojourn {name}" in PAGE
    sources = "".join(path.read_text() for path in (ROOT / "src/sojourn/console").rglob("*.py"))
    schemas = set(re.findall(r'"([a-z-]+/\d)"', sources))
    assert len(schemas) >= 10
    for schema in schemas:
        assert f"`sojourn.{schema}`" in PAGE


def test_the_picture_in_the_readme_loads_nothing_from_elsewhere() -> None:
    picture = (ROOT / "docs" / "watch.svg").read_text()
    assert "url(http" not in picture
    assert re.findall(r"https?://[^\s\"<]+", picture) == ["http://www.w3.org/2000/svg", "https://www.textualize.io"]
    assert "cart-recovery" in picture
