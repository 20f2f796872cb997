"""Ownership: which partitions of which groups this worker runs, and how they change hands. No leader decides.

Every worker watches the bucket ``{NS}_leases``. From the living members each computes the same assignment
(`rendezvous`), claims what it should run and nobody living holds, and hands over what another should run. A claim,
``owner.{group}.{partition}``, is written by compare-and-set and counts as long as its session lives (`session`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from functools import partial
from time import monotonic
from typing import Any

import structlog

from sojourn.bus.crashpoints import AFTER_CLAIM, IN_HANDOVER, IN_RENEWAL, reach
from sojourn.bus.delivery.claims import Claim, Place, read_claim, read_place
from sojourn.bus.delivery.group import Group
from sojourn.bus.delivery.processes import is_alive, this_process
from sojourn.bus.delivery.rendezvous import preferred
from sojourn.bus.delivery.session import PREFIX, TTL, Member, Session, read_member
from sojourn.bus.errors import ConcurrencyError, SojournError
from sojourn.bus.ports import Bucket, Entry

log = structlog.get_logger("sojourn.worker")


_TICK = TTL / 10
_PATIENCE = 0.5
"""Seconds that telling others may take while everything is handed over."""

_COMPLAINT = 10.0
_RELOAD = 30.0
"""Seconds after which the whole bucket is read again, should the watch have missed something."""
_ROUNDS = 10
"""How often it is read until nothing changes meanwhile."""


class Ownership:
    """Brings what this worker runs in line with what it should run, until `leave`."""

    def __init__(
        self,
        bucket: Bucket,
        session: Session,
        groups: Sequence[Group],
        partitions: int,
        *,
        obey: Callable[[], Awaitable[None]],
    ) -> None:
        self.session = session
        self.members: dict[str, Member] = {}
        self.claims: dict[Place, Claim] = {}
        self._bucket = bucket
        self._groups = {group.name: group for group in groups}
        self._partitions = partitions
        self._mine: dict[Place, Claim] = {}
        self._busy: dict[Place, asyncio.Task[object]] = {}
        self._changed = asyncio.Event()
        self._leaving = False
        self._obey = obey
        self._joined = False
        self._told: dict[str, int] = {}
        self._changes = 0

    async def begin(self) -> None:
        """Becomes a member and takes what nobody else holds. Raises what the bucket raises."""
        await self._join()
        self._start()
        if self._busy:
            await asyncio.wait(self._busy.values())
        self._tell()

    async def _join(self) -> None:
        """Becomes a member, and claims nothing before it knows what is paused: whoever pauses a group from now on waits
        for this worker."""
        await self.session.renew()
        await self._obey()
        await self._load()
        self._joined = True

    async def add(self, group: Group) -> None:
        """Takes part in one more group from now on. Raises what the bucket raises."""
        if self._leaving:
            return
        self._groups[group.name] = group
        self._told[group.name] = 0
        if group.name not in self.session.groups:
            self.session.groups = sorted([*self.session.groups, group.name])
        await self.session.renew()
        self._changed.set()

    async def run(self) -> None:
        """Renews, watches and adjusts, until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._renew())
                tasks.create_task(self._watch())
                tasks.create_task(self._adjust())
        finally:
            await self._halt()

    async def leave(self, seconds: float) -> bool:
        """Hands everything over within so many seconds: handlers that run may finish meanwhile, but for the last one of
        them. False where some did not."""
        self._leaving = True
        try:
            async with asyncio.timeout(seconds):
                # Told first, so that each partition has its next owner as soon as it is given back.
                self.session.groups = []
                with contextlib.suppress(SojournError, TimeoutError):
                    async with asyncio.timeout(_PATIENCE):
                        await self.session.renew()
                await self._halt()
                places = list(self._mine)
                drained = await asyncio.gather(*(self._give(place, seconds - 2 * _PATIENCE) for place in places))
        except TimeoutError:
            return all(group.idle for group in self._groups.values())
        return all(drained)

    async def end(self) -> None:
        """Gives back what is still held, and the session."""
        self._leaving = True
        await self._halt()
        await asyncio.gather(*(self._give(place, 0) for place in list(self._mine)))
        with contextlib.suppress(SojournError):
            await self.session.end()

    async def acknowledge(self, modes: Mapping[str, int]) -> None:
        """Tells everybody which revisions of its writers' registrations this worker obeys. Raises what the bucket
        raises."""
        if self.session.modes != modes:
            self.session.modes = dict(modes)
            if self.session.began:
                await self.session.renew()

    async def _renew(self) -> None:
        complained = -_COMPLAINT
        while True:
            pause = TTL / 3
            reach(IN_RENEWAL)
            try:
                if not self._joined:
                    await self._join()
                elif not await self.session.renew():
                    await self._lapsed()
            except SojournError as error:
                pause = _TICK
                if monotonic() - complained > _COMPLAINT:
                    complained = monotonic()
                    log.warning("session not renewed", worker=self.session.worker, reason=str(error))
            await asyncio.sleep(pause)

    async def _lapsed(self) -> None:
        log.warning("this worker counted as dead: it gives up what it ran and begins anew", worker=self.session.worker)
        await self._halt()
        self._mine.clear()
        await asyncio.gather(*(group.close() for group in self._groups.values()))
        self.session.restart()
        self._joined = False
        await self._join()

    async def _watch(self) -> None:
        while True:
            try:
                async with contextlib.aclosing(self._bucket.watch("")) as entries:
                    async for entry in entries:
                        self._note(entry)
            except SojournError as error:
                log.warning("the leases could not be watched, will try again", reason=str(error))
            await asyncio.sleep(1)

    async def _load(self) -> None:
        changes, entries = self._changes, await self._bucket.entries("")
        for _ in range(_ROUNDS):
            if changes == self._changes:
                break
            # What the watch has told meanwhile would be undone: a member that lives would count as dead.
            changes, entries = self._changes, await self._bucket.entries("")
        self.members = {}
        self.claims = {}
        for entry in entries:
            self._note(entry)

    def _note(self, entry: Entry) -> None:
        self._changes += 1
        if entry.key.startswith(PREFIX):
            token = entry.key.removeprefix(PREFIX)
            known = self.members.get(token)
            if known is not None and known.revision > entry.revision:
                return
            member = read_member(entry)
            if member is None:
                self.members.pop(token, None)
            else:
                self.members[token] = member
                if known is not None and known.groups == member.groups:
                    return  # A renewal changes nothing.
            self._changed.set()
        elif (place := read_place(entry.key)) is not None:
            claim = read_claim(entry)
            if claim is None:
                self.claims.pop(place, None)
            elif (before := self.claims.get(place)) is None or before.revision < claim.revision:
                self.claims[place] = claim
            self._changed.set()

    async def _adjust(self) -> None:
        loop = asyncio.get_running_loop()
        loaded = loop.time()
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_TICK):
                    await self._changed.wait()
            self._changed.clear()
            try:
                if loop.time() - loaded > _RELOAD:
                    loaded = loop.time()
                    await self._load()
                await self._bury()
            except SojournError as error:
                log.debug("the leases could not be read", reason=str(error))
            self._tell()
            self._start()

    async def _bury(self) -> None:
        """Ends the sessions of processes of this machine that are gone: nobody need wait for their expiry."""
        for member in list(self.members.values()):
            if member.token != self.session.token and member.gone:
                with contextlib.suppress(ConcurrencyError):
                    await self._bucket.delete(f"{PREFIX}{member.token}", expect=member.revision)
                self.members.pop(member.token, None)

    async def _halt(self) -> None:
        """Ends the changes that are under way."""
        busy = list(self._busy.values())
        for task in busy:
            task.cancel()
        if busy:
            await asyncio.wait(busy)

    def _tell(self) -> None:
        """Says how large this worker's share is, once it has settled."""
        if self._busy or self._leaving:
            return
        for group in self._groups.values():
            share = len(group.partitions)
            if self._told.get(group.name) != share:
                self._told[group.name] = share
                log.info(
                    "group runs here" if share else "group runs elsewhere; standing by",
                    group=group.name,
                    agents=[processor.writer for processor in group.processors],
                    partitions=share,
                )

    def _start(self) -> None:
        """Begins whatever has to change. Each partition changes on its own, so that a slow one holds up no other."""
        if self._leaving or not self._joined or not self.session.held:
            return
        for group in self._groups.values():
            candidates = {member.worker for member in self.members.values() if group.name in member.groups}
            candidates.add(self.session.worker)
            for number in range(self._partitions):
                place = Place(group.name, number)
                if place not in self._busy and (what := self._change(group, place, candidates)) is not None:
                    task = self._busy[place] = asyncio.create_task(what)
                    task.add_done_callback(partial(self._done, place))

    def _change(self, group: Group, place: Place, candidates: set[str]) -> Coroutine[Any, Any, object] | None:
        """The coroutine that changes what has to change for a partition; None where all is as it should be."""
        mine = preferred(group.name, place.partition, candidates) == self.session.worker
        known = self.claims.get(place)
        if known is not None and known.token == self.session.token:
            # Also one whose writing, or giving back, got no answer.
            self._mine.setdefault(place, known)
        claim = self._mine.get(place)
        if claim is not None and known is not None and known.revision > claim.revision and known[:2] != claim[:2]:
            # Somebody took this worker for dead.
            del self._mine[place]
            claim = None
        if claim is None:
            if place.partition in group.partitions:
                return group.release(place.partition, 0)
            return self._take(group, place) if mine and not self._living(known) else None
        if not mine:
            return self._give(place, None)
        if place.partition not in group.partitions and not group.paused:
            return self._open(group, place, claim)
        if claim.crashes and group.cleared(place.partition, claim.suspect):
            return self._clear(place, claim)
        return None

    def _living(self, claim: Claim | None) -> bool:
        return claim is not None and claim.token in self.members

    def _done(self, place: Place, task: asyncio.Task[object]) -> None:
        if self._busy.get(place) is task:
            del self._busy[place]
        if task.cancelled():
            return
        error = task.exception()
        if isinstance(error, SojournError):
            log.warning("partition waits", group=place.group, partition=place.partition, reason=str(error))
        elif error is not None:
            log.error("partition waits", group=place.group, partition=place.partition, exc_info=error)

    async def _take(self, group: Group, place: Place) -> None:
        before = self.claims.get(place) or Claim(None, None, 0, 0, 0)
        crashes, suspect = before.crashes, before.suspect
        if before.token is not None and not is_alive(before.process):
            # Its owner died. What was in flight may have been the reason: that of the first of several deaths, since
            # whatever kills its workers was there each time.
            floor, delivered = await group.position(place.partition)
            if crashes and floor < suspect:
                crashes += 1
            else:
                crashes, suspect = 1, delivered
        mine = Claim(self.session.worker, self.session.token, crashes, suspect, 0, this_process())
        claim = await self._write(place, mine, before)
        reach(AFTER_CLAIM)
        if claim is not None and place in self._mine:
            await self._open(group, place, claim)

    async def _open(self, group: Group, place: Place, claim: Claim) -> None:
        if not group.paused:
            await group.open(place.partition, suspect=claim.suspect if claim.crashes else 0, crashes=claim.crashes)

    async def _give(self, place: Place, seconds: float | None) -> bool:
        """Hands a partition over once its handlers have ended, or their time is up."""
        drained = await self._groups[place.group].release(place.partition, seconds)
        claim = self._mine.get(place)
        reach(IN_HANDOVER)
        if claim is not None and self.session.held:
            with contextlib.suppress(SojournError):
                await self._write(place, claim._replace(worker=None, token=None), claim)
        self._mine.pop(place, None)
        return drained

    async def _clear(self, place: Place, claim: Claim) -> None:
        await self._write(place, claim._replace(crashes=0, suspect=0), claim)

    async def _write(self, place: Place, claim: Claim, before: Claim) -> Claim | None:
        """Stores a claim in place of ``before``; None where somebody else was faster."""
        try:
            revision = await self._bucket.put(place.key, claim.encode(), expect=before.revision)
        except ConcurrencyError:
            entry = await self._bucket.get(place.key)
            found = read_claim(entry) if entry is not None else None
            if entry is None or found is None or found[:4] != claim[:4]:
                self._mine.pop(place, None)
                if entry is not None:
                    self._note(entry)
                return None
            revision = entry.revision  # Ours: the answer to an earlier attempt was lost.
        stored = self.claims[place] = claim._replace(revision=revision)
        if stored.token == self.session.token:
            self._mine[place] = stored
        return stored
