"""Pauses and resumes agents: sets their mode, and waits until every living worker has told that it obeys.

The unit is the group: its agents share one position in the log, so they stand still together or not at all.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from sojourn.bus.errors import ConfigurationError, SojournError, TimedOutError
from sojourn.console.failures import Problems, several

if TYPE_CHECKING:
    from sojourn.bus.client import Bus
    from sojourn.bus.delivery.session import Member
    from sojourn.bus.ports import Bucket
    from sojourn.bus.registry import Registration, Registry

RunMode = Literal["live", "paused"]

_LOOK = 1.0
"""Seconds after which the members are read again where no change of them was told."""

_LEAST = 0.02
"""Seconds between two looks at the members: many of them renew at the same moment."""


class NotAcknowledged(Problems, TimedOutError):
    """The mode is set, and some workers have not told in time that they obey it: one line each."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A living worker that has the code of an agent concerned, and whether it obeys the mode."""

    worker: str
    host: str
    pid: int | None
    acknowledged: bool


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a change of mode. ``agents``: group by name; ``gone``: workers whose sessions ended while they
    were waited for, without having acknowledged."""

    mode: RunMode
    agents: Mapping[str, str]
    changed: Sequence[str]
    workers: Sequence[Answer] = ()
    gone: Sequence[Answer] = ()

    @property
    def missing(self) -> list[Answer]:
        return [one for one in self.workers if not one.acknowledged]

    def facts(self, namespace: str) -> dict[str, Any]:
        """The outcome for programs."""
        return {
            "namespace": namespace,
            "mode": self.mode,
            "agents": [
                {"name": name, "group": group, "changed": name in self.changed} for name, group in self.agents.items()
            ],
            "acknowledged": not self.missing,
            "workers": [_facts(one) for one in self.workers],
            "gone": [_facts(one) for one in self.gone],
        }


@dataclass(slots=True)
class _Wanted:
    """What has to be acknowledged: the revision of each writer's registration, by group."""

    groups: dict[str, dict[str, int]] = field(default_factory=dict)

    def concerns(self, member: Member) -> bool:
        """Whether it may store what these groups do: one that is leaving has no group any more, but still its writers,
        whose last handlers may be running."""
        return any(
            group in member.groups or revisions.keys() & member.modes.keys() for group, revisions in self.groups.items()
        )

    def obeyed(self, member: Member) -> bool:
        for group, revisions in self.groups.items():
            here = revisions.keys() & member.modes.keys()
            if not here and group in member.groups:
                return False  # It has just begun, and not told yet which of the group's writers it runs.
            if any(member.modes[writer] < revisions[writer] for writer in here):
                return False
        return True


async def choose(registry: Registry, name: str | None, *, everyone: bool) -> list[Registration]:
    """The agents whose mode is to change: ``name``, all of its group (``everyone``), or all that there are (no name).

    Raises `NotFoundError`, and `ConfigurationError` for an agent that shares its group, where only it is meant.
    """
    writers = await registry.writers()
    if name is None:
        groups = {writer.group for writer in writers if writer.kind == "agent"}
        return [writer for writer in writers if writer.group in groups]
    agent = await registry.require_agent(name)
    together = [writer for writer in writers if writer.group == agent.group]
    if len(together) > 1 and not everyone:
        others = ", ".join(writer.name for writer in together if writer.name != name)
        raise ConfigurationError(
            f"{name!r} shares the group {agent.group!r}, and so its position in the log, with {others}: its mode "
            "cannot change alone. Say --all for all of them, or run it in a group of its own (no `group=` in its class)"
        )
    return together


async def change(bus: Bus, agents: Sequence[Registration], mode: RunMode, *, seconds: float) -> Outcome:
    """Sets the mode, and waits for that many seconds at most until all living workers with the agents' code obey."""
    wanted = _Wanted()
    for agent in agents:
        revision = (await bus.registry.set_mode(agent.name, mode)).revision
        wanted.groups.setdefault(agent.group, {})[agent.name] = revision
    changed = [agent.name for agent in agents if agent.mode != mode]
    name = bus.namespace.bucket("leases")
    told: dict[str, Answer] = {}
    living: set[str] = set()
    if f"KV_{name}" in await bus.transport.streams(f"KV_{name}"):  # asking for the bucket would make it
        living = await _await_all(await bus.transport.bucket(name), wanted, told, seconds)
    # One that only began a new session is not gone.
    here = {told[token].worker for token in living}
    return Outcome(
        mode,
        {agent.name: agent.group for agent in agents},
        changed,
        _sorted(told[token] for token in living),
        _sorted(one for one in told.values() if one.worker not in here and not one.acknowledged),
    )


