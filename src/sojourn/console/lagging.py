"""Lag for people and for programs: tables, documents, durations."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sojourn.bus.lag import Figures, GroupLag, Lag
    from sojourn.console.output import Column


def span(seconds: float) -> str:
    """A duration in at most seven characters: ``0.4s``, ``12s``, ``3m 20s``, ``2h 05m``, ``9d 4h``, ``412d``."""
    if seconds < 9.95:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02}s"
    if whole < 86_400:
        return f"{whole // 3600}h {whole % 3600 // 60:02}m"
    days = whole // 86_400
    return f"{days}d {whole % 86_400 // 3600}h" if days < 100 else f"{days:,}d"


def table(lag: Lag, *, partitions: bool) -> tuple[list[Column], list[list[str]]]:
    """The columns and rows of a table: a row for each group, or for each of its partitions, and one for all."""
    from sojourn.console.output import Column

    columns = [Column("group", "is cut")]
    if partitions:
        columns.append(Column("p", right=True))
    columns += [Column(name, right=True) for name in ("pending", "flight", "parked", "oldest", "in/s", "out/s")]
    columns.append(Column("drain"))
    if lag.owned:
        columns.append(Column("worker", "is cut") if partitions else Column("workers", right=True))
    rows: list[list[str]] = []
    for group in lag.groups:
        if partitions and group.partitions:
            for one in group.partitions:
                rows.append([group.name, str(one.partition), *_cells(one.figures, group)])
                if lag.owned:
                    rows[-1].append(one.worker or "–")
        else:
            cells = _cells(group.figures, group) if group.partitions or group.ran else ["–"] * 6 + ["new"]
            rows.append([group.name, *(["–"] if partitions else []), *cells])
            if lag.owned:
                rows[-1].append(str(group.workers) if group.partitions and not partitions else "–")
    if len(rows) > 1:
        rows.append(["total", *([""] if partitions else []), *_cells(lag.figures, None)])
        if lag.owned:
            rows[-1].append("")
    return columns, rows


def _cells(figures: Figures, group: GroupLag | None) -> list[str]:
    known = group is None or not group.unmeasured
    return [
        _count(figures.pending) if known else f"{_count(figures.pending)}+",
        _count(figures.in_flight),
        _count(figures.parked),
        "–" if figures.oldest is None else span(figures.oldest),
        _rate(figures.arriving),
        _rate(figures.leaving),
        _outlook(figures, group),
    ]


def _count(number: int) -> str:
    return f"{number:,}" if number < 1_000_000 else f"{number / 1e6:,.1f}M"


def _rate(rate: float | None) -> str:
    if rate is None:
        return "–"
    if rate < 99.95:
        return f"{rate:.1f}"
    return f"{rate:.0f}" if rate < 999.5 else f"{rate / 1e3:,.1f}k"


def _outlook(figures: Figures, group: GroupLag | None) -> str:
    if group is not None and group.paused:
        return "paused"
    if (seconds := figures.drain) is not None:
        return span(seconds)
    return "–" if figures.trend == "unknown" else figures.trend


def facts(lag: Lag, *, partitions: bool) -> dict[str, Any]:
    """The lag for programs."""
    return {
        **_place(lag),
        "groups": [_group(group, lag, partitions=partitions) for group in lag.groups],
        "total": _figures(lag.figures),
        "unmeasured": dict(lag.failures),
        "parked_truncated": lag.truncated,
    }


def group_facts(lag: Lag, *, partitions: bool) -> list[dict[str, Any]]:
    """The lag for programs, group by group."""
    return [{**_place(lag), **_group(group, lag, partitions=partitions)} for group in lag.groups]


def _place(lag: Lag) -> dict[str, Any]:
    return {"namespace": lag.namespace, "time": lag.time.astimezone(UTC).isoformat(timespec="milliseconds")}


def _group(group: GroupLag, lag: Lag, *, partitions: bool) -> dict[str, Any]:
    told: dict[str, Any] = {
        "group": group.name,
        "writers": list(group.writers),
        "ran": group.ran,
        "paused": group.paused,
        **_figures(group.figures),
        "workers": group.workers if lag.owned else None,
        "unmeasured": list(group.unmeasured),
    }
    if partitions:
        told["partitions"] = [
            {"partition": one.partition, **_figures(one.figures), "worker": one.worker} for one in group.partitions
        ]
    return told


def _figures(figures: Figures) -> dict[str, Any]:
    return {
        "pending": figures.pending,
        "in_flight": figures.in_flight,
        "parked": figures.parked,
        "oldest_seconds": _rounded(figures.oldest),
        "in_per_second": _rounded(figures.arriving),
        "out_per_second": _rounded(figures.leaving),
        "drain_seconds": _rounded(figures.drain),
        "trend": figures.trend,
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def over(lag: Lag, limit: float) -> list[str]:
    """A line for each group whose oldest unhandled event is older than ``limit`` seconds."""
    return [
        f"{group.name}: the oldest unhandled event is {group.figures.oldest:.0f} s old, more than {limit:g}"
        for group in lag.groups
        if group.figures.oldest is not None and group.figures.oldest > limit
    ]


def unmeasured(lag: Lag) -> list[str]:
    """A line for each stream that did not answer."""
    return [f"{stream} could not be measured: {reason}" for stream, reason in lag.failures.items()]


def remarks(lag: Lag) -> Sequence[str]:
    """What a reader of the figures has to know besides."""
    from sojourn.bus.lag.parked import LIMIT

    if not lag.truncated:
        return ()
    return (f"only the latest {LIMIT:,} records of parking of a stream were read: more customers may be parked",)
