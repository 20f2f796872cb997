"""What is left of an erased customer where it was in memory, and what begins anew."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from functools import partial
from time import monotonic
from typing import Any, Literal

import pytest

from sojourn import CustomerErased, TransientError
from sojourn.bus.client import Bus
from sojourn.bus.delivery.worker import Worker
from sojourn.bus.envelope import decode
from sojourn.bus.errors import UnavailableError
from sojourn.bus.personal.master import MasterKeys
from sojourn.bus.processor import NOTHING, Output, Recorded, SetTimer, Turn
from sojourn.bus.reading import Reader, read_as
from sojourn.bus.subjects import Namespace
from sojourn.state.erasure import erase
from tests.bus.delivery.processors import QUICK, Scripted
from tests.erasure.shop import Address, CustomerGreeted, EmailGiven, PageVisited, ReminderWaited
from tests.erasure.world import dead, namespace, opened, story, until
from tests.nats_server import NatsServer

MASTER = MasterKeys.new()


@dataclass
class Memory:
    """A resident that keeps every e-mail address it was shown, and shows them to its handler."""

    key: str
    handle: Callable[[Memory, Turn], Any]
    emails: list[str | None] = field(default_factory=list)
    own: list[str | None] = field(default_factory=list)

    def observe(self, recorded: Recorded) -> None:
        event = recorded.envelope.event
        assert isinstance(event, EmailGiven)
        self.emails.append(event.email)

    def acted(self, recorded: Recorded, cause: int) -> None:
        event = recorded.envelope.event
        assert isinstance(event, CustomerGreeted)
        self.own.append(event.email)

    def run(self, turn: Turn) -> Any:
        return self.handle(self, turn)


class Remembering(Scripted):
    """An agent made of one function, with such a memory."""

    start: Literal["now", "beginning"]

    def __init__(self, handle: Callable[[Memory, Turn], Any], **options: Any) -> None:
        options = {
            "handles": (EmailGiven, PageVisited, ReminderWaited),
            "folds": (EmailGiven, CustomerGreeted),
            "publishes": (CustomerGreeted, ReminderWaited),
            "start": "beginning",
        } | options
        super().__init__(handle, **options)  # type: ignore[arg-type]  # its own resident

    def open(self, key: str) -> Memory:  # type: ignore[override]
        return Memory(key, self.handle)  # type: ignore[arg-type]


def greet(memory: Memory, turn: Turn) -> Output:
    """Says every address it knows of in the note of its answer, and the last one in the field for it."""
    event = turn.recorded.envelope.event
    last = next((email for email in reversed(memory.emails) if email is not None), None)
    known = sorted(set(filter(None, memory.emails)))
    note = f"{getattr(event, 'note', '')}:{len(memory.emails)}:{len(memory.own)}:{known}"
    return Output([CustomerGreeted(customer_id=memory.key, email=last, note=note)])


def given(customer: str, email: str | None, note: str = "") -> EmailGiven:
    return EmailGiven(customer_id=customer, email=email, address=Address(street="Street 1"), note=note)


@contextlib.asynccontextmanager
async def working(server: NatsServer, at: Namespace, agent: Remembering) -> AsyncIterator[tuple[Bus, Worker]]:
    async with opened(server, at, MASTER) as bus, Worker(bus, [agent]) as worker:
        yield bus, worker


async def answers(bus: Bus, customer: str) -> list[CustomerGreeted]:
    found = []
    for envelope in await story(bus, customer, CustomerGreeted):
        assert isinstance(envelope.event, CustomerGreeted)
        found.append(envelope.event)
    return found


async def test_a_worker_that_had_a_journey_in_memory_forgets_within_a_second(nats_server: NatsServer) -> None:
    at = namespace()
    async with working(nats_server, at, Remembering(greet)) as (bus, worker), opened(nats_server, at, MASTER) as other:
        for number in range(3):
            await bus.publish(given("ada", f"ada{number}@example.org", str(number)))
        await bus.publish(given("bob", "bob@example.org"))
        await worker.caught_up()
        assert (await answers(bus, "ada"))[-1].note == "2:3:2:" + str([f"ada{n}@example.org" for n in range(3)])

        assert (await erase(other, "ada")).had_key
        erased = monotonic()
        await until(lambda: _absent(bus, "ada"))
        assert monotonic() - erased < 1
        for customer in ("ada", "bob"):
            await bus.publish(PageVisited(customer_id=customer, note="later"))
        await worker.caught_up()
        # Folds and counts still work: three were given, and three answered.
        assert (await answers(bus, "ada"))[-1] == CustomerGreeted(customer_id="ada", note="later:3:3:[]")
        assert (await answers(bus, "bob"))[-1].email == "bob@example.org"
        assert [event.email for event in await answers(bus, "ada")] == [None] * 4

        fields = [envelope.erased for envelope in await story(other, "ada", EmailGiven)]
        assert fields == [("email", "street")] * 3
        [marker] = await story(bus, "ada", CustomerErased)
        assert marker.erased == ()


async def _absent(bus: Bus, customer: str) -> bool:
    return bus.keys.cached(customer) is None


async def test_reading_erased_customers_asks_once_for_each_key(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    at, asked = namespace(), list[str]()
    async with opened(nats_server, at, MASTER) as bus, opened(nats_server, at, MASTER) as reader:
        customers = [f"c{number}" for number in range(4)]
        for _ in range(2):
            for customer in customers:
                for number in range(5):
                    await bus.publish(given(customer, f"{customer}{number}@example.org"))
                await erase(bus, customer)
        await bus.publish(given("c0", "new@example.org"))
        bucket = await reader.transport.bucket(at.bucket("keys"), erasable=True)
        get = type(bucket).get

        async def counted(self: Any, key: str) -> Any:
            if self._connection is reader.transport._connection:  # type: ignore[attr-defined]  # that of NATS
                asked.append(key)
            return await get(self, key)

        await reader.keys.load("somebody")
        for customer in customers:
            await until(partial(_told, reader, customer))
        monkeypatch.setattr(type(bucket), "get", counted)
        for _ in range(10):
            for customer in customers:
                at_ = at.locate(customer)
                stored = await reader.transport.read(
                    at_.stream, f"{at.name}.log.{at_.partition}.{at_.token}.evt.EmailGiven"
                )
                for message in stored:
                    one = Reader(reader.schemas, reader.keys.cached(customer), certain=False)
                    envelope = await read_as(
                        one, reader.keys, customer, partial(decode, message.payload, EmailGiven, one)
                    )
                    assert envelope.erased == (() if message in stored[10:] else ("email", "street"))
        # For each of the two keys that each of them lost; the one that c0 has now was found with that.
        assert sorted(asked) == sorted(f"key.{customer}" for customer in customers * 2)


async def _told(bus: Bus, customer: str) -> bool:
    return customer in bus.keys._told


async def test_what_comes_later_gets_a_new_key_and_the_old_stays_gone(nats_server: NatsServer) -> None:
    at = namespace()
    async with working(nats_server, at, Remembering(greet)) as (bus, worker), opened(nats_server, at, MASTER) as other:
        await bus.publish(given("ada", "old@example.org"))
        await worker.caught_up()
        for turn in range(3):
            await erase(other, "ada")
            # At once, by a process that may not have heard of it: in any case it is read, and shows nothing older.
            await other.publish(given("ada", f"new{turn}@example.org", "new"))
            await until(partial(_count, bus, "ada", 2 + turn))
            answer = (await answers(bus, "ada"))[-1]
            assert answer.note.endswith(f"['new{turn}@example.org']") and answer.email == f"new{turn}@example.org"
        emails = [envelope.event.email for envelope in await story(bus, "ada", EmailGiven)]  # type: ignore[attr-defined]  # it is one
        assert emails == [None, None, None, "new2@example.org"]
        assert [event.email for event in await answers(bus, "ada")] == [None, None, None, "new2@example.org"]


async def _count(bus: Bus, customer: str, count: int) -> bool:
    return len(await answers(bus, customer)) == count


async def test_a_handler_that_ran_during_the_erasure_stores_nothing_readable(nats_server: NatsServer) -> None:
    """Its output and what it kept were made of values that are gone: a new key would bring them back."""
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow(memory: Memory, turn: Turn) -> Output:
        event = turn.recorded.envelope.event
        if not isinstance(event, EmailGiven) or event.note != "slow":
            return greet(memory, turn)

        async def call() -> bytes:
            begun.set()
            await go_on.wait()
            return f'"{event.email} {memory.emails}"'.encode()

        await turn.once("kept", call)
        reminder = ReminderWaited(customer_id="ada", email=event.email)
        return Output(greet(memory, turn).events, [SetTimer("remind", reminder, turn.now)])

    at = namespace()
    async with working(nats_server, at, Remembering(slow)) as (bus, _), opened(nats_server, at, MASTER) as other:
        await bus.publish(given("ada", "first@example.org"))
        await bus.publish(given("ada", "second@example.org", "slow"))
        await bus.publish(given("ada", "third@example.org"))
        await begun.wait()
        await erase(other, "ada")
        await until(lambda: _absent(bus, "ada"))
        await bus.publish(given("ada", "new@example.org", "new"))
        go_on.set()
        await until(lambda: _count(bus, "ada", 5))
        assert await dead(bus) == []
        assert [event.email for event in await answers(bus, "ada")] == [
            None,
            None,
            None,
            "new@example.org",
            "new@example.org",
        ]
        stored = await bus.transport.read(bus.namespace.shard_stream(0), f"{bus.namespace.name}.>")
        key = bus.keys.cached("ada")
        assert key is not None
        texts = [
            text for message in stored for text in message.payload.decode().split('"') if text.startswith("sealed:1:")
        ]
        ours = {key.unseal(text) for text in texts if text.startswith(f"sealed:1:{key.id}:")}
        assert not any(name in value for value in ours for name in (b"first@", b"second@", b"third@"))
        kept = [message.payload for message in stored if message.subject.split(".")[1] in ("lane", "timer")]
        assert len(kept) >= 2
        assert not any(name in payload for payload in kept for name in (b"first@", b"second@", b"third@"))


async def test_a_handler_that_is_tried_again_after_the_erasure_sees_nothing(nats_server: NatsServer) -> None:
    seen: list[tuple[str | None, list[str | None]]] = []
    erased = asyncio.Event()

    async def fail(memory: Memory, turn: Turn) -> Output:
        event = turn.recorded.envelope.event
        assert isinstance(event, EmailGiven)
        seen.append((event.email, list(memory.emails)))
        if event.email is not None:
            raise TransientError(f"later, {event.email}")
        return NOTHING

    at = namespace()
    agent = Remembering(fail, retry=QUICK.__class__(1_000, QUICK.initial, QUICK.maximum))
    async with working(nats_server, at, agent) as (bus, worker), opened(nats_server, at, MASTER) as other:
        await bus.publish(given("ada", "ada@example.org"))
        await until(lambda: _more(seen))
        await erase(other, "ada")
        erased.set()
        async with asyncio.timeout(10):
            await worker.caught_up()
        assert seen[-1] == (None, [None])
        assert await dead(bus) == []


async def _more(seen: list[Any]) -> bool:
    return len(seen) > 2


async def test_an_erasure_is_finished_by_calling_it_again(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = namespace()

    async def broken(*_: object, **__: object) -> Any:
        raise UnavailableError("the server is gone")

    async with working(nats_server, at, Remembering(greet)) as (bus, worker), opened(nats_server, at, MASTER) as other:
        await bus.publish(given("ada", "ada@example.org"))
        await worker.caught_up()
        buckets = type(await other.transport.bucket(at.bucket("keys"), erasable=True))
        put = buckets.put

        async def marked(self: Any, key: str, value: bytes, **rest: Any) -> int:
            return await (broken() if key.startswith("erased.") else put(self, key, value, **rest))

        for owner, name, replacement in ((buckets, "put", marked), (Bus, "publish", broken)):
            with monkeypatch.context() as patch:
                patch.setattr(owner, name, replacement)
                with pytest.raises(UnavailableError):
                    await erase(other, "ada")
            # The key went first: nothing can be read any more, whatever comes next.
            assert await bus.keys.load("ada") is None
            assert [envelope.erased for envelope in await story(bus, "ada", EmailGiven)] == [("email", "street")]
        assert await story(bus, "ada", CustomerErased) == []
        assert not (await erase(other, "ada")).had_key
        await until(lambda: _absent(bus, "ada"))
        await bus.publish(PageVisited(customer_id="ada"))
        await worker.caught_up()
        assert (await answers(bus, "ada"))[-1].note == ":1:1:[]"
        assert not (await erase(bus, "ada")).had_key
        assert len(await story(bus, "ada", CustomerErased)) == 2


async def test_who_is_not_known_can_be_erased(nats_server: NatsServer) -> None:
    async with opened(nats_server, namespace(), MASTER) as bus:
        assert not (await erase(bus, "nobody knows me")).had_key
        assert len(await story(bus, "nobody knows me", CustomerErased)) == 1
        with pytest.raises(ValueError, match="key"):
            await erase(bus, "")


async def test_erasures_under_load_lose_no_event_and_bury_none(nats_server: NatsServer) -> None:
    at, customers, rounds = namespace(), [f"c{number}" for number in range(8)], 25
    done = asyncio.Event()

    async def work(memory: Memory, turn: Turn) -> Output:
        event = turn.recorded.envelope.event
        if isinstance(event, EmailGiven) and event.note.endswith("0"):
            await turn.once("kept", lambda: _result(event.email))
        return greet(memory, turn)

    async with working(nats_server, at, Remembering(work)) as (bus, _), opened(nats_server, at, MASTER) as other:

        async def erasing() -> int:
            count = 0
            while not done.is_set():
                for customer in customers[:4]:
                    await erase(other if count % 2 else bus, customer)
                    count += 1
            return count

        eraser = asyncio.create_task(erasing())
        for round in range(rounds):
            async with (bus if round % 2 else other).publisher() as publisher:
                for customer in customers:
                    await publisher.publish(given(customer, f"{customer}-{round}@example.org", f"{round}"))
                    await publisher.publish(PageVisited(customer_id=customer, note=f"{round}"))
        done.set()
        assert await eraser >= 8
        for customer in customers:
            await until(partial(_count, bus, customer, 2 * rounds))
        assert await dead(bus) == []
        for customer in customers:
            envelopes = await story(bus, customer, EmailGiven)
            numbers = [envelope.event.note for envelope in envelopes]  # type: ignore[attr-defined]  # it is one
            assert numbers == [str(round) for round in range(rounds)]
            spared = [envelope for envelope in envelopes if not envelope.erased]
            assert len(spared) == rounds or customer in customers[:4]
            for envelope in spared:
                assert envelope.event.email == f"{customer}-{envelope.event.note}@example.org"  # type: ignore[attr-defined]
            # No answer brings back what its customer's own events do not show any more.
            emails = {envelope.event.email for envelope in spared}  # type: ignore[attr-defined]
            assert {event.email for event in await answers(bus, customer)} - {None} <= emails


async def _result(email: str | None) -> bytes:
    return f'"{email}"'.encode()
