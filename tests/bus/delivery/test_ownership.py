"""Who runs what: shares, changes of hands, deaths, and what a claim says of a crash."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import Any

import pytest

from sojourn.bus.client import Bus, open_bus
from sojourn.bus.clock import VirtualClock
from sojourn.bus.delivery import session as sessions
from sojourn.bus.delivery.rendezvous import preferred
from sojourn.bus.delivery.session import Session, read_member
from sojourn.bus.delivery.worker import Worker
from sojourn.bus.errors import UnavailableError
from sojourn.bus.memory import MemoryTransport
from sojourn.bus.ports import Bucket, Entry, Stored
from sojourn.bus.processor import Output, Turn
from sojourn.bus.subjects import Namespace
from sojourn.bus.timers import VirtualTimers
from tests.bus.delivery.processors import (
    START,
    CartAbandoned,
    Resident,
    Scripted,
    actions,
    check_effects,
    dead,
    offer,
    turbo,
    until,
)

WIDE = Namespace("test", partitions=16, shards=2)


def bus_on(transport: MemoryTransport) -> Any:
    return open_bus(transport, WIDE, clock=VirtualClock(START))


def holds(worker: Worker, group: int = 0) -> set[int]:
    return set(worker.groups[group].partitions)


def shared(*workers: Worker) -> bool:
    """Every partition runs exactly once."""
    return Counter(p for worker in workers for p in worker.groups[0].partitions) == Counter(range(16))


async def claims(bus: Bus) -> dict[str, dict[str, Any]]:
    bucket = await bus.transport.bucket(bus.namespace.bucket("leases"))
    return {
        entry.key.removeprefix("owner."): json.loads(entry.value)
        for entry in await bucket.entries("owner.")
        if entry.value is not None
    }


def test_a_worker_more_or_less_moves_about_its_share() -> None:
    places = [(group, number) for group in ("a", "b", "c") for number in range(200)]
    for n in range(1, 9):
        before = {place: preferred(*place, [f"w{i}" for i in range(n)]) for place in places}
        after = {place: preferred(*place, [f"w{i}" for i in range(n + 1)]) for place in places}
        moved = [place for place in places if before[place] != after[place]]
        assert all(after[place] == f"w{n}" for place in moved), "nothing moves between those that stay"
        assert 0.6 / (n + 1) < len(moved) / len(places) < 1.4 / (n + 1)
    assert preferred("a", 0, []) is None
    assert preferred("a", 0, ["w1", "w2"]) == preferred("a", 0, ["w2", "w1"])


def test_workers_that_come_and_go_share_the_partitions() -> None:
    async def main() -> None:
        transport = MemoryTransport(VirtualTimers())
        async with bus_on(transport) as bus, Worker(bus, [Scripted()], name="one") as one:
            assert holds(one) == set(range(16))
            async with Worker(bus, [Scripted()], name="two") as two:
                await until(lambda: shared(one, two) and bool(holds(two)))
                before = holds(one)
                async with Worker(bus, [Scripted()], name="three") as three:
                    await until(lambda: shared(one, two, three) and bool(holds(three)))
                    assert holds(one) <= before
                    for n in range(200):
                        await bus.publish(CartAbandoned(customer_id=f"c{n}", n=n))
                    await asyncio.gather(one.caught_up(), two.caught_up(), three.caught_up())
                    assert all(worker.groups[0].counters.closed for worker in (one, two, three))
                assert not holds(three)
                await until(lambda: shared(one, two))
                assert holds(one) == before
            await until(lambda: shared(one))
            assert await check_effects(bus) == 200
            assert all(claim["crashes"] == 0 for claim in (await claims(bus)).values())

    turbo(main())


def test_only_members_with_a_groups_code_own_its_partitions() -> None:
    async def main() -> None:
        transport = MemoryTransport(VirtualTimers())
        async with bus_on(transport) as bus:
            both = [Scripted(), Scripted(writer="other")]
            async with Worker(bus, both, name="one") as one, Worker(bus, [Scripted()], name="two") as two:
                await until(lambda: shared(one, two) and bool(holds(two)))
                assert holds(one, 1) == set(range(16)) and len(two.groups) == 1

    turbo(main())


def test_a_handler_that_runs_ends_before_its_partition_changes_hands() -> None:
    running: list[str] = []
    most = 0
    gate = asyncio.Event()

    async def handle(resident: Resident, turn: Turn) -> Output:
        nonlocal most
        running.append(resident.key)
        most = max(most, *Counter(running).values())
        await gate.wait()
        running.remove(resident.key)
        return offer(resident, turn)

    async def main() -> None:
        transport = MemoryTransport(VirtualTimers())
        async with bus_on(transport) as bus, Worker(bus, [Scripted(handle)], name="one") as one:
            for n in range(200):
                await bus.publish(CartAbandoned(customer_id=f"c{n % 40}", n=n))
            await until(lambda: len(running) == 40)
            async with Worker(bus, [Scripted(handle)], name="two") as two:
                await asyncio.sleep(1)
                assert not holds(two), "nothing is handed over while its handlers run"
                gate.set()
                await until(lambda: shared(one, two) and bool(holds(two)))
                await asyncio.gather(one.caught_up(), two.caught_up())
                assert most == 1
                assert await check_effects(bus) == 200

    turbo(main())


async def vanish(worker: Worker) -> None:
    """As if its process were killed: it stores and tells nothing more, and leaves its entries to the others."""
    assert worker._ownership is not None and worker._running is not None
    session = worker._ownership.session

    async def silent(*arguments: object) -> Any:
        session._until = 0.0
        raise UnavailableError("dead")

    async def quiet(*arguments: object) -> bool:
        return True

    worker._ownership.end = worker._ownership.leave = quiet  # type: ignore[method-assign, assignment]
    session.renew = silent  # type: ignore[method-assign]
    session._until = 0.0
    for group in worker.groups:
        for partition in group.partitions.values():
            partition._discard()
            partition._stopped = True


def test_the_dead_are_succeeded_once_their_session_has_run_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "is_gone", lambda process: False)

    async def main() -> None:
        transport = MemoryTransport(VirtualTimers())
        async with bus_on(transport) as bus, Worker(bus, [Scripted()], name="one") as one:
            dying = Worker(bus, [Scripted()], name="two")
            await dying.__aenter__()
            await until(lambda: shared(one, dying) and bool(holds(dying)))
            lost = holds(dying)
            await vanish(dying)
            assert dying._ownership is not None
            for n in range(200):
                await bus.publish(CartAbandoned(customer_id=f"c{n}", n=n))
            await asyncio.sleep(20)
            assert not holds(one) & lost, "its session counts, as far as anybody knows"
            # It expires; the twin's server lives on the wall clock.
            await (await bus.transport.bucket("TEST_leases")).delete(f"member.{dying._ownership.session.token}")
            await until(lambda: holds(one) == set(range(16)))
            await until(lambda: everything_done(bus))
            assert await check_effects(bus) == 200 and await dead(bus) == []
            crashed = {int(place.split(".")[1]) for place, claim in (await claims(bus)).items() if claim["crashes"]}
            assert crashed <= lost

            async def cleared() -> bool:
                return not any(claim["crashes"] for claim in (await claims(bus)).values())

            await until(cleared)
            await dying.__aexit__(None, None, None)

    async def everything_done(bus: Bus) -> bool:
        return len(await actions(bus)) >= 200

    turbo(main())


def test_a_worker_that_was_given_up_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "is_gone", lambda process: False)

    async def main() -> None:
        transport = MemoryTransport(VirtualTimers())
        async with (
            bus_on(transport) as bus,
            Worker(bus, [Scripted()], name="one") as one,
            Worker(bus, [Scripted()], name="two") as two,
        ):
            await until(lambda: shared(one, two) and bool(holds(two)))
            ownership = two._ownership
            assert ownership is not None
            token = ownership.session.token
            # As after a SIGSTOP: the others saw it expire.
            await (await bus.transport.bucket("TEST_leases")).delete(f"member.{token}")
            await until(lambda: ownership.session.token != token)
            await until(lambda: shared(one, two) and bool(holds(two)))
            for n in range(100):
                await bus.publish(CartAbandoned(customer_id=f"c{n}", n=n))
            await asyncio.gather(one.caught_up(), two.caught_up())
            assert await check_effects(bus) == 100

    turbo(main())


def test_a_customer_whose_story_is_not_read_yet_holds_no_hand_over_up() -> None:
    class Slow(MemoryTransport):
        gate = asyncio.Event()

        async def read(self, stream: str, filter: str, start: int = 1, limit: int = 0, size: int = 0) -> list[Stored]:
            await self.gate.wait()
            return await super().read(stream, filter, start, limit, size)

    async def main() -> None:
        transport = Slow(VirtualTimers())
        async with bus_on(transport) as bus, Worker(bus, [Scripted()], name="one") as one:
            for n in range(200):
                await bus.publish(CartAbandoned(customer_id=f"c{n}", n=n))
            await until(lambda: all(not partition.idle for partition in one.groups[0].partitions.values()))
            loop = asyncio.get_running_loop()
            begun = loop.time()
            async with Worker(bus, [Scripted()], name="two") as two:
                await until(lambda: shared(one, two) and bool(holds(two)))
                assert loop.time() - begun < 3
                transport.gate.set()
                await asyncio.gather(one.caught_up(), two.caught_up())
                assert await check_effects(bus) == 200

    turbo(main())


def test_a_partition_that_somebody_else_claimed_is_let_go_and_runs_here_once() -> None:
    async def main() -> None:
        transport = MemoryTransport(VirtualTimers())
        async with bus_on(transport) as bus, Worker(bus, [Scripted()], name="one") as one:
            group = one.groups[0]
            await until(lambda: shared(one))
            before = dict(group.partitions)
            bucket = await transport.bucket(bus.namespace.bucket("leases"))
            ghost = {"worker": "ghost", "session": "ghost", "crashes": 0, "suspect": 0}
            for number in (3, 5):
                await bucket.put(f"owner.{group.name}.{number}", json.dumps(ghost).encode())
            await until(lambda: all(before[number].stopped for number in (3, 5)))
            # The ghost does not live, so they come back.
            await until(lambda: shared(one))
            assert [number for number in range(16) if group.partitions[number] is not before[number]] == [3, 5]
            assert {claim["worker"] for claim in (await claims(bus)).values()} == {"one"}
            for n in range(200):
                await bus.publish(CartAbandoned(customer_id=f"c{n % 40}", n=n))
            await one.caught_up()
            assert await check_effects(bus) == 200
            assert group.counters.restarts == 0, "no two flows of one partition"

    turbo(main())


def test_reading_the_bucket_again_undoes_nothing_that_was_told_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        transport = MemoryTransport(VirtualTimers())
        async with bus_on(transport) as bus, Worker(bus, [Scripted()], name="one") as one:
            ownership = one._ownership
            assert ownership is not None
            bucket = await transport.bucket(bus.namespace.bucket("leases"))
            joining = Session(bucket, "two", [one.groups[0].name])
            entries = bucket.entries

            async def slowly(prefix: str = "") -> list[Entry]:
                found = await entries(prefix)
                if not joining.began:
                    await joining.renew()
                    await until(lambda: joining.token in ownership.members)
                return found

            monkeypatch.setattr(bucket, "entries", slowly)
            await ownership._load()
            assert ownership.members.keys() == {joining.token, ownership.session.token}

    turbo(main())


async def test_a_session_lives_as_long_as_it_is_renewed_and_never_comes_back() -> None:
    bucket: Bucket = await MemoryTransport(VirtualTimers()).bucket("TEST_leases")
    session = Session(bucket, "one", ["b", "a"])
    assert session.left == 0 and not session.began
    assert await session.renew() and session.held and 4 < session.left <= 5
    [entry] = await bucket.entries("member.")
    member = read_member(entry)
    assert member is not None and (member.worker, member.groups, member.token) == (
        "one",
        frozenset("ab"),
        session.token,
    )
    assert not member.gone
    session.modes = {"a": 7}
    assert await session.renew()
    [entry] = await bucket.entries("member.")
    assert (read_member(entry) or member).modes == {"a": 7}
    await bucket.delete(entry.key)
    assert not await session.renew()
    assert session.left == 0
    assert not await session.renew(), "its token is dead for ever"
    session.restart()
    assert await session.renew()
    await session.end()
    assert await bucket.entries("member.") == [] and session.left == 0


async def test_a_renewal_whose_answer_was_lost_is_no_lapse() -> None:
    bucket: Bucket = await MemoryTransport(VirtualTimers()).bucket("TEST_leases")
    put = bucket.put
    lost = [True]

    async def forgetful(*arguments: Any, **rest: Any) -> int:
        revision = await put(*arguments, **rest)
        if lost:
            lost.pop()
            raise UnavailableError("the answer was lost")
        return revision

    bucket.put = forgetful  # type: ignore[method-assign]
    session = Session(bucket, "one", ["a"])
    with pytest.raises(UnavailableError):
        await session.renew()
    assert session.left == 0
    assert await session.renew()
    lost.append(True)
    with pytest.raises(UnavailableError):
        await session.renew()
    assert session.held, "it counts as long as before"
    assert await session.renew()


def test_rubbish_among_the_leases_harms_nobody() -> None:
    async def main() -> None:
        transport = MemoryTransport(VirtualTimers())
        async with bus_on(transport) as bus:
            bucket = await bus.transport.bucket("TEST_leases")
            for key in ("member.x", "owner.win.3", "owner.win.x", "owner.win.99", "owner.x", "odd", "member.y"):
                await bucket.put(key, b"\xff rubbish" if key != "member.y" else b'{"worker": 1}')
            async with Worker(bus, [Scripted()]) as worker:
                await until(lambda: shared(worker))
                await bucket.put("owner.win.4", b"[]")
                await bus.publish(CartAbandoned(customer_id="c1", n=1))
                await worker.caught_up()
                assert await check_effects(bus) == 1

    turbo(main())
