"""Finding the stored twins of events whose answers were lost.

The server remembers message ids for two minutes. Whoever sends an event again asks for its twin first, so that it is
stored once however late the retry comes: the machine may have slept in between.
"""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from sojourn.bus.errors import SojournError, TransientError, UnavailableError
from sojourn.bus.ports import Log, Stored

_QUESTIONS = 64
"""Subjects that are asked for at a time."""

_PAGE = 1_000
_PAGE_BYTES = 1 << 20
_BEHIND = 20
_PAUSE = 0.1
"""How often a replica that is behind is asked again, and after how many seconds."""


class Sent(NamedTuple):
    """An event that may be stored. ``after``: a sequence of its stream below that of any attempt to store it."""

    stream: str
    subject: str
    id: str
    after: int


async def find_twins(log: Log, sent: Iterable[Sent]) -> dict[Sent, int]:
    """The sequences of those that are stored. Costs one question for each subject where nothing was stored since.

    Where the reader may not read, none is found. Raises `TransientError`, also where a replica has not got what its
    leader has."""
    subjects: dict[str, list[Sent]] = defaultdict(list)
    for one in sent:
        subjects[one.subject].append(one)
    room = asyncio.Semaphore(_QUESTIONS)
    found: dict[Sent, int] = {}
    failed = False

    async def ask(there: list[Sent]) -> None:
        nonlocal failed
        async with room:
            if failed:
                return
            try:
                ids = await _find(log, there[0].stream, there[0].subject, there)
            except TransientError:
                failed = True
                raise
            except SojournError:
                return  # It is sent again: within the server's memory of ids that is right, too.
        found.update((one, ids[one.id]) for one in there if one.id in ids)

    outcomes = await asyncio.gather(*(ask(there) for there in subjects.values()), return_exceptions=True)
    for outcome in outcomes:
        if outcome is not None:
            raise outcome
    return found


async def _find(log: Log, stream: str, subject: str, sent: list[Sent]) -> dict[str, int]:
    ids = {one.id for one in sent}
    after = min(one.after for one in sent)
    newest = await log.last(stream, subject)  # from the leader: a replica may be behind it
    if newest is None or newest.sequence <= after:
        return {}
    found = {_id(newest): newest.sequence}
    behind = 0
    while not ids <= found.keys() and after < newest.sequence:
        page = await log.read(stream, subject, after + 1, _PAGE, _PAGE_BYTES)
        for stored in page:
            found.setdefault(_id(stored), stored.sequence)
            after = stored.sequence
        if page:
            continue
        if await log.get(stream, newest.sequence) is None:
            break  # It was trimmed meanwhile, and so was what came before it.
        behind += 1
        if behind > _BEHIND:
            raise UnavailableError(f"{stream}: the replicas are behind their leader; what is stored cannot be told yet")
        await asyncio.sleep(_PAUSE)
    return found


def _id(stored: Stored) -> str:
    try:
        document = json.loads(stored.payload)
    except ValueError:
        return ""
    id = document.get("id") if isinstance(document, dict) else None
    return id if isinstance(id, str) else ""
