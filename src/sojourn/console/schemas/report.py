"""Verdicts on event types as people read them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sojourn.console.output import write_spans
from sojourn.console.schemas.difference import change_lines, wrapped
from sojourn.console.schemas.judging import Judged, Problem
from sojourn.console.terminal import Span, plain

_STYLES = {"unchanged": "2", "new": "32", "changed": "32", "broken": "1;31"}


def tell_judged(judged: Sequence[Judged]) -> None:
    """Writes the verdicts: a line for each event type, below it what changed, or what is broken and the way out."""
    column = max((len(_name(one)) for one in judged), default=0)
    for one in judged:
        name = _name(one)
        write_spans(
            [
                Span(name, "1"),
                Span(" " * (column - len(name) + 2)),
                Span(one.status, _STYLES[one.status]),
                Span(_said(one)),
            ]
        )
        for problem in one.problems:
            for line in _problem(problem):
                write_spans(line)
        if one.status == "changed":
            for line in change_lines(one.changes):
                write_spans(line)


def _name(one: Judged) -> str:
    return f"{one.type} {one.version}"


def _said(one: Judged) -> str:
    if one.status == "changed" and one.base is not None:
        same = ": the contract is the same" if not one.changes else ""
        return f" since version {one.base}, {one.level} holds{same}"
    return f" ({plain(one.reference)})" if one.status in ("broken", "new") else ""


def _problem(problem: Problem) -> Iterator[list[Span]]:
    # A refusal in the registry's own words has several lines.
    lines = [line for part in problem.message.splitlines() for line in wrapped(part.strip(), 4)]
    for number, line in enumerate(lines):
        yield [Span(f"{'    ' if number else '  - '}{line}")]
    yield from change_lines(problem.changes, indent=4)
