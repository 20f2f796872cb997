"""Handlers that block the event loop: in a process of their own, since the watchdog interrupts the main thread."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]

PROGRAM = """
import asyncio, functools, json, sys, time
import structlog
from sojourn.bus.delivery import watchdog, worker
from tests.bus.delivery.processors import *

structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
worker.Watchdog = functools.partial(watchdog.Watchdog, warn=0.2, interrupt=0.8)

def blocks():
    {block}

{kind} handle(resident, turn):
    n = turn.recorded.envelope.event.n
    if n == 1:
        blocks()
    elif n == 2:
        time.sleep(0.45)  # slow, and right after the one that blocks, but not to be interrupted
    return offer(resident, turn)

async def main():
    async with memory_bus() as bus:
        async with worker.Worker(bus, [Scripted(handle)]) as w{more}:
            async with bus.publisher() as publisher:
                for n in range(1, 8):
                    await publisher.publish(CartAbandoned(customer_id=f"c{{n}}", n=n))
            await w.caught_up()
        print(json.dumps({{"dead": await dead(bus), "actions": sorted(d["data"]["n"] for d in await actions(bus))}}))

{run}
"""


def run_program(
    block: str, *, kind: str = "def", run: str = "asyncio.run(main())", more: str = ""
) -> tuple[dict[str, Any], str]:
    program = PROGRAM.format(block=block, kind=kind, run=run, more=more)
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


@pytest.mark.parametrize(
    ("block", "kind"),
    [("time.sleep(60)", "def"), ("while True: pass", "async def")],
    ids=["sleep", "loop"],
)
def test_a_handler_that_blocks_is_named_and_interrupted_and_no_other(block: str, kind: str) -> None:
    found, said = run_program(block, kind=kind)
    [letter] = found["dead"]
    assert letter["error"] == "HandlerBlocked" and "win on CartAbandoned blocked the event loop" in letter["reason"]
    assert "in blocks" in letter["traceback"], "it shows where the handler was"
    assert found["actions"] == [2, 3, 4, 5, 6, 7]
    assert "handler blocks the event loop" in said


def test_on_uvloop_too() -> None:
    pytest.importorskip("uvloop")
    found, _ = run_program("time.sleep(60)", run="import uvloop; uvloop.run(main())")
    assert len(found["dead"]) == 1 and found["actions"] == [2, 3, 4, 5, 6, 7]


def test_with_two_workers_on_one_loop() -> None:
    more = ", worker.Worker(bus, [Scripted(writer='other')], ingress=False)"
    found, _ = run_program("time.sleep(60)", more=more)
    assert len(found["dead"]) == 1 and found["actions"] == [2, 3, 4, 5, 6, 7]


def test_outside_the_main_thread_it_only_tells() -> None:
    run = "import threading; t = threading.Thread(target=asyncio.run, args=(main(),)); t.start(); t.join()"
    found, said = run_program("time.sleep(1.5)", run=run)
    assert found["dead"] == [] and found["actions"] == [1, 2, 3, 4, 5, 6, 7]
    assert "handler blocks the event loop" in said
