"""What a registration makes of a type's record, or why it is refused. Pure."""

from __future__ import annotations

import inspect
from datetime import datetime
from itertools import groupby
from typing import NamedTuple

from sojourn.bus.errors import SchemaError
from sojourn.bus.event import Event, spec_of
from sojourn.bus.schemas.compatibility import REWRITTEN, Change, Level, Verdict, changes, check, render
from sojourn.bus.schemas.reading import Gap, find_gap, find_gaps
from sojourn.bus.schemas.records import SchemaRecord, VersionRecord
from sojourn.bus.schemas.schema import Schema, fingerprint, key_name, schema_of


class Claim(NamedTuple):
    """An event class as it asks to be registered. ``owner`` and ``level`` are None where it declares none."""

    type: str
    version: int
    key_field: str
    schema: Schema
    hash: str
    owner: str | None
    level: Level | None
    description: str
    reference: str
    upcasts: list[int]


def claim_of(cls: type[Event]) -> Claim:
    """What a class claims. Raises `DefinitionError`."""
    spec, schema = spec_of(cls), schema_of(cls)
    return Claim(
        type=spec.type,
        version=spec.version,
        key_field=key_name(schema),
        schema=schema,
        hash=fingerprint(schema),
        owner=spec.owner,
        level=spec.compatibility,
        description=inspect.cleandoc(cls.__dict__.get("__doc__") or "").strip(),
        reference=f"{cls.__module__}:{cls.__qualname__}",
        upcasts=sorted(cls.__sojourn_upcasters__),
    )


def admitted(
    claim: Claim, known: SchemaRecord | None, *, now: datetime, push: bool = False, hand_over: bool = False
) -> SchemaRecord:
    """The record with the claim in it; equal to ``known`` where nothing is to be written.

    ``push``: an operator says so. Then the class's level replaces the stored one (and already decides about the
    class itself), and so do its description, import path and upcasters. ``hand_over``: so does its owner.

    Raises `SchemaError` for another key, another owner, another level, another schema under a registered version, a
    version older than the newest, and changes that the level does not allow.
    """
    if known is None:
        known = SchemaRecord(type=claim.type, key_field=claim.key_field)
    _check_key(claim, known)
    level = _settle_level(claim, known, push=push)
    owner = _settle_owner(claim, known, hand_over=hand_over)
    there = known.version(claim.version)
    if there is not None:
        check_same(claim, known, there)
    else:
        _check_new(claim, known, level)
    versions = [one for one in known.versions if one.version != claim.version]
    versions.append(_version(claim, there, now=now, push=push))
    versions.sort(key=lambda one: one.version)
    newest = versions[-1].version == claim.version
    return SchemaRecord(
        type=claim.type,
        key_field=claim.key_field,
        owner=owner,
        compatibility=level,
        description=claim.description if newest and (claim.description or push) else known.description,
        versions=versions,
    )


def judge(claim: Claim, known: SchemaRecord, level: Level) -> Verdict:
    """What the level says of the claim, against the versions older than its own. What its upcasters bridge is no
    violation."""

    def bridged(version: int) -> bool:
        return find_gap(known, claim.upcasts, version, claim.version, claim.schema) is None

    return check(known.before(claim.version), claim.schema, level, bridged=bridged)


def differences(claim: Claim, there: VersionRecord) -> list[Change]:
    """What changed between the registered schema of a version and the claimed one.

    Nothing, too, where the same contract is only written in another way.
    """
    found = changes(there.schema_, claim.schema) if there.hash != claim.hash else []
    return [] if found == [REWRITTEN] else found


def check_same(claim: Claim, known: SchemaRecord, there: VersionRecord) -> None:
    """Raises `SchemaError` with the difference where the claim's schema is not the registered one of its version."""
    found = differences(claim, there)
    if not found:
        return
    newest = max(one.version for one in known.versions)
    # Without the fixes, which are for a new version.
    shown = render([change._replace(fix="") for change in found], indent="  ")
    raise SchemaError(
        f"{claim.type} version {claim.version} is registered with another schema (by {there.reference}), and "
        f"{claim.reference} differs from it:\n{shown}\n"
        f"A version is never changed: undo it, or say version={newest + 1} in the class",
        difference=found,
    )


def check_bridged(claim: Claim, known: SchemaRecord) -> None:
    """Raises `SchemaError` with the steps that are missing, where the class cannot read a registered version older than
    its own."""
    gaps = find_gaps(known, claim.upcasts, claim.version, claim.schema)
    if gaps:
        raise SchemaError(_unbridged(claim, gaps), difference=[change for gap in gaps for change in gap.changes])


