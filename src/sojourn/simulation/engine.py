"""Where a run takes place: a fresh namespace on a NATS server, or one in memory."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sojourn.bus.catalog import Catalog
from sojourn.bus.client import Bus, open_bus
from sojourn.bus.clock import VirtualClock
from sojourn.bus.delivery.lease import TTL, Lease
from sojourn.bus.errors import ConfigurationError, TransientError
from sojourn.bus.ids import uuid7
from sojourn.bus.personal.master import MasterKeys
from sojourn.bus.ports import Bucket, Transport
from sojourn.bus.subjects import Namespace
from sojourn.bus.timers import JetStreamTimers
from sojourn.simulation.timers import CustomerTimers

PURPOSE = "simulation"
"""What a namespace that is played with is marked with, in its registry; only such a one is ever deleted."""

_LEASE = "simulation"

_PARTING = 2.0
"""Seconds that a last renewal is waited for; after that the lease expires by itself."""


@dataclass(frozen=True, slots=True)
class Engine:
    """What carries a run.

    ``kind`` ``nats``: the server at ``url``, or the embedded one of ``store`` (default ``.sojourn`` in the current
    folder). ``memory``: no server; everything is gone afterwards. ``namespace`` is made anew for each run and stays
    on the server, to be looked at, until the next. ``say`` is told of outages and waits, in words for people.
    """

    kind: Literal["nats", "memory"] = "nats"
    namespace: str = "sim"
    url: str | None = None
    store: Path | None = None
    user: str | None = None
    password: str | None = None
    creds: str | None = None
    say: Callable[[str], None] | None = None

    @asynccontextmanager
    async def open(self, *, clock: VirtualClock, timers: CustomerTimers, catalog: Catalog) -> AsyncIterator[Bus]:
        """The open, empty namespace on virtual time.

        On NATS, an earlier run's namespace of that name is deleted. Raises `ConfigurationError` where the namespace
        was made for something else, or is in use by another run, and what connecting raises.
        """
        namespace = Namespace(self.namespace)
        # Its customers are made up, and their keys go with the namespace: no master key has to be kept.
        master_keys = MasterKeys.new()
        if self.kind == "memory":
            from sojourn.bus.memory import MemoryTransport

            # On the wall clock, which only leases live by: a virtual one jumps beyond their expiry.
            transport = MemoryTransport(timers)
            try:
                async with open_bus(
                    transport, namespace, clock=clock, catalog=catalog, purpose=PURPOSE, master_keys=master_keys
                ) as bus:
                    yield bus
            finally:
                await transport.close()
            return
        from sojourn.bus.nats import connect_nats

        async with self._server() as (url, user, password):
            # A connection of its own: what a transport knows of deleted buckets is of no use to the next.
            cleaner = await connect_nats(url, timers=JetStreamTimers(), user=user, password=password, creds=self.creds)
            try:
                await clear(cleaner, namespace)
            finally:
                await cleaner.close()
            voice = _Voice(self.say)
            nats = await connect_nats(
                url, timers=timers, user=user, password=password, creds=self.creds, on_state=voice.say
            )
            try:
                async with (
                    open_bus(
                        nats, namespace, clock=clock, catalog=catalog, purpose=PURPOSE, master_keys=master_keys
                    ) as bus,
                    _occupied(nats, namespace),
                ):
                    yield bus
            finally:
                voice.quiet = True
                await nats.close()

    @asynccontextmanager
    async def _server(self) -> AsyncIterator[tuple[str, str | None, str | None]]:
        if self.url is not None:
            yield self.url, self.user, self.password
            return
        from sojourn.bus.embedded.server import embedded_server

        async with embedded_server(self.store or Path(".sojourn"), say=_Voice(self.say).say) as address:
            yield address.url, address.user, address.password


EMBEDDED = Engine()
"""The embedded server of the current folder."""


async def clear(transport: Transport, namespace: Namespace) -> None:
    """Deletes a namespace that was made for a simulation, with everything in it; one that does not exist is no error.

    Raises `ConfigurationError` where it was made for anything else, where nobody can tell, or where a simulation is
    running in it.
    """
    registry = f"KV_{namespace.bucket('registry')}"
    buckets = await transport.streams(f"KV_{namespace.prefix}_")
    streams = [*await transport.streams(f"{namespace.prefix}_"), *(name for name in buckets if name != registry)]
    if not streams and registry not in buckets:
        return
    purpose = await _purpose(transport, namespace) if registry in buckets else None
    if purpose != PURPOSE:
        was = f"is used for a {purpose}" if purpose is not None else "does not say what it is used for"
        raise ConfigurationError(
            f"namespace {namespace.name} {was}, and a run deletes what is there: nothing was touched; "
            "choose a namespace of its own with --namespace"
        )
    if f"KV_{namespace.bucket('leases')}" in buckets:
        lease = _lease(await transport.bucket(namespace.bucket("leases")))
        if not await lease.acquire():
            raise ConfigurationError(
                f"another simulation is running in namespace {namespace.name}: wait for it, "
                "or choose another with --namespace"
            )
    for stream in streams:
        await transport.delete_stream(stream)
    # Last, since it says that the rest may be deleted.
    if registry in buckets:
        await transport.delete_stream(registry)


async def _purpose(transport: Transport, namespace: Namespace) -> str | None:
    entry = await (await transport.bucket(namespace.bucket("registry"))).get("namespace")
    if entry is None or entry.value is None:
        return None
    purpose = json.loads(entry.value).get("purpose")
    return purpose if isinstance(purpose, str) else None


@asynccontextmanager
async def _occupied(transport: Transport, namespace: Namespace) -> AsyncIterator[None]:
    """Keeps other runs from deleting the namespace."""
    lease = _lease(await transport.bucket(namespace.bucket("leases")))

    leaving = asyncio.Event()

    async def renew() -> None:
        while not leaving.is_set():
            with contextlib.suppress(TransientError):
                await lease.acquire()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TTL / 3):
                    await leaving.wait()

    renewing = asyncio.create_task(renew())
    try:
        yield
    finally:
        # Not cancelled at once: a renewal that is cut off leaves a lease whose revision nobody knows.
        leaving.set()
        await asyncio.wait([renewing], timeout=_PARTING)
        renewing.cancel()
        await lease.release()


def _lease(bucket: Bucket) -> Lease:
    return Lease(bucket, _LEASE, f"simulation-{uuid7()[-12:]}")


class _Voice:
    """Says what happens to the connection, until we close it ourselves."""

    def __init__(self, say: Callable[[str], None] | None) -> None:
        self._say = say
        self.quiet = say is None

    def say(self, message: str) -> None:
        if self._say is not None and not self.quiet:
            self._say(message)
