"""May a schema follow those before it? A pure function of JSON Schemas, by the levels of the field's registries.

The content model is lenient: a reader ignores fields that it does not know, and a writer does not write fields that
its schema does not name. So adding or removing an optional field, or one with a default, is compatible both ways, in
open and in closed models: with ``extra="forbid"`` a model refuses further fields in documents of its own version only,
and may be opened and closed.

A level that accepts means that every instance of the one schema is read by the other. What neither JSON Schema nor
`keywords` can say is no part of it: validators.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Any, NamedTuple

from sojourn.bus.schemas.change import NEITHER, UPCAST, Change, Direction, render
from sojourn.bus.schemas.comparison import compare, keys_moved
from sojourn.bus.schemas.contract import contract

__all__ = ["Change", "Direction", "Level", "Verdict", "Version", "Violation", "breaking", "changes", "check", "render"]

Schema = dict[str, Any]


class Level(StrEnum):
    """What a new schema has to keep to. BACKWARD: it reads data of the newest version before it; FORWARD: that version
    reads its data; FULL: both; TRANSITIVE: against all earlier versions."""

    NONE = "NONE"
    BACKWARD = "BACKWARD"
    FORWARD = "FORWARD"
    FULL = "FULL"
    BACKWARD_TRANSITIVE = "BACKWARD_TRANSITIVE"
    FORWARD_TRANSITIVE = "FORWARD_TRANSITIVE"
    FULL_TRANSITIVE = "FULL_TRANSITIVE"

    @property
    def transitive(self) -> bool:
        """True where all earlier versions count, not only the newest."""
        return self.value.endswith("_TRANSITIVE")

    @property
    def directions(self) -> tuple[Direction, ...]:
        """The directions that must not break."""
        match self.value.partition("_")[0]:
            case "BACKWARD":
                return ("backward",)
            case "FORWARD":
                return ("forward",)
            case "FULL":
                return ("backward", "forward")
            case _:
                return ()


class Version(NamedTuple):
    """A registered schema."""

    version: int
    schema: Schema


class Violation(NamedTuple):
    """A change that the level forbids. ``against`` is the earlier version that it breaks with."""

    against: int
    direction: Direction
    change: Change


class Verdict(NamedTuple):
    """What `check` found: one violation for each earlier version, direction and change."""

    level: Level
    violations: list[Violation]

    @property
    def ok(self) -> bool:
        """True where nothing stands against the new schema."""
        return not self.violations


REWRITTEN = Change("", "written differently, read the same", NEITHER, "")
"""The only change where the same contract is put into other words, as a new release of pydantic may do."""


def changes(old: Schema, new: Schema) -> list[Change]:
    """Every change from ``old`` to ``new``, in document order; empty where the contracts are equal.

    What happened to a model that is used in several places is listed at the first of them.
    """
    found = compare(old, new)
    if not found and old != new and contract(old) != contract(new):
        return [REWRITTEN]
    return found


def breaking(old: Schema, new: Schema, direction: Direction) -> list[Change]:
    """The changes that break one direction."""
    return [change for change in changes(old, new) if direction in change.breaks]


def check(
    earlier: Sequence[Version],
    new: Schema,
    level: Level,
    *,
    bridged: Callable[[int], bool] = lambda version: False,
) -> Verdict:
    """Whether ``new`` may follow the ``earlier`` versions under ``level``.

    Levels that are not transitive look at the newest earlier version only. ``bridged(v)`` says that upcasters lead from
    version v to the new one: what breaks backward is then theirs to mend, and no violation. A key that moved stays one,
    since events are filed by it.
    """
    versions = sorted(earlier, key=lambda version: version.version)
    if not level.transitive:
        versions = versions[-1:]
    violations = []
    for version, schema in versions:
        found = changes(schema, new)
        moved = keys_moved(schema, new)
        waived = bridged(version)
        for direction in level.directions:
            violations += [
                Violation(version, direction, _addressed(change, new, version))
                for change in found
                if direction in change.breaks and not (direction == "backward" and waived and change not in moved)
            ]
    return Verdict(level, violations)


def _addressed(change: Change, new: Schema, version: int) -> Change:
    """The change with a fix that names class and version."""
    name = new.get("title")
    called = f"raise version= and write @upcast({name if isinstance(name, str) else '…'}, from_version={version})"
    return change._replace(fix=change.fix.replace(UPCAST, called))
