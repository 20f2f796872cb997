"""The program in processes of its own, on a real server that it starts by itself."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import forks
from tests.console.conftest import Process
from tests.forks import SOJOURN
from tests.nats_server import NatsServer

Start = Callable[..., Process]


def publish(folder: Path, type: str, data: str, *more: str, stdin: bytes = b"") -> subprocess.CompletedProcess[str]:
    return forks.run(["publish", type, data, "--module", "shop", *more], folder, stdin=stdin)


def running(process: Process) -> bool:
    return '"event": "running"' in process.err


def test_run_publish_and_watch(start_anew: Start, folder: Path) -> None:
    worker = start_anew("run", "shop").until(running)
    introduction = next(json.loads(line) for line in worker.err.splitlines() if '"running"' in line)
    assert introduction["namespace"] == "sojourn"
    assert [(one["agent"], one["version"], one["group"]) for one in introduction["agents"]] == [
        ("win-back", 3, "win-back"), ("thanks", 1, "thanks"),
    ]  # fmt: skip
    watching = start_anew("watch", "-o", "jsonl", "--since", "beginning")
    carts = "".join(json.dumps({"customer_id": f"c{n}", "cart_value": n}) + "\n" for n in range(300))
    done = publish(folder, "CartAbandoned", "-", stdin=carts.encode())
    assert (done.returncode, done.stdout, done.stderr) == (0, "300 CartAbandoned published\n", "")
    bad = publish(folder, "CartAbandoned", '{"customer_id": "c-bad", "cart_value": -1}')
    assert bad.returncode == 0
    watching.until(lambda one: one.out.count("\n") == 300)
    actions = [json.loads(line) for line in watching.out.splitlines()]
    assert sorted(action["subject"] for action in actions) == sorted(f"c{n}" for n in range(300))
    assert {action["type"] for action in actions} == {"DiscountOffered"}
    worker.until(lambda one: "dead letter" in one.err)
    offering = next(json.loads(line) for line in worker.err.splitlines() if '"offering"' in line)
    assert {"agent", "customer", "event", "level", "timestamp"} <= set(offering)
    assert offering["seen"] == "<CartAbandoned>"
    dead = subprocess.run([*SOJOURN, "dead", "ls", "-o", "json"], cwd=folder, capture_output=True, check=True)
    (letter,) = json.loads(dead.stdout)["dead_letters"]
    assert (letter["customer"], letter["writer"], letter["error"]) == ("c-bad", "win-back", "ValueError")
    for process, number, status in ((watching, signal.SIGINT, 130), (worker, signal.SIGTERM, 0)):
        process.signal(number)
        ended = process.wait(15)
        assert ended.status == status
        assert "Traceback" not in ended.err
        assert ended.out == "" or ended.out.endswith("\n")


def test_a_worker_that_is_told_to_stop_finishes_what_it_has_begun(start: Start, folder: Path) -> None:
    worker = start("run", "shop").until(running)
    watching = start("watch", "-o", "jsonl", "--since", "beginning")
    assert publish(folder, "OrderPlaced", '{"customer_id": "c1", "amount": 13}').returncode == 0
    worker.signal(signal.SIGTERM)
    ended = worker.wait(12)
    assert ended.status == 0
    assert '"event": "stopped"' in ended.err
    watching.until(lambda one: "ThanksSent" in one.out)


def test_a_handler_that_does_not_end_is_left_behind_in_time_and_a_second_signal_ends_at_once(
    start: Start, folder: Path
) -> None:
    worker = start("run", "shop").until(running)
    assert publish(folder, "OrderPlaced", '{"customer_id": "c1", "amount": 666}').returncode == 0
    begun = time.monotonic()
    worker.signal(signal.SIGTERM)
    assert worker.wait(15).status == 0
    assert time.monotonic() - begun < 11
    second = start("run", "shop").until(running)
    second.until(lambda one: '"group runs here"' in one.err)
    second.signal(signal.SIGINT)
    second.until(lambda one: "stopping" in one.err or one.process.poll() is not None)
    second.signal(signal.SIGINT)
    assert second.wait(3).status == 130


@pytest.mark.parametrize("delay", [0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 1.0])
def test_an_interrupt_at_any_moment_is_quiet(start: Start, folder: Path, delay: float) -> None:
    assert start("agents", "register", "shop").wait().status == 0
    # The interpreter's own first milliseconds are not ours, nor those until we take the signal over.
    program = """
import signal
from sojourn.console.main import main
take = signal.signal
def told(*arguments):
    signal.signal = take
    take(*arguments)
    print(flush=True)
