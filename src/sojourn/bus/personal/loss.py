"""A master key that nobody has any more: the customers' keys that it wraps are erased, so that work can go on.

Nobody can open those keys, but as long as they are stored every process with personal data refuses to start, in case
the master key is found after all. Forgetting it decides that it is not.
"""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from sojourn.bus.errors import ConfigurationError, NotFoundError
from sojourn.bus.personal.keyring import KeyRing
from sojourn.bus.personal.master import MasterKeys
from sojourn.bus.personal.records import KEY, MASTER, Records
from sojourn.bus.ports import Bucket, Transport
from sojourn.bus.subjects import Namespace, unescape_key

_AT_ONCE = 32


class Loss(NamedTuple):
    """What goes with a master key: the ``customers`` whose keys only it opens. One may stand for nobody, the customer
    of documents that named none."""

    master: str
    customers: tuple[str, ...]


async def survey(transport: Transport, namespace: Namespace, master: MasterKeys | None, id: str) -> Loss:
    """What would be lost with the master key ``id``. ``master``: those at hand, another one of that id included.

    Raises `NotFoundError` where the namespace knows no such master key, and `ConfigurationError` where it is at hand.
    """
    records = Records(namespace, master)
    bucket = await _existing(transport, records)
    if bucket is None:
        raise NotFoundError(f"namespace {namespace.name} has no keys of customers, so no master key is missing")
    entries = await bucket.entries(MASTER)
    customers, others = await _wrapped(bucket, records, id)
    known = {entry.key.removeprefix(MASTER): entry.value for entry in entries}
    if id not in known and not customers:
        ids = ", ".join(sorted({*known, *others})) or "none"
        raise NotFoundError(
            f"no key of a customer in namespace {namespace.name} is wrapped by a master key {id!r} (known: {ids}); "
            "`sojourn keys status` shows what each of them wraps"
        )
    if master is not None and id in master and known.get(id) == master.check_value(id, namespace.name).encode():
        raise ConfigurationError(
            f"the master key {id} is at hand, so nothing that it wraps is lost: `sojourn keys rotate` puts another in "
            "its place, `sojourn journeys erase` erases a customer"
        )
    return Loss(id, customers)


async def forget(keys: KeyRing, transport: Transport, namespace: Namespace, master: MasterKeys | None, id: str) -> int:
    """Erases all customers' keys that the lost master key ``id`` wraps, and what is known of it; returns how many.

    Their bytes are overwritten, and every process is told, as by `KeyRing.erase`: what they sealed reads None from now
    on. No `CustomerErased` is published: nobody asked to be forgotten, and copies elsewhere may be all that is left.
    Interrupted, it is finished by calling it again. Raises what `survey` raises.
    """
    count = 0
    loss = await survey(transport, namespace, master, id)
    records = Records(namespace, master)
    bucket = await transport.bucket(records.bucket, erasable=True)
    # Again until nothing is left: a process that still has the master key may have made more.
    while loss.customers:
        for start in range(0, len(loss.customers), _AT_ONCE):
            part = loss.customers[start : start + _AT_ONCE]
            count += sum(await asyncio.gather(*map(keys.erase, part)))
        loss = Loss(id, (await _wrapped(bucket, records, id))[0])
    # Last: as long as it stands, an interruption is seen.
    await bucket.erase(MASTER + id)
    return count


async def _wrapped(bucket: Bucket, records: Records, id: str) -> tuple[tuple[str, ...], set[str]]:
    """The customers whose keys a master key wraps, and the other master keys that wrap some."""
    customers: list[str] = []
    others: set[str] = set()
    for entry in await bucket.entries(KEY):
        if entry.value is None:
            continue
        customer = unescape_key(entry.key.removeprefix(KEY))
        wrapper = records.parse(customer, entry.value).master
        if wrapper == id:
            customers.append(customer)
        else:
            others.add(wrapper)
    return tuple(customers), others


async def _existing(transport: Transport, records: Records) -> Bucket | None:
    # Not made for a question.
    stream = f"KV_{records.bucket}"
    if stream not in await transport.streams(stream):
        return None
    return await transport.bucket(records.bucket, erasable=True)
