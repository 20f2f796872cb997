"""Measures what the bus promises, as ratios within one run, and prints a table: ``python -m benchmarks``.

Exits with 1 where a promise of docs/benchmarks.md is broken by more than the noise of the rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path

import structlog

from benchmarks import publishing, reading
from benchmarks.events import Source
from benchmarks.figures import Comparison
from benchmarks.report import circumstances, head, row, table
from benchmarks.server import SYNC, nats_server
from sojourn.bus.nats import connect_nats
from sojourn.bus.timers import JetStreamTimers


async def server_version(url: str) -> str:
    transport = await connect_nats(url, timers=JetStreamTimers())
    try:
        return transport.server_version
    finally:
        await transport.close()


async def measure(
    *, events: int, rounds: int, seed: int, cases: list[str], store: Path | None = None
) -> tuple[list[Comparison], str]:
    """All cases that are asked for, and the server's version. What is only information gets fewer rounds."""
    source = Source(seed)
    found: list[Comparison] = []
    version = ""

    def wanted(name: str) -> bool:
        return not cases or name in cases

    def tell(comparison: Comparison) -> None:
        found.append(comparison)
        print(row(comparison), file=sys.stderr, flush=True)

    fewer = max(1, rounds // 5)
    for fsync in SYNC:
        with nats_server(fsync, store) as url:
            version = await server_version(url)
            turns = rounds if fsync == "always" else max(1, rounds // 2)
            if wanted("guard"):
                tell(await publishing.guard(url, source, events=events, rounds=turns, fsync=fsync))
            if wanted("personal"):
                tell(await publishing.personal(url, source, events=events, rounds=turns, fsync=fsync))
            if fsync == "always" and wanted("first contact"):
                tell(await publishing.first_contact(url, source, events=events, rounds=fewer, fsync=fsync))
            if fsync == "always" and wanted("worker"):
                tell(await reading.worker(url, source, events=events, rounds=fewer, fsync=fsync))
    if wanted("upcasting"):
        for comparison in reading.upcasting(events=events, rounds=max(1, rounds // 2)):
            tell(comparison)
    return found, version


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--events", type=int, default=2_000, help="events of one variant in one round")
    parser.add_argument("--rounds", type=int, default=30, help="rounds of what is promised; fewer for the rest")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--case", action="append", default=[], help="only this one; may be given several times")
    parser.add_argument("--store", type=Path, help="the folder in which the server's store is made")
    parser.add_argument("--json", type=Path, metavar="FILE", help="writes everything that was measured there")
    options = parser.parse_args()
    # What the worker tells of itself belongs neither into the table nor beside it.
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    where = circumstances(seed=options.seed, events=options.events, store=options.store)
    print(head(where), file=sys.stderr, flush=True)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        found, where["nats_server"] = runner.run(
            measure(
                events=options.events,
                rounds=options.rounds,
                seed=options.seed,
                cases=options.case,
                store=options.store,
            )
        )
    print(head(where), table(found), sep="\n\n")
    broken = [comparison for comparison in found if comparison.verdict == "broken"]
    for comparison in broken:
        print(
            f"\n{comparison.title}, fsync {comparison.fsync}: at least {comparison.cost.low:.1%} of the throughput is "
            f"lost, {comparison.promise:.0%} is promised in docs/benchmarks.md"
        )
    if options.json is not None:
        options.json.write_text(json.dumps({**where, "comparisons": [c.facts() for c in found]}, indent=1) + "\n")
    return 1 if broken else 0


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """The loop that the command line runs workers on."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


if __name__ == "__main__":
    sys.exit(main())
