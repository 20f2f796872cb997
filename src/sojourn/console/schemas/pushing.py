"""Registers event types because an operator says so: all of them or none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from sojourn.bus.client import Bus
from sojourn.bus.errors import SchemaError
from sojourn.bus.event import Event, spec_of
from sojourn.bus.schemas.admission import admitted, check_bridged, claim_of
from sojourn.bus.schemas.records import SchemaRecord
from sojourn.console.failures import Problems, note
from sojourn.console.options import Form
from sojourn.console.output import write, write_json, write_json_lines
from sojourn.console.terminal import plain


class Pushed(NamedTuple):
    """What registering an event type changed: nothing, or in words what."""

    type: str
    version: int
    done: list[str]
    warning: str = ""

    def facts(self) -> dict[str, Any]:
        """The same for programs."""
        return self._asdict()


async def push_events(bus: Bus, classes: Sequence[type[Event]], *, hand_over: bool) -> list[Pushed]:
    """Registers the classes, with their levels, and with ``hand_over`` their owners. Raises `Problems` with every
    refusal, before anything is written."""
    before = {record.type: record for record in await bus.schemas.records()}
    refusals: list[str] = []
    for cls in classes:
        try:
            admitted(claim_of(cls), before.get(cls.__name__), now=bus.clock.now(), push=True, hand_over=hand_over)
        except SchemaError as error:
            refusals += str(error).splitlines()
    if refusals:
        raise Problems([*refusals, "nothing was registered"])
    pushed = []
    for cls in classes:
        after = await bus.schemas.register(cls, push=True, hand_over=hand_over)
        pushed.append(_pushed(cls, before.get(cls.__name__), after))
    return pushed


def tell_pushed(pushed: Sequence[Pushed], namespace: str, output: Form) -> None:
    """Tells what was registered."""
    if output == "json":
        write_json("schema-push/1", {"namespace": namespace, "events": [one.facts() for one in pushed]})
    elif output == "jsonl":
        write_json_lines("pushed-schema/1", [one.facts() for one in pushed])
    else:
        column = max((len(f"{one.type} {one.version}") for one in pushed), default=0)
        for one in pushed:
            name = f"{one.type} {one.version}".ljust(column)
            write(f"{name}  {plain(', '.join(one.done) or 'was registered already')}\n")
    for one in pushed:
        for line in one.warning.splitlines():
            note(line)


def _pushed(cls: type[Event], before: SchemaRecord | None, after: SchemaRecord) -> Pushed:
    version = spec_of(cls).version
    done: list[str] = []
    old = before.version(version) if before is not None else None
    new = after.version(version)
    if before is None or not before.versions:
        done += ["registered", str(after.compatibility), *([f"owner {after.owner}"] if after.owner else [])]
    elif old is None:
        done.append("new version registered")
    elif new is not None and old.reference != new.reference:
        done.append(f"now defined by {new.reference}")
    if before is not None and before.versions:
        if before.compatibility != after.compatibility:
            done.append(f"level {before.compatibility} → {after.compatibility}")
        if before.description != after.description:
            done.append("description")
        if old is not None and new is not None and old.upcasts != new.upcasts:
            done.append(f"upcasters from {', '.join(map(str, new.upcasts)) or 'none'}")
        if before.owner != after.owner:
            done.append(f"owner {before.owner or '–'} → {after.owner}")
    try:
        check_bridged(claim_of(cls), after)
    except SchemaError as error:
        return Pushed(after.type, version, done, str(error))
    return Pushed(after.type, version, done)
