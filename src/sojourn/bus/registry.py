"""The registry: what runs on a namespace, kept in the bucket ``{NS}_registry``.

``namespace`` says how customers are spread, ``writer.{name}`` describes an agent, saga or relay, ``group.{name}``
holds where a group began and what its consumers see, ``type.{Type}`` the schemas of an event type
(`sojourn.bus.schemas.store`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from sojourn.bus.envelope import problems
from sojourn.bus.errors import ConcurrencyError, ConfigurationError, NotFoundError
from sojourn.bus.ports import Bucket, Entry
from sojourn.bus.processor import Processor

R = TypeVar("R", bound=BaseModel)


class Registration(BaseModel):
    """A writer as it registered. ``reference`` is its code's import path, ``module:Class``; ``relays`` names the types
    of which it has put out events for other customers."""

    model_config = ConfigDict(frozen=True)

    schema_: int = 1
    kind: str
    name: str
    version: int
    group: str
    mode: str = "live"
    reference: str
    doc: str = ""
    handles: list[str]
    folds: list[str]
    publishes: list[str]
    relays: list[str] = []
    journey: str | None = None
    registered: datetime
    description: dict[str, Any] = {}

    @property
    def reads(self) -> set[str]:
        """Every event type that it has to see."""
        return {*self.handles, *self.folds}


class GroupRecord(BaseModel):
    """Where a group began: by stream, the sequence of the last message before its first. ``actions``: its consumers
    deliver actions too, since it reads those of other writers."""

    model_config = ConfigDict(frozen=True)

    name: str
    start: dict[str, int]
    actions: bool


class Mode(NamedTuple):
    """How a writer is to run: ``live`` or ``paused``, and the revision of its registration that says so."""

    mode: str
    revision: int


class NamespaceRecord(BaseModel):
    """How a namespace is spread, fixed when it is created, and what it was made for."""

    model_config = ConfigDict(frozen=True)

    partitions: int
    shards: int
    purpose: str


class Registry:
    """Reads and writes the registry. Writes are compare-and-set: of two at the same moment one wins, the other looks
    again."""

    def __init__(self, bucket: Bucket) -> None:
        self.bucket = bucket

    async def settle_namespace(self, fresh: NamespaceRecord) -> NamespaceRecord:
        """The namespace's record, ``fresh`` where there is none yet: whoever creates it decides, everybody else takes
        it over."""
        while True:
            entry = await self.bucket.get("namespace")
            if entry is not None and entry.value is not None:
                return _parse(NamespaceRecord, entry)
            try:
                await self.bucket.put("namespace", fresh.model_dump_json().encode(), expect=0)
            except ConcurrencyError:
                continue
            return fresh

    async def register(self, processor: Processor, *, replace: bool = False) -> Registration:
        """Registers a processor, or brings its registration up to date.

        Raises `ConfigurationError` where the name belongs to other code, and where an older version would displace a
        newer one: what is left of it somewhere must not undo a release. ``replace`` does both, a roll-back included.
        """
        key = f"writer.{processor.writer}"
        description = dict(processor.description)
        while True:
            entry = await self.bucket.get(key)
            known = _parse(Registration, entry) if entry is not None and entry.value is not None else None
            fresh = Registration(
                kind=processor.kind,
                name=processor.writer,
                version=processor.version,
                group=processor.group,
                mode=known.mode if known is not None else "live",
                reference=str(description.pop("reference", "")),
                doc=str(description.pop("doc", "")),
                handles=sorted(processor.handles),
                folds=sorted(processor.folds),
                publishes=sorted(processor.publishes),
                relays=known.relays if known is not None else [],
                journey=description.pop("journey", None),
                registered=datetime.now(UTC),
                description=description,
            )
            if known is not None:
                if not replace:
                    _check_owner(known, fresh)
                if known == fresh.model_copy(update={"registered": known.registered}):
                    return known
            try:
                revision = entry.revision if entry is not None and entry.value is not None else 0
                await self.bucket.put(key, fresh.model_dump_json().encode(), expect=revision)
            except ConcurrencyError:
                description = dict(processor.description)
                continue
            return fresh

    async def agents(self) -> list[Registration]:
        """The registered agents, by name."""
        return [writer for writer in await self.writers() if writer.kind == "agent"]

    async def agent(self, name: str) -> Registration | None:
        """One agent's registration, or None."""
        return next((agent for agent in await self.agents() if agent.name == name), None)

    async def writers(self) -> list[Registration]:
        """Everything registered that writes, by name."""
        return [
            _parse(Registration, entry) for entry in await self.bucket.entries("writer.") if entry.value is not None
        ]

    async def modes(self) -> dict[str, Mode]:
        """The mode of every writer, by name."""
        return {
            entry.key.removeprefix("writer."): Mode(_parse(Registration, entry).mode, entry.revision)
            for entry in await self.bucket.entries("writer.")
            if entry.value is not None
        }

    async def set_mode(self, name: str, mode: Literal["live", "paused"]) -> Mode:
        """Changes the mode of a registered writer. Raises `NotFoundError`."""
        while True:
            entry = await self.bucket.get(f"writer.{name}")
            if entry is None or entry.value is None:
                raise NotFoundError(f"nothing named {name!r} is registered: `sojourn agents ls` shows the names")
            known = _parse(Registration, entry)
            if known.mode == mode:
                return Mode(mode, entry.revision)
            fresh = known.model_copy(update={"mode": mode})
            with contextlib.suppress(ConcurrencyError):
                revision = await self.bucket.put(
                    f"writer.{name}", fresh.model_dump_json().encode(), expect=entry.revision
                )
                return Mode(mode, revision)

    async def add_relays(self, name: str, types: Iterable[str]) -> None:
        """Notes that a registered writer puts out events of these types for other customers. Raises `NotFoundError`."""
        types = frozenset(types)
        while True:
            entry = await self.bucket.get(f"writer.{name}")
            if entry is None or entry.value is None:
                raise NotFoundError(f"nothing named {name!r} is registered")
            known = _parse(Registration, entry)
            if types <= frozenset(known.relays):
                return
            fresh = known.model_copy(update={"relays": sorted(types.union(known.relays))})
            with contextlib.suppress(ConcurrencyError):
                await self.bucket.put(f"writer.{name}", fresh.model_dump_json().encode(), expect=entry.revision)
                return

    async def group(self, name: str) -> GroupRecord | None:
        """Where a group began, or None for one that never ran."""
        entry = await self.bucket.get(f"group.{name}")
        return _parse(GroupRecord, entry) if entry is not None and entry.value is not None else None

    async def settle_group(
        self, name: str, *, present: Mapping[str, int], start: Literal["now", "beginning"], actions: bool
    ) -> GroupRecord:
        """The group's record, created where it never ran: ``present`` holds each stream's last sequence. A group that
        did not read other writers' actions and now does is widened; never the other way round."""
        while True:
            entry = await self.bucket.get(f"group.{name}")
            if entry is None or entry.value is None:
                since = dict(present) if start == "now" else dict.fromkeys(present, 0)
                record, revision = GroupRecord(name=name, start=since, actions=actions), 0
            else:
                record, revision = _parse(GroupRecord, entry), entry.revision
                if record.actions or not actions:
                    return record
                record = record.model_copy(update={"actions": True})
            try:
                await self.bucket.put(f"group.{name}", record.model_dump_json().encode(), expect=revision)
            except ConcurrencyError:
                continue
            return record

    async def require_agent(self, name: str) -> Registration:
        """One agent's registration; `NotFoundError` with the names there are."""
        found = await self.agent(name)
        if found is None:
            names = ", ".join(agent.name for agent in await self.agents()) or "none yet"
            raise NotFoundError(f"no agent named {name!r} is registered (registered: {names})")
        return found


