"""Everything the README shows is run here: its code as it stands, its commands as a newcomer types them."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CODE = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
COMMANDS = [
    command
    for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
    if (command := line.partition("  #")[0].strip())
]


@pytest.fixture
def shell(tmp_path: Path) -> dict[str, str]:
    """The environment of a newcomer: the virtual environment's commands first, and a store of its own."""
    scripts = str(Path(sys.executable).parent)
    path = os.pathsep.join((scripts, os.environ["PATH"]))
    return os.environ | {"PATH": path, "SOJOURN_STORE": str(tmp_path / "store"), "COLUMNS": "100", "NO_COLOR": "1"}


def run(command: str, env: dict[str, str]) -> str:
    ran = subprocess.run(
        shlex.split(command), cwd=ROOT, env=env, capture_output=True, text=True, timeout=240, check=False
    )
    assert ran.returncode == 0, f"{command}\n{ran.stdout}\n{ran.stderr}"
    return ran.stdout


@pytest.fixture
def running(shell: dict[str, str], tmp_path: Path) -> Iterator[None]:
    """`sojourn run examples.quickstart` in another terminal."""
    log = tmp_path / "run.log"
    with log.open("wb") as output:
        worker = subprocess.Popen(
            ["sojourn", "run", "examples.quickstart"], cwd=ROOT, env=shell, stdout=output, stderr=output
        )
        try:
            while b"running" not in log.read_bytes():
                assert worker.poll() is None, log.read_text()
            yield
        finally:
            worker.terminate()
            assert worker.wait(15) == 0, log.read_text()


def test_the_commands_are_the_ones_run_here() -> None:
    assert COMMANDS == [
        "make demo",
        "make test",
        "sojourn run examples.quickstart",
        """sojourn publish CartAbandoned '{"customer_id": "ann", "cart_value": 80}' --module examples.quickstart""",
        "sojourn watch --since 1h --no-follow",
        "sojourn agents ls",
        "sojourn agents show win-back",
        "sojourn dead ls",
        "sojourn simulate examples.retail --customers 100 --days 3 --seed 7",
        "make replay",
    ]


def test_the_agent_is_the_quickstart() -> None:
    assert CODE[0] == (ROOT / "examples/quickstart.py").read_text(encoding="utf-8")
    assert sum(bool(line.strip()) for line in CODE[0].splitlines()) <= 25


async def test_its_test_passes() -> None:
    names: dict[str, object] = {}
    exec(compile(CODE[1], "README.md", "exec"), names)
    test = names["test_a_valuable_cart_is_won_back"]
    await test()  # type: ignore[operator]


@pytest.mark.usefixtures("running")
def test_the_session_with_the_quickstart(shell: dict[str, str]) -> None:
    publish, watch, ls, show, dead = COMMANDS[3:8]
    run(publish, shell)
    # The agent answers on its own time; the reader asks until it has.
    while "win-back" not in (seen := run(watch, shell)):
        pass
    assert "ann" in seen and "DiscountOffered" in seen and "percent=10" in seen and "CartAbandoned" in seen
    assert "win-back" in run(ls, shell)
    assert "CartAbandoned" in run(show, shell)
    run(dead, shell)


def test_the_demo_with_fewer_customers(shell: dict[str, str]) -> None:
    # All of them are in tests/prove/test_demo.py.
    [command] = [line for line in run("make -n demo", shell).splitlines() if "sojourn simulate" in line]
    assert "--customers 500" in command
    told = run(command.replace("--customers 500", "--customers 60"), shell)
    for fact in (r"duplicates +0\b", r"lost +0\b", r"events in +1,\d{3}", r"cart-recovery +DiscountOffered +\d+"):
        assert re.search(fact, told), told


def test_the_small_simulation(shell: dict[str, str]) -> None:
    assert re.search(r"lost +0\b", run(COMMANDS[8], shell))


def test_the_map_points_at_what_is_there() -> None:
    for target in re.findall(r"\]\(([^)h][^)]*)\)", README):
        assert (ROOT / target).exists(), target
