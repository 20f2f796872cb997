"""Redriving and dropping dead letters from the command line: what is told meanwhile and in the end."""

from __future__ import annotations

import contextlib
import getpass
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from time import monotonic
from typing import Any, Literal

from sojourn.bus.client import Bus
from sojourn.bus.deadletters import DeadLetter, Selection, dead_letter, dead_letters
from sojourn.bus.redrive import DONE, Outcome, Result, drop, redrive
from sojourn.console.failures import Problems, note, several
from sojourn.console.options import Form
from sojourn.console.output import write, write_json, write_json_lines

Deed = Literal["redrive", "drop"]

_NEWS = 2.0
"""Seconds between two lines of progress."""

_TOLD = 20
_KEPT = 1_000
"""Letters that are named in the end, of those with which something is the matter: on standard error, in JSON."""

_WORDS: dict[Result, str] = {
    "redriven": "redriven",
    "filed": "filed",
    "woken": "woken",
    "dropped": "dropped",
    "already": "done before",
    "excluded": "decided otherwise before",
    "gone": "gone from the log",
    "erased": "of erased customers",
    "failed": "failed",
}


class Tally:
    """Counts what became of the letters, tells how far it is, and keeps what is the matter with some of them."""

    def __init__(self, output: Form, *, dry_run: bool) -> None:
        self.counts: Counter[Result] = Counter()
        self.matters: list[Outcome] = []
        self.dry_run = dry_run
        self._lines = output == "jsonl"
        self._told = monotonic()

    @property
    def done(self) -> int:
        """How many were, or would be, put back or given up."""
        return sum(self.counts[result] for result in DONE)

    def take(self, outcome: Outcome) -> None:
        """Takes note of one."""
        self.counts[outcome.result] += 1
        if outcome.result not in DONE and outcome.result != "already" and len(self.matters) < _KEPT:
            self.matters.append(outcome)
        if self._lines:
            write_json_lines("dead-outcome/1", [{**_facts(outcome), "dry_run": self.dry_run}])
        if monotonic() - self._told >= _NEWS:
            self._told = monotonic()
            note(f"{self} so far")

    def __str__(self) -> str:
        told = [f"{self.counts[result]:,} {word}" for result, word in _WORDS.items() if self.counts[result]]
        return ", ".join(told) or "no dead letters"


async def decide(
    bus: Bus, deed: Deed, numbers: Sequence[str], selection: Selection, limit: int | None, tally: Tally
) -> Tally:
    """Redrives or drops the letters of these numbers, or those selected. Raises `NotFoundError` for a number that is
    none, before anything is done."""
    named = [await dead_letter(bus, number) for number in dict.fromkeys(numbers)]
    async with contextlib.aclosing(_named(named) if numbers else _first(bus, selection, limit)) as letters:
        if deed == "redrive":
            await redrive(bus, letters, tally.take, dry_run=tally.dry_run)
        else:
            await drop(bus, letters, tally.take, by=_me(), dry_run=tally.dry_run)
    return tally


def tell(tally: Tally, deed: Deed, namespace: str, output: Form) -> None:
    """Says what became of the letters. Raises `Problems` where some failed, or were decided otherwise before."""
    if output == "json":
        facts: dict[str, Any] = {
            "namespace": namespace,
            "deed": deed,
            "dry_run": tally.dry_run,
            "counts": {result: tally.counts[result] for result in _WORDS},
            "matters": [_facts(one) for one in tally.matters],
        }
        write_json("dead-outcomes/1", facts)
    elif output == "text":
        write(f"{'it would be: ' if tally.dry_run else ''}{tally}\n")
    for one in tally.matters[:_TOLD]:
        if one.result in ("gone", "erased"):
            note(_line(one))
    if tally.dry_run and output == "text":
        note("nothing was stored: --yes does it")
    bad = [one for one in tally.matters if one.result in ("failed", "excluded")]
    if bad:
        lines = [_line(one) for one in bad[:_TOLD]]
        more = tally.counts["failed"] + tally.counts["excluded"] - len(lines)
        raise Problems([*lines, f"… and {several(more, 'more letter')}"] if more else lines)


def _line(one: Outcome) -> str:
    return f"{one.letter.number} of {one.letter.customer or 'nobody'} {_verb(one)}{' '.join(one.reason.split())}"


def _verb(one: Outcome) -> str:
    return "" if one.result == "excluded" else "stays as it is: "


def _facts(one: Outcome) -> dict[str, Any]:
    letter = one.letter
    return {
        "number": letter.number,
        "kind": letter.kind,
        "writer": letter.writer,
        "customer": letter.customer,
        "type": letter.type,
        "id": letter.id,
        "result": one.result,
        "reason": one.reason,
    }


async def _named(letters: Sequence[DeadLetter]) -> AsyncGenerator[DeadLetter, None]:
    for letter in letters:
        yield letter


async def _first(bus: Bus, selection: Selection, limit: int | None) -> AsyncGenerator[DeadLetter, None]:
    left = limit
    async with contextlib.aclosing(dead_letters(bus, selection)) as letters:
        async for letter in letters:
            yield letter
            if left is not None:
                left -= 1
                if not left:
                    return


def _me() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "unknown"
