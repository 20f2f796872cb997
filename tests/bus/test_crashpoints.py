"""Crash points: what arms them, and that they end or freeze a process exactly when they should."""

from __future__ import annotations

import ast
import inspect
import itertools
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sojourn.bus import crashpoints
from sojourn.bus.crashpoints import POINTS, VARIABLE, parse
from sojourn.bus.errors import ConfigurationError

REACH = """
from sojourn.bus.crashpoints import reach
for turn in range(1, 6):
    reach("before_ack")
    reach("before_commit")
    print(turn, flush=True)
"""


def start(armed: str | None) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if name != VARIABLE}
    if armed is not None:
        environment[VARIABLE] = armed
    return subprocess.Popen([sys.executable, "-c", REACH], env=environment, stdout=subprocess.PIPE, text=True)


def test_every_point_is_a_constant_with_a_docstring() -> None:
    body = ast.parse(inspect.getsource(crashpoints)).body
    told = {
        one.target.id
        for one, after in itertools.pairwise(body)
        if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name)
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) and isinstance(after.value.value, str)
    }
    assert {name.upper() for name in POINTS} == told - {"POINTS"}
    assert [getattr(crashpoints, name.upper()) for name in POINTS] == list(POINTS)


def test_every_point_is_reached_by_the_code() -> None:
    reached: set[str] = set()
    for path in Path(crashpoints.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "reach":
                reached |= {one.id for one in ast.walk(node.args[0]) if isinstance(one, ast.Name)}
    assert {name.upper() for name in POINTS} <= reached


def test_what_arms_a_point() -> None:
    assert parse("before_ack:1") == ("before_ack", 1, signal.SIGKILL)
    assert parse("before_ack:12:kill") == ("before_ack", 12, signal.SIGKILL)
    assert parse("in_renewal:3:stop") == ("in_renewal", 3, signal.SIGSTOP)


@pytest.mark.parametrize(
    "text", ["before_ack", "before_ack:", "before_ack:0", "before_ack:-1", "before_ack:x", "before_ack:1:halt"]
)
def test_what_cannot_be_read_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"before_ack:3:stop"):
        parse(text)


def test_an_unknown_point_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigurationError, match="'before_lunch', which is no crash point; there are before_commit, "):
        parse("before_lunch:1")


def test_a_process_with_an_unknown_point_does_not_start() -> None:
    command = [sys.executable, "-c", REACH]
    found = subprocess.run(
        command, env={**os.environ, VARIABLE: "lunch:1"}, capture_output=True, text=True, check=False
    )
    assert found.returncode == 1
    assert "SOJOURN_CRASH_POINT names 'lunch', which is no crash point" in found.stderr


@pytest.mark.parametrize("armed", [None, "", "before_commit:6", "after_commit:1"])
def test_what_is_not_armed_or_not_reached_does_nothing(armed: str | None) -> None:
    process = start(armed)
    assert process.communicate(timeout=20)[0].split() == ["1", "2", "3", "4", "5"]
    assert process.returncode == 0


@pytest.mark.parametrize(("armed", "said"), [("before_commit:1", ""), ("before_commit:3:kill", "1 2")])
def test_it_kills_the_nth_time(armed: str, said: str) -> None:
    process = start(armed)
    assert process.communicate(timeout=20)[0].split() == said.split()
    assert process.returncode == -signal.SIGKILL


def test_it_stops_the_nth_time_and_goes_on_once() -> None:
    process = start("before_ack:2:stop")
    state = os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
    assert state is not None and state.si_status == signal.SIGSTOP
    process.send_signal(signal.SIGCONT)
    assert process.communicate(timeout=20)[0].split() == ["1", "2", "3", "4", "5"]
    assert process.returncode == 0
