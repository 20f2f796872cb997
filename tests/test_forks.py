"""A command that is forked is what one that is started for real would be."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import forks
from tests.forks import SOJOURN

MODULE = """
import os, sys, random
print(repr((sys.argv[1:], os.getcwd(), os.environ.get("SHOWN"), sys.stdin.read(), sys.stdout.encoding)))
print("unsorted", file=sys.stderr)
print(random.random() == BEFORE)
"""
SLEEPS = "import os, time\nprint(os.getpid(), flush=True)\ntime.sleep(60)\n"


@pytest.fixture(params=["forked", "started"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., tuple[int, str, str]]:
    """Runs a command either way."""

    def run(*arguments: str) -> tuple[int, str, str]:
        if request.param == "forked":
            done = forks.run(arguments, tmp_path, stdin=b"given")
        else:
            done = subprocess.run(
                [*SOJOURN, *arguments], cwd=tmp_path, input="given", capture_output=True, text=True, check=False
            )
        return done.returncode, done.stdout, done.stderr

    return run


def test_it_has_the_folder_the_streams_and_the_environment(
    run: Callable[..., tuple[int, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOWN", "as it is")
    (tmp_path / "module.py").write_text(MODULE.replace("BEFORE", "0.0"))
    arguments = ["schemas", "lint", "module"]
    status, out, err = run(*arguments)
    assert out.splitlines() == [repr((arguments, str(tmp_path), "as it is", "given", "utf-8")), "False"]
    assert err.startswith("unsorted\n") and "sojourn: " in err
    assert status == 3


def test_it_leaves_nothing_for_the_next(tmp_path: Path) -> None:
    for number in (9, 10):  # of another length: a module written twice within a second looks the same otherwise
        (tmp_path / "module.py").write_text(f"print({number})")
        assert forks.run(["schemas", "lint", "module"], tmp_path).stdout == f"{number}\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_signals_reach_it_and_its_end_is_told(number: signal.Signals, tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text(SLEEPS)
    read, write = os.pipe()
    with open(read) as out, open(os.devnull, "wb") as nothing:
        fork = forks.start(
            ["schemas", "lint", "module"], tmp_path, os.environ, subprocess.DEVNULL, write, nothing.fileno()
        )
        os.close(write)
        assert int(out.readline()) == fork.pid
        assert fork.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            fork.wait(0)
        fork.send_signal(number)
        assert fork.wait(20) == (130 if number is signal.SIGINT else -number)
        assert fork.poll() == fork.returncode
        fork.kill()  # does no harm


def test_a_shell_finds_it_and_passes_signals_on(tmp_path: Path) -> None:
    if not forks.POSSIBLE:
        pytest.skip("no forks here")
    forks.shim(tmp_path)
    (tmp_path / "module.py").write_text(SLEEPS)
    shell = subprocess.Popen(
        ["sh", "-c", "exec ./sojourn schemas lint module"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert shell.stdout is not None
    shell.stdout.readline()
    shell.terminate()
    assert shell.communicate(timeout=20) == (b"", b"")
    assert shell.returncode == -signal.SIGTERM
    done = subprocess.run([str(tmp_path / "sojourn"), "nonsense"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "") and "There is no command 'nonsense'" in done.stderr
