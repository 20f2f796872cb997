"""A process that registers schemas against another one: ``contender.py URL BUCKET NAME ROUNDS``.

For each round it says ``ready``, waits for a line, registers its own idea of that round's event, and says in JSON
whether it won, or what the other's difference is. At last it says how often its writes were overtaken.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncGenerator
from typing import Any

from sojourn.bus.clock import WallClock
from sojourn.bus.errors import ConcurrencyError, SchemaError
from sojourn.bus.nats import connect_nats
from sojourn.bus.ports import Bucket, Entry
from sojourn.bus.schemas.store import Schemas
from sojourn.bus.timers import JetStreamTimers
from tests.bus.schemas.contracts import cart


class Counting:
    """A bucket that counts refused writes."""

    def __init__(self, bucket: Bucket) -> None:
        self.bucket = bucket
        self.overtaken = 0

    async def put(self, key: str, value: bytes, *, expect: int | None = None, ttl: int | None = None) -> int:
        try:
            return await self.bucket.put(key, value, expect=expect, ttl=ttl)
        except ConcurrencyError:
            self.overtaken += 1
            raise

    async def get(self, key: str) -> Entry | None:
        return await self.bucket.get(key)

    def watch(self, prefix: str = "") -> AsyncGenerator[Entry, None]:
        return self.bucket.watch(prefix)

    async def entries(self, prefix: str = "") -> list[Entry]:
        return await self.bucket.entries(prefix)


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


async def contend(url: str, name: str, mine: str, rounds: int) -> None:
    transport = await connect_nats(url, timers=JetStreamTimers())
    bucket = Counting(await transport.bucket(name))
    schemas = Schemas(bucket, clock=WallClock())  # type: ignore[arg-type]  # what the registry uses of a bucket
    for number in range(rounds):
        type = f"Round{number}Fought"
        if number % 2:
            # Both agree on version 1, and disagree on what comes next.
            await schemas.admit(cart(1, event=type))
            field: dict[str, Any] = {mine: (int, 0)}
            cls = cart(2, event=type, **field)
        else:
            field = {mine: (int, ...)}
            cls = cart(1, event=type, **field)
        say("ready")
        await asyncio.to_thread(sys.stdin.readline)
        try:
            await schemas.admit(cls)
            say(json.dumps({"won": cls in schemas.cleared}))
        except SchemaError as error:
            say(json.dumps({"lost": str(error)}))
    say(json.dumps({"overtaken": bucket.overtaken}))
    await schemas.close()
    await transport.close()


if __name__ == "__main__":
    asyncio.run(contend(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])))
