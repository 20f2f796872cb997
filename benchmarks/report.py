"""What a benchmark says for people: where it ran, one line for each comparison, and what became of the promises."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.figures import Comparison
from benchmarks.server import fsync_seconds

_COLUMNS = f"{'':<27} {'fsync':<7}{'rounds':>6} {'without':>10} {'with':>10} {'cost':>8}  {'95 % range':<19}promised"


def circumstances(*, seed: int, events: int, store: Path | None) -> dict[str, Any]:
    """What somebody needs to know who compares two runs."""
    try:
        loop = f"uvloop {version('uvloop')}"
    except PackageNotFoundError:
        loop = "asyncio"
    return {
        "commit": _commit(),
        "seed": seed,
        "events": events,
        "python": platform.python_version(),
        "loop": loop,
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "fsync_ms": round(fsync_seconds(store) * 1e3, 2),
    }


def head(where: dict[str, Any]) -> str:
    return (
        f"commit {where['commit']}, seed {where['seed']}, {where['events']:,} events a round; "
        f"nats-server {where.get('nats_server', 'of its own')}, one fsync takes {where['fsync_ms']} ms; "
        f"Python {where['python']}, {where['loop']}, {where['cores']} cores, load {where['load']} at the start"
    )


def row(found: Comparison) -> str:
    """One comparison on one line."""
    without, with_ = found.rates
    cost = found.cost
    promised = f"< {found.promise:.0%}, {found.verdict}" if found.promise is not None else ""
    return (
        f"{found.title:<27} {found.fsync:<7}{len(found.rounds):>6} {without:>8,.0f}/s {with_:>8,.0f}/s "
        f"{cost.median:>8.1%}  {f'{cost.low:.1%} to {cost.high:.1%}':<19}{promised:<10}"
    ).rstrip()


def table(found: Sequence[Comparison]) -> str:
    """All comparisons; CPU and notes below."""
    lines = [_COLUMNS.rstrip(), *map(row, found), ""]
    for comparison in found:
        without, with_ = comparison.cpu
        place = f"{comparison.title}{f', fsync {comparison.fsync}' if comparison.fsync else ''}"
        lines.append(
            f"{place}: {without:.1f} µs of CPU an event {comparison.first}, {with_:.1f} µs {comparison.second} "
            f"({comparison.cpu_cost.median:+.1%})"
        )
        if comparison.notes:
            lines.append("  " + ", ".join(f"{name}: {value}" for name, value in comparison.notes.items()))
    return "\n".join(lines)


def _commit() -> str:
    root = Path(__file__).parents[1]
    try:
        commit = _git(root, "rev-parse", "--short", "HEAD")
        return f"{commit} with changes" if _git(root, "status", "--porcelain", "--", "src", "benchmarks") else commit
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(root: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True).stdout.strip()
