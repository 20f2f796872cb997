"""The keys of all customers, as one process holds them: made when first needed, dropped when a customer is erased."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from datetime import UTC, datetime
from time import monotonic

import structlog

from sojourn.bus.errors import ClosedError, DecodeError
from sojourn.bus.personal import rotation
from sojourn.bus.personal.key import CustomerKey
from sojourn.bus.personal.master import MasterKeys
from sojourn.bus.personal.records import ERASED, KEY, Records, Secret
from sojourn.bus.ports import Bucket, Entry, Transport
from sojourn.bus.subjects import Namespace, escape_key, unescape_key

log = structlog.get_logger("sojourn.bus")

PAUSE = 1.0
"""Seconds between attempts to watch."""

_OUTAGE = 10.0
_READS = 64
_MAKINGS = 500


class _Flight:
    """A key on its way into the cache. ``stale``: its customer was erased meanwhile, so it must not get there."""

    def __init__(self) -> None:
        self.stale = False


class KeyRing:
    """Customers' keys, wrapped by a master key in the bucket ``{NS}_keys`` and cached here.

    The bucket is created when the first key is made or erased. From the first use on, erasures by other processes are
    watched: they drop the key here within a second, and ``on_erased`` is called with each such customer, at least once,
    also for those erased before. `close` ends the watch.
    """

    def __init__(
        self, transport: Transport, namespace: Namespace, master: MasterKeys | None, *, size: int = 50_000
    ) -> None:
        """``size``: how many customers' keys are kept at hand."""
        self.on_erased: list[Callable[[str], None]] = []
        self._transport = transport
        self._records = Records(namespace, master)
        self._size = size
        self._cache: OrderedDict[str, CustomerKey] = OrderedDict()
        self._gone: OrderedDict[str, None] = OrderedDict()
        self._flights: dict[str, list[_Flight]] = {}
        self._bucket: Bucket | None = None
        self._opening = asyncio.Lock()
        self._reads = asyncio.Semaphore(_READS)
        self._wanted: dict[str, asyncio.Future[CustomerKey]] = {}
        self._queue: deque[str] = deque()
        self._maker: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._told: OrderedDict[str, int] = OrderedDict()
        self._closed = False

    @property
    def has_master(self) -> bool:
        """Whether there is a master key, without which no customer's key can be made or read."""
        return self._records.has_master

    async def prepare(self) -> None:
        """Opens the bucket before it is needed. Raises `ConfigurationError` where there is no master key."""
        _ = self._records.master
        await self._opened()

    def cached(self, customer: str) -> CustomerKey | None:
        """The customer's key, where it is at hand."""
        key = self._cache.get(customer)
        if key is not None:
            self._cache.move_to_end(customer)
        return key

    async def load(self, customer: str) -> CustomerKey | None:
        """The customer's key as the bucket holds it now; None where none was made, or it was erased.

        Raises `ConfigurationError` where it is there, but cannot be unwrapped: no master key, another one, or a damaged
        entry.
        """
        bucket = await self._existing()
        if bucket is None:
            return None
        name = KEY + escape_key(customer)
        with self._flying([customer]) as flights:
            while True:
                flights[customer].stale = False
                async with self._reads:
                    entry = await bucket.get(name)
                # Otherwise it may have been read before an erasure that was seen since.
                if not flights[customer].stale:
                    break
            if entry is None or entry.value is None:
                self._cache.pop(customer, None)
                return None
            found = self._records.read(customer, entry.value)
            known = self._cache.get(customer)
            if known is not None and known.id == found.id:
                return known
            return self._keep(customer, CustomerKey(found.id, found.secret))

    @property
    def gone(self) -> Container[str]:
        """The ids of keys that turned out to be destroyed, as many as are kept: an id is never used again."""
        return self._gone.keys()

    async def seek(self, customer: str, id: str) -> CustomerKey | None:
        """The customer's key as `load` gives it, to open what the key ``id`` sealed.

        Where it is another one, or none, that key was destroyed, since whoever seals with a key has stored it before:
        its id is in `gone` from now on.
        """
        key = await self.load(customer)
        if key is None or key.id != id:
            self._gone[id] = None
            if len(self._gone) > self._size:
                self._gone.popitem(last=False)
        return key

    async def ensure(self, customer: str) -> CustomerKey:
        """The customer's key: at hand, loaded, or made. Those who make one at the same moment get the same.

        Keys that are made at the same time are written together. Raises `ConfigurationError` as `load` does, and where
        there is no master key.
        """
        key = self.cached(customer)
        if key is not None:
            return key
        self._check_open()
        _ = self._records.master
        escape_key(customer)
        future = self._wanted.get(customer)
        if future is None:
            future = self._wanted[customer] = asyncio.get_running_loop().create_future()
            self._queue.append(customer)
            if self._maker is None or self._maker.done():
                self._maker = asyncio.create_task(self._make())
        return await asyncio.shield(future)

    async def erase(self, customer: str) -> bool:
        """Destroys the customer's key, and tells every process; True where there was one.

        Whatever it sealed reads None from now on. Interrupted, it is finished by calling it again. A later `ensure`
        makes a new key. Needs no master key.
        """
        token = escape_key(customer)
        bucket = await self._opened()
        try:
            erased = await bucket.erase(KEY + token)
            # After the key: who drops it earlier could load it again, and would not be told a second time.
            revision = await bucket.put(ERASED + token, f'{{"at":"{datetime.now(UTC).isoformat()}"}}'.encode())
        finally:
            self._forget(customer)
        self._tell(customer, revision)
        return erased

    async def verify(self) -> None:
        """Raises `ConfigurationError` where a master key that wraps customers' keys is not given, or is another one of
        the same id."""
        bucket = await self._existing()
        if bucket is not None:
            await rotation.verify(bucket, self._records)

    async def rotate(self) -> int:
        """Wraps all customers' keys with the first master key, and returns how many were wrapped by another before.

        What they were wrapped in is overwritten. Interrupted, it is finished by calling it again. All processes must
        have the new master key before, and may lose the old one afterwards. Raises `ConfigurationError`.
        """
        bucket = await self._existing()
        return await rotation.rotate(bucket, self._records, self._transport) if bucket is not None else 0

    async def close(self) -> None:
        """Ends the watch and forgets all keys; who still waits for one gets a `ClosedError`."""
        self._closed = True
        tasks = [task for task in (self._maker, self._watching) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._reject(list(self._wanted), ClosedError("the bus was closed before the customer's key was there"))
        self._queue.clear()
        self._cache.clear()

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError("the bus is closed")

    async def _existing(self) -> Bucket | None:
        """The bucket, or None where nobody has needed it yet."""
        self._check_open()
        if self._bucket is None:
            stream = f"KV_{self._records.bucket}"
            if stream not in await self._transport.streams(stream):
                return None
        return await self._opened()

    async def _opened(self) -> Bucket:
        self._check_open()
        async with self._opening:
            if self._bucket is None:
                self._bucket = await self._transport.bucket(self._records.bucket, erasable=True)
            self._check_open()
            if self._watching is None:
                self._watching = asyncio.create_task(self._watch(self._bucket))
            return self._bucket

    def _keep(self, customer: str, key: CustomerKey) -> CustomerKey:
        # One that comes back from a backup of the bucket is not gone any more.
        self._gone.pop(key.id, None)
        self._cache[customer] = key
        self._cache.move_to_end(customer)
        if len(self._cache) > self._size:
            self._cache.popitem(last=False)
        return key

    @contextmanager
    def _flying(self, customers: Sequence[str]) -> Iterator[dict[str, _Flight]]:
        """While it is open, erasures of the customers are noted in their flights."""
        flights = {customer: _Flight() for customer in customers}
        for customer, flight in flights.items():
            self._flights.setdefault(customer, []).append(flight)
        try:
            yield flights
        finally:
            for customer, flight in flights.items():
                self._flights[customer].remove(flight)
                if not self._flights[customer]:
                    del self._flights[customer]

    def _forget(self, customer: str) -> None:
        self._cache.pop(customer, None)
        for flight in self._flights.get(customer, ()):
            flight.stale = True

    def _tell(self, customer: str, revision: int) -> None:
        # One's own erasure is seen by the watch, too, and the watch begins anew after an outage.
        if self._told.get(customer) == revision:
            return
        self._told[customer] = revision
        if len(self._told) > self._size:
            self._told.popitem(last=False)
        self._forget(customer)
        for callback in self.on_erased:
            try:
                callback(customer)
            except Exception:
                log.exception("what follows an erasure failed", customer=customer)

    async def _watch(self, bucket: Bucket) -> None:
        last_failure = -_OUTAGE
        while True:
            reason = "the watch ended"
            try:
                async with aclosing(bucket.watch(ERASED)) as entries:
                    async for entry in entries:
                        self._see(entry)
            except ClosedError:
                return
            except Exception as error:  # noqa: BLE001 - whatever broke it, erasures have to be seen again
                reason = str(error)
            # Attempts that fail one after the other are one outage.
            if monotonic() - last_failure >= _OUTAGE:
                log.warning("erasures by other processes are not seen for now", reason=reason)
            last_failure = monotonic()
            await asyncio.sleep(PAUSE)

    def _see(self, entry: Entry) -> None:
        try:
            customer = unescape_key(entry.key.removeprefix(ERASED))
        except DecodeError:
            return
        if entry.value is not None:
            self._tell(customer, entry.revision)

    async def _make(self) -> None:
        """Fulfils what is wanted, in rounds: whoever asks during one is in the next."""
        await asyncio.sleep(0)
        while self._queue:
            customers = [self._queue.popleft() for _ in range(min(len(self._queue), _MAKINGS))]
            try:
                await self._make_round(customers)
            except Exception as error:  # noqa: BLE001 - whoever waits gets it
                self._reject(customers, error)

    async def _make_round(self, customers: list[str]) -> None:
        bucket = await self._opened()
        while customers:
            missing = []
            found = await asyncio.gather(*map(self.load, customers), return_exceptions=True)
            for customer, key in zip(customers, found, strict=True):
                if isinstance(key, Exception):
                    self._reject([customer], key)
                elif isinstance(key, CustomerKey):
                    self._fulfil(customer, key)
                else:
                    missing.append(customer)
            # Where somebody else was first, or erased it again, another look.
            customers = await self._create(bucket, missing) if missing else []

    async def _create(self, bucket: Bucket, customers: list[str]) -> list[str]:
        """Makes the customers' keys in one write, and returns those whose were not."""
        await rotation.announce(bucket, self._records)
        fresh: dict[str, CustomerKey] = {}
        values: dict[str, bytes] = {}
        for customer in customers:
            fresh[customer], secret = CustomerKey.new()
            values[KEY + escape_key(customer)] = self._records.write(customer, Secret(fresh[customer].id, secret))
        left = []
        with self._flying(customers) as flights:
            created = await bucket.create(values)
            for customer, key in fresh.items():
                if KEY + escape_key(customer) in created and not flights[customer].stale:
                    self._fulfil(customer, self._keep(customer, key))
                else:
                    left.append(customer)
        return left

    def _fulfil(self, customer: str, key: CustomerKey) -> None:
        future = self._wanted.pop(customer, None)
        if future is not None and not future.done():
            future.set_result(key)

    def _reject(self, customers: Iterable[str], error: Exception) -> None:
        for customer in customers:
            future = self._wanted.pop(customer, None)
            if future is not None and not future.done():
                future.set_exception(error)
                future.exception()  # Seen, also where nobody waits any more.
