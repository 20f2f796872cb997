"""Master keys against what they wrapped: whether all are there, and how a new one takes over."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from sojourn.bus.errors import ConcurrencyError, ConfigurationError
from sojourn.bus.personal.master import MasterKeys
from sojourn.bus.personal.records import KEY, MASTER, Records
from sojourn.bus.ports import Bucket, Entry, Transport
from sojourn.bus.subjects import unescape_key

_AT_ONCE = 32


async def announce(bucket: Bucket, records: Records) -> None:
    """Stores the check value of the first master key, before it wraps anything. Raises `ConfigurationError` where the
    one of that name was another key."""
    master = records.master
    name = MASTER + master.first
    value = master.check_value(master.first, records.namespace).encode()
    entry = await bucket.get(name)
    if entry is None and name not in await bucket.create({name: value}):
        entry = await bucket.get(name)
    if entry is not None:
        _compare(master, records, entry)


async def verify(bucket: Bucket, records: Records) -> None:
    """Raises `ConfigurationError` where a master key that wraps something is not given, or is another one of that
    name."""
    entries = await bucket.entries(MASTER)
    if not entries:
        return
    master = records.master
    missing = [id for entry in entries if (id := entry.key.removeprefix(MASTER)) not in master]
    if missing:
        raise ConfigurationError(
            f"keys of customers in the bucket {records.bucket} are wrapped by {', '.join(missing)}, which is not among "
            f"the master keys given ({', '.join(master.ids)}): put it back into the master key file; without it those "
            "customers' personal fields stay unreadable"
        )
    for entry in entries:
        _compare(master, records, entry)


async def rotate(bucket: Bucket, records: Records, transport: Transport) -> int:
    """Wraps every customer's key with the first master key, and forgets the master keys that wrap nothing any more.

    Returns how many were wrapped anew. Interrupted, it goes on where it was. What was wrapped before is overwritten.
    """
    await verify(bucket, records)
    await announce(bucket, records)
    count = 0
    # Again until nothing is left: others may have wrapped with an older key meanwhile.
    while changed := await _pass(bucket, records, await bucket.entries(KEY), leftovers=False):
        count += changed
    state = await transport.stream_state(f"KV_{records.bucket}")
    if state is not None and state.messages > len(await bucket.entries()):
        # An interrupted rotation left what it had replaced: writing a value again overwrites all before it.
        await _pass(bucket, records, await bucket.entries(KEY), leftovers=True)
    for entry in await bucket.entries(MASTER):
        if entry.key != MASTER + records.master.first:
            await bucket.erase(entry.key)
    return count


async def _pass(bucket: Bucket, records: Records, entries: Sequence[Entry], *, leftovers: bool) -> int:
    changed = 0
    for start in range(0, len(entries), _AT_ONCE):
        part = entries[start : start + _AT_ONCE]
        changed += sum(await asyncio.gather(*(_wrap(bucket, records, entry, leftovers) for entry in part)))
    return changed


async def _wrap(bucket: Bucket, records: Records, found: Entry, leftovers: bool) -> bool:
    """Wraps one key anew, unless it is already, or was erased meanwhile."""
    entry: Entry | None = found
    while entry is not None and entry.value is not None:
        customer = unescape_key(entry.key.removeprefix(KEY))
        record = records.parse(customer, entry.value)
        if record.master == records.master.first:
            if not leftovers:
                return False
            value = entry.value
        else:
            value = records.write(customer, records.read(customer, entry.value), created=record.created)
        try:
            await bucket.put(entry.key, value, expect=entry.revision)
        except ConcurrencyError:
            entry = await bucket.get(entry.key)
        else:
            return True
    return False


def _compare(master: MasterKeys, records: Records, entry: Entry) -> None:
    id = entry.key.removeprefix(MASTER)
    if entry.value != master.check_value(id, records.namespace).encode():
        raise ConfigurationError(
            f"the master key {id} is not the one that wrapped the keys in the bucket {records.bucket}: ids are never "
            "reused; give the new key an id of its own, and keep the old one beside it"
        )