signal.signal = told
main()
"""
    with subprocess.Popen(
        [sys.executable, "-c", program, "watch"], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as watching:
        assert watching.stdout is not None
        watching.stdout.readline()
        time.sleep(delay)
        watching.send_signal(signal.SIGINT)
        out, err = watching.communicate(timeout=15)
    assert (watching.returncode, out, err) == (130, b"", b"")


def test_the_server_is_lost_and_found_again(start: Start, folder: Path) -> None:
    worker = start("run", "shop").until(running)
    watching = start("watch", "-o", "jsonl", "--since", "beginning")
    server = json.loads((folder / ".sojourn" / "server.json").read_text())
    os.kill(server["server_pid"], signal.SIGKILL)
    worker.until(lambda one: "connected to the server again" in one.err)
    assert "the connection to the server is lost" in worker.err or "restarted" in worker.err
    assert publish(folder, "CartAbandoned", '{"customer_id": "c1", "cart_value": 1}').returncode == 0
    watching.until(lambda one: one.out.count("\n") == 1)
    worker.signal(signal.SIGTERM)
    assert worker.wait(15).status == 0


def test_a_reader_that_leaves_ends_the_command_quietly(folder: Path, start: Start) -> None:
    start("run", "shop").until(running)
    for n in range(3):
        publish(folder, "CartAbandoned", json.dumps({"customer_id": f"c{n}", "cart_value": 1}))
    watching = subprocess.Popen(
        [*SOJOURN, "watch", "--since", "beginning"], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert watching.stdout is not None and watching.stderr is not None
    assert b"DiscountOffered" in watching.stdout.readline()
    watching.stdout.close()  # no further action comes: it has to notice by itself
    assert watching.wait(15) == 0
    assert watching.stderr.read() == b""
    watching.stderr.close()


@pytest.mark.parametrize("arguments", [["--help"], ["watch", "--no-follow"], ["agents", "ls", "-o", "json"]])
def test_without_standard_output_there_is_no_traceback(arguments: list[str], folder: Path) -> None:
    line = " ".join(["exec", "python", "-c", "'from sojourn.console.main import main; main()'", *arguments, ">&-"])
    done = subprocess.run(
        ["/bin/sh", "-c", line.replace("python", SOJOURN[0])], cwd=folder, capture_output=True, timeout=60, check=False
    )
    assert b"Traceback" not in done.stderr
    assert b"Exception ignored" not in done.stderr


def test_lines_that_are_refused_are_told_and_the_others_published(folder: Path) -> None:
    carts = ['{"customer_id": "c1", "cart_value": 1}', "", "nonsense", '{"customer_id": "c2"}']
    lines = "\n".join([*carts, '{"customer_id": "c3", "cart_value": 3}']).encode()
    done = publish(folder, "CartAbandoned", "-", stdin=lines)
    assert done.returncode == 1
    assert done.stdout == "2 CartAbandoned published\n"
    assert done.stderr.splitlines() == [
        "sojourn: line 3: JSON: Expecting value: line 1 column 1 (char 0)",
        "sojourn: line 4: CartAbandoned.cart_value: Field required",
        "sojourn: 2 lines were refused",
    ]


def test_an_interrupt_while_it_waits_for_input(start: Start, folder: Path) -> None:
    read, write = os.pipe()
    publishing = start("publish", "CartAbandoned", "-", "--module", "shop", stdin=read)
    os.write(write, b'{"customer_id": "c1", "cart_value": 1}\n')
    publishing.until(lambda one: (folder / ".sojourn" / "server.json").exists())
    publishing.signal(signal.SIGINT)
    ended = publishing.wait(15)
    os.close(write)
    os.close(read)
    assert ended.status == 130
    assert ended.err == ""


@pytest.mark.parametrize(("secret", "status"), [("s3cret", 0), ("wr0ng-one", 4)])
def test_credentials_in_the_url(
    secret: str, status: int, folder: Path, private_server: Callable[[str], NatsServer]
) -> None:
    server = private_server('authorization { user: me, password: "s3cret" }')
    done = forks.run(["agents", "register", "shop", "--server", f"nats://me:{secret}@127.0.0.1:{server.port}"], folder)
    assert (done.returncode, done.stderr.count("\n")) == (status, 1 if status else 0)
    assert secret not in done.stderr
    assert not (folder / ".sojourn").exists()


def test_sigterm_ends_a_watch(start: Start, folder: Path) -> None:
    assert start("agents", "register", "shop").wait().status == 0
    watching = start("watch", "--agent", "nobody").until(lambda one: one.err.endswith("\n"))
    watching.signal(signal.SIGTERM)
    ended = watching.wait(15)
    assert (ended.status, ended.out, ended.err.count("\n")) == (143, "", 1)
    assert "watching all the same" in ended.err


def test_a_server_that_is_not_there(folder: Path) -> None:
    done = forks.run(["agents", "ls", "--server", "nats://me:s3cret@127.0.0.1:9"], folder)
    assert done.returncode == 5
    assert done.stderr.startswith("sojourn: ")
    assert done.stderr.count("\n") == 1
    assert "s3cret" not in done.stderr
