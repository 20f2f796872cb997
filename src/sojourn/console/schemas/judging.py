"""What a module's event types mean to those registered: the same verdict from a server and from a lock file. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from itertools import groupby
from typing import Any, Literal, NamedTuple

from sojourn.bus.event import Event
from sojourn.bus.schemas.admission import Claim, claim_of, differences, judge
from sojourn.bus.schemas.change import Change, Direction
from sojourn.bus.schemas.checking import check_class
from sojourn.bus.schemas.compatibility import Level, breaking
from sojourn.bus.schemas.reading import Gap, find_gaps
from sojourn.bus.schemas.records import SchemaRecord
from sojourn.console.schemas.difference import addressed

Status = Literal["unchanged", "new", "changed", "broken"]
"""``new``: a type that nobody registered; ``changed``: a version that may follow those registered."""

Kind = Literal["key", "owner", "level", "version", "schema", "compatibility", "upcaster", "refused"]


class Problem(NamedTuple):
    """Why a class must not follow what is registered.

    ``message`` says it with its way out; ``against`` is the registered version that it is about, ``direction`` the one
    that ``changes`` break.
    """

    kind: Kind
    message: str
    against: int | None = None
    direction: Direction | None = None
    changes: tuple[Change, ...] = ()


class Judged(NamedTuple):
    """A class and the verdict. ``base``: the registered version that ``changes`` compares with, None for the first.

    ``level`` is the one that it was judged by.
    """

    type: str
    version: int
    reference: str
    level: Level
    status: Status
    base: int | None
    changes: list[Change]
    problems: list[Problem]


def judge_events(
    classes: Iterable[type[Event]],
    records: Mapping[str, SchemaRecord],
    *,
    level: Level | None = None,
    older: bool = False,
) -> list[Judged]:
    """Every class against the record of its type, in their order. ``level``: judge by this one, whatever is registered
    and declared. ``older``: a registered version that is not the newest is no problem. Raises `DefinitionError` for a
    class that has no schema."""
    return [judge_event(cls, records.get(cls.__name__), level=level, older=older) for cls in classes]


def judge_event(
    cls: type[Event], known: SchemaRecord | None, *, level: Level | None = None, older: bool = False
) -> Judged:
    """A class against what is registered of its type; see `judge_events`."""
    claim = claim_of(cls)
    if known is None:
        applied = level or claim.level or Level.BACKWARD
        return Judged(claim.type, claim.version, claim.reference, applied, "new", None, [], [])
    applied = level or known.compatibility
    problems = list(_identity(claim, known, level))
    # Another key is another event: then what else differs is no news, and has no way out.
    if known.key_field == claim.key_field:
        gaps = find_gaps(known, claim.upcasts, claim.version, claim.schema)
        problems += [
            *_version(claim, known, older=older),
            *_compatibility(claim, known, applied, level, {gap.version for gap in gaps}),
        ]
        told = {problem.against for problem in problems if problem.direction == "backward"}
        problems += [_unbridged(claim, gap) for gap in gaps if gap.version not in told]
    checked = check_class(cls, known)
    if not checked.ok and not problems and level is None:
        # Whatever else the registry refuses is not to be told for the first time when the code starts.
        problems.append(Problem("refused", checked.reason))
    status: Status = "broken" if problems else "unchanged" if checked.registered else "changed"
    if status == "changed" and not known.versions:
        status = "new"
    found = addressed(checked.changes, claim.type, checked.base or 1)
    return Judged(claim.type, claim.version, claim.reference, applied, status, checked.base, found, problems)


def difference_json(found: Iterable[Change]) -> list[dict[str, Any]]:
    """Changes for programs."""
    return [
        {"path": change.path, "what": change.what, "breaks": sorted(change.breaks), "fix": change.fix}
        for change in found
    ]


def judged_json(judged: Judged) -> dict[str, Any]:
    """A verdict for programs."""
    return {
        **judged._asdict(),
        "changes": difference_json(judged.changes),
        "problems": [{**problem._asdict(), "changes": difference_json(problem.changes)} for problem in judged.problems],
    }


def _identity(claim: Claim, known: SchemaRecord, level: Level | None) -> Iterable[Problem]:
    """What a type keeps through all its versions."""
    if known.key_field != claim.key_field:
        yield Problem(
            "key",
            f"the key field is {known.key_field!r} as registered, here {claim.key_field!r}: events are filed by it, so "
            "this is another event; give it a name of its own",
        )
    if claim.owner is not None and known.owner is not None and claim.owner != known.owner:
        yield Problem(
            "owner",
            f"it belongs to {known.owner!r} as registered, here to {claim.owner!r}: agree on one, or hand it over with "
            "`sojourn schemas push --take-over`",
        )
    if level is None and known.versions and claim.level not in (None, known.compatibility):
        yield Problem(
            "level",
            f"its level is {known.compatibility} as registered, here {claim.level}: `sojourn schemas push` changes it "
            "for everybody",
        )


def _version(claim: Claim, known: SchemaRecord, *, older: bool) -> Iterable[Problem]:
    there, latest = known.version(claim.version), known.latest
    if there is not None and (differing := differences(claim, there)):
        found = tuple(addressed(differing, claim.type, claim.version))
        yield Problem(
            "schema",
            f"version {claim.version} is registered with another schema, and a version never changes: undo it, or say "
            f"version={(latest or there).version + 1}",
            against=claim.version,
            changes=found,
        )
    if latest is None or claim.version >= latest.version:
        return
    if there is None:
        yield Problem(
            "version",
            f"version {claim.version} was never registered, and version {latest.version} is: a new version comes after "
            f"all others; say version={latest.version + 1}",
            against=latest.version,
        )
    elif not older:
        unread = tuple(breaking(claim.schema, latest.schema_, "forward"))
        yield Problem(
            "version",
            f"version {latest.version} is registered, so this class is out of date"
            f"{', and cannot read that version' if unread else ''}: bring the code up to it, or say --older where it "
            "is meant to stay",
            against=latest.version,
            direction="forward" if unread else None,
            changes=unread,
        )


def _compatibility(
    claim: Claim, known: SchemaRecord, applied: Level, asked: Level | None, missing: Collection[int]
) -> Iterable[Problem]:
    there = known.version(claim.version)
    if there is not None and asked is None:  # it was judged when it was registered
        return
    verdict = judge(claim, known, applied)
    for (against, direction), group in groupby(verdict.violations, key=lambda one: (one.against, one.direction)):
        # A transitive level names each version that cannot be read; those that come right with another need no step.
        if direction == "backward" and missing and against not in missing:
            continue
        reads = f"cannot read version {against}" if direction == "backward" else f"cannot be read by version {against}"
        found = tuple(violation.change for violation in group)
        yield Problem("compatibility", f"it {reads}, against its level {applied}", against, _way(direction), found)


def _unbridged(claim: Claim, gap: Gap) -> Problem:
    return Problem(
        "upcaster",
        f"nothing reads version {gap.version} in the log: write @upcast({claim.type}, from_version={gap.version})",
        against=gap.version,
        direction="backward",
        changes=tuple(addressed(gap.changes, claim.type, gap.version)),
    )


def _way(direction: str) -> Direction:
    return "backward" if direction == "backward" else "forward"