def unregistered(claim: Claim, known: SchemaRecord | None) -> SchemaError:
    """The refusal of a class that has to be registered and is not."""
    has = ", ".join(str(one.version) for one in known.versions) if known is not None else ""
    return SchemaError(
        f"{claim.type} version {claim.version} is not registered{f' (registered: version {has})' if has else ''}, "
        f"and nothing is registered here by itself: run `sojourn schemas push {claim.reference.partition(':')[0]}`"
    )


def refusal(verdict: Verdict, claim: Claim) -> str:
    """The verdict's violations, for people: by version and direction, each with its path and the way out."""
    lines = [
        f"{claim.type} version {claim.version} ({claim.reference}) breaks this type's compatibility {verdict.level}"
    ]
    for (against, direction), group in groupby(verdict.violations, key=lambda one: (one.against, one.direction)):
        reads = f"it cannot read version {against}" if direction == "backward" else f"version {against} cannot read it"
        lines += [f"{direction}, {reads}:", render([one.change for one in group], indent="  ")]
    return "\n".join(lines)


def _check_key(claim: Claim, known: SchemaRecord) -> None:
    if known.key_field != claim.key_field:
        raise SchemaError(
            f"{claim.type} is registered with the key field {known.key_field!r}, {claim.reference} has "
            f"{claim.key_field!r}: events are filed by it, so a different key is a different event; "
            "give it a name of its own"
        )


def _settle_level(claim: Claim, known: SchemaRecord, *, push: bool) -> Level:
    if claim.level is None or claim.level == known.compatibility:
        return known.compatibility
    if push or not known.versions:
        return claim.level
    raise SchemaError(
        f"{claim.type} is registered with compatibility {known.compatibility}, {claim.reference} says {claim.level}: "
        f"to change it for everybody, run `sojourn schemas push {claim.reference.partition(':')[0]}`"
    )


def _settle_owner(claim: Claim, known: SchemaRecord, *, hand_over: bool) -> str | None:
    if claim.owner is None or known.owner is None or claim.owner == known.owner or hand_over:
        return claim.owner or known.owner
    raise SchemaError(
        f"{claim.type} belongs to {known.owner!r}, {claim.reference} says owner={claim.owner!r}: "
        f"a type has one owner; say owner={known.owner!r}, or give the event a name of its own"
    )


def _check_new(claim: Claim, known: SchemaRecord, level: Level) -> None:
    if known.latest is not None and claim.version < known.latest.version:
        raise SchemaError(
            f"{claim.type} version {claim.version} was never registered, and version {known.latest.version} already "
            f"is: a new version comes after all others; say version={known.latest.version + 1} in {claim.reference}"
        )
    verdict = judge(claim, known, level)
    if not verdict.ok:
        raise SchemaError(refusal(verdict, claim), difference=[one.change for one in verdict.violations])


def _version(claim: Claim, there: VersionRecord | None, *, now: datetime, push: bool) -> VersionRecord:
    if there is None:
        return VersionRecord(
            version=claim.version,
            schema=claim.schema,
            hash=claim.hash,
            registered=now,
            reference=claim.reference,
            upcasts=claim.upcasts,
        )
    # The schema stays as it was first seen, with its titles; two processes would else take turns in writing theirs.
    if push:
        return there.model_copy(update={"reference": claim.reference, "upcasts": claim.upcasts})
    upcasts = sorted({*there.upcasts, *claim.upcasts})
    return there if upcasts == there.upcasts else there.model_copy(update={"upcasts": upcasts})


def _unbridged(claim: Claim, gaps: list[Gap]) -> str:
    lines = []
    for gap in gaps:
        reader = "its" if gap.next in claim.upcasts else "the"
        stop = "the class itself" if gap.next == claim.version else f"{reader} upcaster from version {gap.next}"
        head = f"{claim.type} version {claim.version} ({claim.reference}) cannot read version {gap.version}"
        if gap.changes:
            lines += [f"{head}: {stop} does not read it as it is:", render(gap.changes, indent="  ")]
        else:
            lines.append(f"{head}: version {gap.next} was never registered, so nobody knows what {stop} reads")
    steps = ", ".join(f"@upcast({claim.type}, from_version={gap.version})" for gap in gaps)
    return "\n".join([*lines, f"Write the missing step{'s' if len(gaps) > 1 else ''}: {steps}"])
