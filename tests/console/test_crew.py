"""`sojourn run --workers`: they share the work, are started again, and leave together."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sojourn.console import crew
from sojourn.console.crew import Crew, CrewFailed, labelled
from sojourn.console.environment import of_worker
from sojourn.console.lifeline import Lifeline
from sojourn.console.options import MasterKeyGiven, Settings, parse_server
from tests import forks
from tests.console.conftest import Process
from tests.forks import SOJOURN

Start = Callable[..., Process]


def lines(process: Process, event: str) -> list[dict[str, Any]]:
    """What was logged of one kind, in order."""
    found = [json.loads(line) for line in process.err.splitlines(keepends=True) if line.endswith("}\n")]
    return [line for line in found if line["event"] == event]


def workers(process: Process) -> dict[str, int]:
    """The process of each worker that has come to run, the last one of each name."""
    return {line["worker"]: line["pid"] for line in lines(process, "running")}


def shares(process: Process) -> dict[str, int]:
    """The partitions of the group `thanks` that each worker said last that it runs."""
    told = lines(process, "group runs here") + lines(process, "group runs elsewhere; standing by")
    return {
        line["worker"]: line["partitions"]
        for line in sorted(told, key=lambda line: str(line["timestamp"]))
        if line["group"] == "thanks"
    }


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def until_gone(pids: list[int], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not all(map(gone, pids)):
        assert time.monotonic() < deadline, pids
        time.sleep(0.02)


def publish(type: str, data: str) -> None:
    assert forks.run(["publish", type, data, "--module", "shop"], Path.cwd()).returncode == 0


def test_workers_share_the_work_are_started_again_and_leave_together(start: Start) -> None:
    process = start("run", "shop", "--workers", "2")
    process.until(lambda one: len(workers(one)) == 2 and len(shares(one)) == 2)
    process.until(lambda one: sum(shares(one).values()) == 32 and all(shares(one).values()))
    before = workers(process)
    assert list(lines(process, "starting workers")[0]["workers"]) == sorted(before)
    victim, other = sorted(before)
    os.kill(before[victim], signal.SIGKILL)
    process.until(lambda one: workers(one).get(victim) != before[victim])
    (told,) = lines(process, "a worker ended, starting it again")
    assert (told["worker"], told["pid"], told["ended"], told["again_in"]) == (victim, before[victim], "signal 9", 0.2)
    assert workers(process)[other] == before[other]
    publish("OrderPlaced", '{"customer_id": "c1", "amount": 13}')
    process.signal(signal.SIGTERM)
    ended = process.wait(13)
    assert ended.status == 0, ended.err
    assert {line["worker"] for line in lines(process, "stopped") if "worker" in line} == {victim, other}
    until_gone([*before.values(), *workers(process).values()], 1)
    assert not any("Traceback" in line for line in ended.err.splitlines())


def test_workers_do_not_outlive_a_parent_that_was_killed(start: Start, folder: Path) -> None:
    process = start("run", "shop", "--workers", "2").until(lambda one: len(workers(one)) == 2)
    server = json.loads((folder / ".sojourn" / "server.json").read_text())["server_pid"]
    process.signal(signal.SIGKILL)
    process.wait(5)
    until_gone([*workers(process).values()], 11)
    until_gone([server], 15)


def test_a_second_signal_ends_all_at_once(start: Start) -> None:
    process = start("run", "shop", "--workers", "2").until(lambda one: len(workers(one)) == 2)
    publish("OrderPlaced", '{"customer_id": "c1", "amount": 666}')
    process.signal(signal.SIGINT)
    process.until(lambda one: len(lines(one, "stopping: no new events, waiting for handlers")) == 2)
    assert process.process.poll() is None, "the handler that sleeps a minute was not begun"
    process.signal(signal.SIGINT)
    assert process.wait(3).status == 130
    until_gone([*workers(process).values()], 1)


@pytest.mark.parametrize(
    ("code", "status", "said"), [(None, 3, "there is no module 'broken'"), ("1 / 0", 1, "ZeroDivisionError")]
)
def test_what_no_start_mends_ends_all(start: Start, folder: Path, code: str | None, status: int, said: str) -> None:
    if code is not None:
        (folder / "broken.py").write_text(code)
    ended = start("run", "broken", "--workers", "2", "--logs", "json").wait(30)
    assert ended.status == status
    assert said in ended.err
    assert ended.err.splitlines()[-1] == "sojourn: no worker could be started: what they said is above"
    assert 3 <= ended.err.count(said) <= 4


@pytest.mark.parametrize("number", ["0", "-1", "many", "257"])
def test_a_wrong_number_is_a_usage_error(folder: Path, number: str) -> None:
    done = forks.run(["run", "shop", "--workers", number], folder)
    assert (done.returncode, "--workers" in done.stderr) == (2, True)
    assert not (folder / ".sojourn").exists()


# The crew itself, with small programs in place of workers: their arguments end with --name NAME --lifeline FD


def program(code: str) -> list[str]:
    head = "import os, socket, sys, time; name = sys.argv[2]; line = socket.socket(fileno=int(sys.argv[4]))\n"
    return [sys.executable, "-c", head + code]


async def running(made: Crew, seconds: float = 5.0) -> None:
    async with asyncio.timeout(20):
        await made.run(seconds)


async def test_pauses_grow_and_are_short_again_after_a_sound_time(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(crew, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(crew, "LONGEST_PAUSE", 0.03)
    monkeypatch.setattr(crew, "PROVEN", 1.0)
    pauses: list[float] = []

    class Log:
        def warning(self, event: str, **facts: Any) -> None:
            pauses.append(facts["again_in"])
            if len(pauses) == 6:
                made.stop()

        def info(self, event: str, **facts: Any) -> None: ...

    monkeypatch.setattr(crew, "log", Log())
    starts = tmp_path / "starts"
    made = Crew(
        ["one"],
        program(
            f"line.send(b'r'); f = open({str(starts)!r}, 'a'); print(file=f, flush=True)\n"
            f"if len(open({str(starts)!r}).read()) == 5: time.sleep(1.1)\nos._exit(1)"
        ),
        {},
        text=True,
    )
    await running(made)
    assert pauses == [0.01, 0.02, 0.03, 0.03, 0.01, 0.02]


async def test_a_worker_that_does_not_leave_is_killed(capfd: pytest.CaptureFixture[str]) -> None:
    made = Crew(
        ["deaf", "good"],
        program("line.send(b'r')\nif name == 'good': line.recv(1)\nelse: time.sleep(60)"),
        {},
        text=True,
    )
    stopping = asyncio.get_running_loop().call_later(1.0, made.stop)
    begun = time.monotonic()
    with pytest.raises(CrewFailed, match=r"worker deaf did not leave in order \(signal 9\)") as caught:
        await running(made, seconds=0.5)
    stopping.cancel()
    assert (caught.value.status, time.monotonic() - begun < 5) == (1, True)


async def test_while_one_works_the_others_are_tried_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(crew, "LONGEST_PAUSE", 0.01)
    tries = tmp_path / "tries"
    made = Crew(
        ["good", "bad"],
        program(
            f"if name == 'good' or os.path.getsize({str(tries)!r}) > 6: line.send(b'r'); line.recv(1); sys.exit(0)\n"
            f"open({str(tries)!r}, 'a').write('x'); time.sleep(0.3); sys.exit(2)"
        ),
        {},
        text=True,
    )
    tries.touch()

    async def stop() -> None:
        while len(tries.read_text()) < 7:  # noqa: ASYNC110 - a process sets no event
            await asyncio.sleep(0.01)
        made.stop()

    stopping = asyncio.create_task(stop())
    await running(made)
    await stopping


async def test_what_workers_write_tells_of_whom(capsys: pytest.CaptureFixture[str]) -> None:
    made = Crew(
        ["one"], program("line.send(b'r'); print('a\\xff\\nb', end='', file=sys.stderr); sys.exit(0)"), {}, text=True
    )
    asyncio.get_running_loop().call_later(0.7, made.stop)
    await running(made)
    assert {"one a\xff", "one b"} <= set(capsys.readouterr().err.splitlines())


def test_labels() -> None:
    assert labelled("w-1", "a line\n", text=True) == "w-1 a line\n"
    assert json.loads(labelled("w-1", '{"event": "x", "level": "info"}\n', text=False)) == {
        "worker": "w-1", "event": "x", "level": "info",
    }  # fmt: skip
    assert json.loads(labelled("w-1", '{"event": "x", "worker": "w-1"}\n', text=False)) == {
        "event": "x",
        "worker": "w-1",
    }
    assert json.loads(labelled("w-1", 'Traceback "here"\n', text=False)) == {
        "worker": "w-1",
        "event": 'Traceback "here"',
    }


# What a worker is given


def test_options_reach_the_workers_and_no_argument_holds_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("SOJOURN_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SOJOURN_SERVER", "nats://other")
    monkeypatch.setenv("SOJOURN_FROZEN", "1")
    given = "nats://me:s3%2Fcret@one:4222,nats://me:s3%2Fcret@two:4222"
    server, _ = parse_server(given)
    settings = Settings(server, None, "shop", Path(".sojourn"), MasterKeyGiven(Path("keys")))
    environment = of_worker(settings)
    assert {name: value for name, value in environment.items() if name.startswith("SOJOURN_")} == {
        "SOJOURN_SERVER": given, "SOJOURN_NAMESPACE": "shop", "SOJOURN_STORE": ".sojourn",
        "SOJOURN_MASTER_KEY_FILE": "keys", "SOJOURN_FROZEN": "0",
    }  # fmt: skip
    assert parse_server(environment["SOJOURN_SERVER"])[0] == server
    assert "SOJOURN_SERVER" not in of_worker(Settings(None, None, "shop", Path(".sojourn")))
    token, _ = parse_server("nats://t0ken@one:4222")
    assert of_worker(Settings(token, None, "shop", Path(".")))["SOJOURN_SERVER"] == "nats://t0ken@one:4222"


def test_the_end_of_the_lifeline_is_told_once_also_to_who_listens_late() -> None:
    for late in (False, True):
        ours, theirs = socket.socketpair()
        told = threading.Event()
        lifeline = Lifeline(theirs.detach())
        lifeline.running()
        assert ours.recv(1) == b"r"
        if late:
            with lifeline.ending(lambda: None):
                ours.close()
                lifeline._thread.join(5)
                with lifeline.ending(told.set):
                    assert told.is_set()
        else:
            with lifeline.ending(told.set):
                ours.close()
                assert told.wait(5)


def test_a_lifeline_is_no_option_for_people(folder: Path) -> None:
    done = subprocess.run([*SOJOURN, "run", "shop", "--lifeline", "99"], capture_output=True, timeout=60, check=False)
    assert (done.returncode, b"Traceback" in done.stderr) == (2, False)
