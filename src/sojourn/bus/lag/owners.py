"""Who runs which partition, as the bucket ``{NS}_leases`` tells: claims count as long as their session lives."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from sojourn.bus.ports import Transport
from sojourn.bus.subjects import Namespace


async def read_owners(transport: Transport, namespace: Namespace) -> dict[tuple[str, int], str] | None:
    """The worker of each (group, partition) that a living one runs; None where nothing tells."""
    name = namespace.bucket("leases")
    if f"KV_{name}" not in await transport.streams(f"KV_{name}"):
        return None  # asking for the bucket would make it
    bucket = await transport.bucket(name)
    members, claims = await asyncio.gather(bucket.entries("member."), bucket.entries("owner."))
    living = {entry.key.removeprefix("member.") for entry in members}
    owners: dict[tuple[str, int], str] = {}
    for entry in claims:
        claim = _object(entry.value)
        _, group, partition, *_ = [*entry.key.split("."), "", ""]
        if partition.isdecimal() and claim.get("worker") and claim.get("session") in living:
            owners[group, int(partition)] = str(claim["worker"])
    return owners


def _object(value: bytes | None) -> dict[str, Any]:
    try:
        found = json.loads(value or b"")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
