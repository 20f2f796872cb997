"""The bus as a program sees it: an open namespace on a server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime
from pathlib import Path

from sojourn.bus.catalog import Catalog
from sojourn.bus.clock import Clock, WallClock
from sojourn.bus.committer import Committer
from sojourn.bus.envelope import Envelope
from sojourn.bus.errors import ConfigurationError, NotFoundError
from sojourn.bus.event import Event
from sojourn.bus.personal.keyring import KeyRing
from sojourn.bus.personal.master import MasterKeys
from sojourn.bus.personal.store import kept_in
from sojourn.bus.ports import StreamSpec, Transport
from sojourn.bus.publisher import Published, Publisher, clear, prepare, publish_one, sealer_of
from sojourn.bus.registry import NamespaceRecord, Registry
from sojourn.bus.schemas.store import Schemas
from sojourn.bus.subjects import Namespace
from sojourn.bus.timers import JetStreamTimers, Timers

_BUCKETS = "KV_"
"""What the streams behind buckets start with."""

_REGISTRY = "registry"

_NAMED = 20
"""Namespaces that a message names at most."""


class Bus:
    """An open namespace: publishes events, and carries what workers need. Made by `connect` or `open_bus`."""

    def __init__(
        self,
        transport: Transport,
        namespace: Namespace,
        registry: Registry,
        *,
        schemas: Schemas,
        keys: KeyRing,
        clock: Clock,
        catalog: Catalog,
    ) -> None:
        self.transport = transport
        self.namespace = namespace
        self.registry = registry
        self.schemas = schemas
        self.keys = keys
        self.clock = clock
        self.catalog = catalog
        self.committer = Committer(transport)

    @property
    def source(self) -> str:
        """The ``source`` of events published without one."""
        return f"/{self.namespace.name}"

    async def publish(
        self,
        event: Event,
        *,
        id: str | None = None,
        time: datetime | None = None,
        source: str | None = None,
        cause: Envelope[Event] | None = None,
    ) -> Published:
        """Stores one event and returns its place.

        ``id``: the event's own identity where it has one; ``time``: when it happened, aware, the present by default;
        ``cause``: the envelope that it follows from. Retries through an outage for 60 s, and the event is stored once
        however late a retry comes. A second call with the same id is stored once within two minutes, the server's
        memory of ids; whether it was stored before that is the caller's to know. Raises `SchemaError` (also where its
        schema is not the registered one, which is shown), `TooLargeError`, `PermissionDenied`, and at last
        `UnavailableError` or `TimedOutError`.
        """
        await clear(self, event)
        sealer = await sealer_of(self, event)
        return await publish_one(
            self, prepare(self, event, id=id, time=time, source=source, cause=cause, sealer=sealer)
        )

    def publisher(self, *, in_flight: int = 2000) -> Publisher:
        """A pipelined publisher, to be used in an ``async with`` block."""
        return Publisher(self, in_flight=in_flight)


@asynccontextmanager
async def connect(
    url: str | None = None,
    *,
    namespace: str = "sojourn",
    store: Path | None = None,
    user: str | None = None,
    password: str | None = None,
    creds: str | None = None,
    clock: Clock | None = None,
    timers: Timers | None = None,
    master_keys: MasterKeys | Path | None = None,
    frozen: bool = False,
    create: bool = True,
    say: Callable[[str], None] | None = None,
) -> AsyncIterator[Bus]:
    """Opens a namespace on a NATS server, and creates it where it is missing.

    ``url``: a server of 2.14 or newer with JetStream (``nats://host:4222``, several with commas); without one the
    embedded server of ``store`` (default ``.sojourn`` in the current folder) is started or joined. ``master_keys``, or
    the file that holds them, wrap the keys of customers with personal data; beside an embedded server there is one in
    ``master.key`` of its store, made when it is missing. ``frozen``: schemas are only checked, never registered.
    ``create``: without it, a namespace that is missing is a `NotFoundError` and nothing is made. ``say`` is told of
    outages, in words for people. Raises `UnavailableError` and `ConfigurationError`.
    """
    from sojourn.bus.nats import connect_nats

    async with AsyncExitStack() as stack:
        if isinstance(master_keys, Path):
            master_keys = MasterKeys.from_file(master_keys)
        if url is None:
            from sojourn.bus.embedded.server import embedded_server

            address = await stack.enter_async_context(
                embedded_server(store or Path(".sojourn"), say=say or (lambda message: None))
            )
            url, user, password = address.url, address.user, address.password
            if master_keys is None:
                master_keys = kept_in((store or Path(".sojourn")) / "master.key")
        transport = await connect_nats(
            url, timers=timers or JetStreamTimers(), user=user, password=password, creds=creds, on_state=say
        )
        stack.push_async_callback(transport.close)
        yield await stack.enter_async_context(
            open_bus(
                transport,
                Namespace(namespace),
                clock=clock or WallClock(),
                master_keys=master_keys,
                frozen=frozen,
                create=create,
            )
        )


@asynccontextmanager
async def open_bus(
    transport: Transport,
    namespace: Namespace,
    *,
    clock: Clock,
    catalog: Catalog | None = None,
    purpose: str = "bus",
    master_keys: MasterKeys | None = None,
    frozen: bool = False,
    create: bool = True,
) -> AsyncIterator[Bus]:
    """Opens a namespace on a transport, and creates it where it is missing, with the partitions and shards of
    ``namespace``.

    Where it exists, its own partitions and shards count. ``purpose`` is kept with a namespace that is created here;
    one other than ``bus`` (a simulation, which plays with time) is refused with `ConfigurationError` where the
    namespace was made for something else. ``master_keys``, ``frozen`` and ``create`` as for `connect`. The transport
    stays the caller's to close.
    """
    if not create:
        await _require(transport, namespace)
    bucket = await transport.bucket(namespace.bucket(_REGISTRY))
    namespace = await _settle(Registry(bucket), namespace, purpose)
    if create:
        for shard in range(namespace.shards):
            await transport.create_stream(StreamSpec(namespace.shard_stream(shard), namespace.stream_subjects(shard)))
        await transport.create_stream(StreamSpec(namespace.ingress_stream, (namespace.ingress_filter,), log=False))
    bus = Bus(
        transport,
        namespace,
        Registry(bucket),
        schemas=Schemas(bucket, clock=clock, frozen=frozen),
        keys=KeyRing(transport, namespace, master_keys),
        clock=clock,
        catalog=catalog or Catalog(),
    )
    try:
        yield bus
    finally:
        await bus.committer.close()
        await bus.schemas.close()
        await bus.keys.close()


async def _require(transport: Transport, namespace: Namespace) -> None:
    """Raises `NotFoundError` where there is no such namespace, with the names of those there are."""
    buckets = await transport.streams(_BUCKETS)
    name = namespace.bucket(_REGISTRY)
    if f"{_BUCKETS}{name}" in buckets and await (await transport.bucket(name)).get("namespace") is not None:
        return
    ending = f"_{_REGISTRY}"
    there = sorted(one[len(_BUCKETS) : -len(ending)].lower() for one in buckets if one.endswith(ending))
    more = [f"{len(there) - _NAMED} more"] if len(there) > _NAMED else []
    raise NotFoundError(
        f"there is no namespace {namespace.name!r} on this server "
        f"(there: {', '.join([*there[:_NAMED], *more]) or 'none yet'}); "
        "the first `sojourn run` or `sojourn publish` on it creates one"
    )


async def _settle(registry: Registry, namespace: Namespace, purpose: str) -> Namespace:
    """Partitions and shards are fixed by whoever creates the namespace; everybody else takes them over."""
    stored = await registry.settle_namespace(
        NamespaceRecord(partitions=namespace.partitions, shards=namespace.shards, purpose=purpose)
    )
    if purpose not in ("bus", stored.purpose):
        raise ConfigurationError(
            f"namespace {namespace.name} is used for a {stored.purpose}, not for a {purpose}: "
            "choose another --namespace"
        )
    return Namespace(namespace.name, stored.partitions, stored.shards)
