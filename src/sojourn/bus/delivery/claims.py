"""Claims: who runs which partition of which group, as the bucket ``{NS}_leases`` tells it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from sojourn.bus.ports import Entry

OWNER = "owner."


class Claim(NamedTuple):
    """Who runs a partition of a group. ``token`` is the session's, None where the partition was given back.

    ``process`` tells the owner's process from all others, so that one which was only frozen is not taken for dead.
    ``crashes`` counts the owners in a row that died before everything up to the sequence ``suspect`` was closed, the
    last one that was delivered when the first of them died: one of those may have been the reason.
    """

    worker: str | None
    token: str | None
    crashes: int
    suspect: int
    revision: int
    process: Mapping[str, object] = {}

    def encode(self) -> bytes:
        document = {
            "worker": self.worker,
            "session": self.token,
            "crashes": self.crashes,
            "suspect": self.suspect,
            "process": dict(self.process),
        }
        return json.dumps(document).encode()


class Place(NamedTuple):
    """One partition of one group."""

    group: str
    partition: int

    @property
    def key(self) -> str:
        return f"{OWNER}{self.group}.{self.partition}"


def read_place(key: str) -> Place | None:
    """The partition that a key of the bucket is about; None for any other key."""
    head, _, number = key.rpartition(".")
    if not head.startswith(OWNER) or not number.isdecimal():
        return None
    return Place(head.removeprefix(OWNER), int(number))


def read_claim(entry: Entry) -> Claim | None:
    """What an entry says; what nobody can read counts as given back."""
    if entry.value is None:
        return None
    try:
        document: dict[str, Any] = json.loads(entry.value)
        return Claim(
            document["worker"],
            document["session"],
            int(document["crashes"]),
            int(document["suspect"]),
            entry.revision,
            dict(document.get("process", {})),
        )
    except (ValueError, LookupError, TypeError):
        return Claim(None, None, 0, 0, entry.revision)