def _check_owner(known: Registration, fresh: Registration) -> None:
    if known.reference and fresh.reference and known.reference != fresh.reference:
        raise ConfigurationError(
            f"the name {fresh.name!r} is taken by {known.reference} (version {known.version}); "
            f"names are unique in a namespace. Give {fresh.reference} another name, or, if the code only moved, "
            f"`sojourn agents register {fresh.reference} --replace`"
        )
    if known.kind != fresh.kind:
        raise ConfigurationError(
            f"the name {fresh.name!r} is registered for code of kind {known.kind}, this is of kind {fresh.kind}: "
            "choose another"
        )
    if known.group != fresh.group:
        raise ConfigurationError(
            f"{fresh.name!r} runs in group {known.group!r}, this code says {fresh.group!r}: "
            "a new group has no position and would miss or repeat events. Keep the group, "
            "or register the agent under a new name"
        )
    if known.version > fresh.version:
        raise ConfigurationError(
            f"{fresh.name!r} is registered in version {known.version}, this code is version {fresh.version}: "
            "run the newer code, or, to go back, "
            f"`sojourn agents register {fresh.reference or 'module:Class'} --replace`"
        )


def _parse(model: type[R], entry: Entry) -> R:
    assert entry.value is not None
    try:
        return model.model_validate_json(entry.value)
    except ValidationError as error:
        raise ConfigurationError(
            f"the registry holds an entry, {entry.key}, that this version of Sojourn cannot read: {problems(error)}; "
            "run the version of Sojourn that wrote it, or a newer one"
        ) from error