async def _await_all(bucket: Bucket, wanted: _Wanted, told: dict[str, Answer], seconds: float) -> set[str]:
    """Waits until all have acknowledged, or the time is up, and returns the sessions that live by then. ``told`` gets
    the last answer of every session that was seen."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    bell = asyncio.Event()
    watch: asyncio.Task[None] | None = None
    try:
        while True:
            bell.clear()
            members = [member for member in await _members(bucket) if wanted.concerns(member)]
            for member in members:
                told[member.token] = _answer(member, acknowledged=wanted.obeyed(member))
            living = {member.token for member in members}
            left = deadline - loop.time()
            if all(told[token].acknowledged for token in living) or left <= 0:
                return living
            watch = watch or asyncio.create_task(_ring(bucket, bell))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(_LOOK, left)):
                    await bell.wait()
                    await asyncio.sleep(_LEAST)
    finally:
        if watch is not None:
            watch.cancel()
            await asyncio.wait([watch])


async def _ring(bucket: Bucket, bell: asyncio.Event) -> None:
    """Rings whenever a member tells something, comes or goes. What a broken watch would miss is read all the same."""
    from sojourn.bus.delivery.session import PREFIX

    with contextlib.suppress(SojournError):
        async with contextlib.aclosing(bucket.watch(PREFIX)) as changes:
            async for _ in changes:
                bell.set()


async def _members(bucket: Bucket) -> list[Member]:
    """The living workers, without those of this machine whose processes have ended."""
    from sojourn.bus.delivery.session import PREFIX, read_member

    # Twice: an entry that is renewed while all are read moves behind the end of what is read, and would be missed.
    first, second = [{entry.key: entry for entry in await bucket.entries(PREFIX)} for _ in range(2)]
    for key in first.keys() - second.keys():
        entry = await bucket.get(key)
        if entry is not None:
            second[key] = entry
    read = [read_member(entry) for entry in second.values()]
    return [member for member in read if member is not None and not member.gone]


def _answer(member: Member, *, acknowledged: bool) -> Answer:
    # The rest of the host's name tells its boot and its process namespace.
    host = str(member.process.get("host") or "?").split()[0]
    pid = member.process.get("pid")
    return Answer(member.worker, host, pid if isinstance(pid, int) else None, acknowledged)


def _sorted(answers: Iterable[Answer]) -> tuple[Answer, ...]:
    return tuple(sorted(answers, key=lambda one: (one.worker, one.pid or 0)))


def _facts(one: Answer) -> dict[str, Any]:
    return {"worker": one.worker, "host": one.host, "pid": one.pid, "acknowledged": one.acknowledged}


def place(one: Answer) -> str:
    """A worker in words."""
    return f"{one.worker} (host {one.host}, pid {one.pid if one.pid is not None else '?'})"


def in_words(outcome: Outcome) -> str:
    """What was done, in one line for people."""
    names = ", ".join(outcome.agents)
    state = f"{names} {'is' if len(outcome.agents) == 1 else 'are'} {outcome.mode}"
    if not outcome.workers:
        return f"{state}; no worker has the code now, whoever starts obeys"
    return f"{state}; {several(len(outcome.workers), 'worker')} acknowledged it"


def judge(outcome: Outcome, seconds: float) -> None:
    """Raises `NotAcknowledged` with a line for each worker that may not obey yet."""
    missing = outcome.missing
    if missing:
        names = ", ".join(outcome.agents)
        summary = (
            f"the mode of {names} is set to {outcome.mode}, but {len(missing)} of "
            f"{several(len(outcome.workers), 'worker')} did not acknowledge it within {seconds:g} s. "
            "Call this again to wait on, or end them:"
        )
        raise NotAcknowledged([summary, *map(place, missing)])
