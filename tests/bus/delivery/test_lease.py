from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from sojourn.bus.clock import VirtualClock
from sojourn.bus.delivery import lease as module
from sojourn.bus.delivery.lease import Lease
from sojourn.bus.errors import TimedOutError, UnavailableError
from sojourn.bus.memory import MemoryTransport
from sojourn.bus.ports import Bucket
from sojourn.bus.timers import VirtualTimers
from tests.bus.delivery.processors import START


class Time:
    """The server's clock and this machine's, which run alike."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock = VirtualClock(START)
        self.passed = 1000.0
        monkeypatch.setattr(module, "monotonic", lambda: self.passed)

    def pass_(self, seconds: float) -> None:
        self.passed += seconds
        self.clock.advance_to(self.clock.now() + timedelta(seconds=seconds))


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    return Time(monkeypatch)


@pytest.fixture
async def bucket(time: Time) -> Bucket:
    return await MemoryTransport(VirtualTimers(), clock=time.clock).bucket("TEST_leases")


async def test_one_holds_it_the_other_learns_who(bucket: Bucket, time: Time) -> None:
    one, two = Lease(bucket, "group.a", "one"), Lease(bucket, "group.a", "two")
    assert await one.acquire() and one.held
    assert not await two.acquire() and not two.held and two.holder == "one"
    await one.release()
    assert one.left == 0
    assert await two.acquire() and two.holder is None


async def test_it_is_renewed_from_before_the_renewal_was_sent(bucket: Bucket, time: Time) -> None:
    lease = Lease(bucket, "group.a", "one", ttl=5)
    put = bucket.put

    async def slow(*arguments: Any, **rest: Any) -> int:
        revision = await put(*arguments, **rest)
        time.pass_(2)
        return revision

    bucket.put = slow  # type: ignore[method-assign]
    assert await lease.acquire()
    assert lease.left == 3
    time.pass_(2)
    assert await lease.acquire()
    assert lease.left == 3
    time.pass_(3)
    assert not lease.held and lease.left == 0


async def test_it_is_free_once_it_expired_and_lost_for_its_old_owner(bucket: Bucket, time: Time) -> None:
    one, two = Lease(bucket, "group.a", "one", ttl=5), Lease(bucket, "group.a", "two", ttl=5)
    assert await one.acquire()
    time.pass_(4)
    assert not await two.acquire()
    time.pass_(1.01)
    assert await two.acquire()
    assert not await one.acquire() and one.holder == "two"
    await one.release()
    assert await two.acquire(), "a release by the old owner changes nothing"


async def test_of_two_at_the_same_moment_one_wins(bucket: Bucket, time: Time) -> None:
    one, two = Lease(bucket, "group.a", "one"), Lease(bucket, "group.a", "two")
    get = bucket.get

    async def overtaken(key: str) -> Any:
        entry = await get(key)
        bucket.get = get  # type: ignore[method-assign]
        assert await two.acquire()
        return entry

    bucket.get = overtaken  # type: ignore[method-assign]
    assert not await one.acquire()
    assert two.held and not one.held


@pytest.mark.parametrize("stored", [True, False])
async def test_a_lost_answer_does_not_lose_the_lease(bucket: Bucket, time: Time, stored: bool) -> None:
    lease, other = Lease(bucket, "group.a", "one", ttl=5), Lease(bucket, "group.a", "two", ttl=5)
    assert await lease.acquire()
    put = bucket.put

    async def lost(*arguments: Any, **rest: Any) -> int:
        if stored:
            await put(*arguments, **rest)
        raise TimedOutError("no answer")

    bucket.put = lost  # type: ignore[method-assign]
    time.pass_(1)
    with pytest.raises(TimedOutError):
        await lease.acquire()
    assert lease.left == 4, "what is not confirmed does not count"
    bucket.put = put  # type: ignore[method-assign]
    assert await lease.acquire() and lease.left == 5
    assert not await other.acquire()


async def test_it_is_given_back_even_if_the_answer_to_the_last_renewal_was_lost(bucket: Bucket, time: Time) -> None:
    lease = Lease(bucket, "group.a", "one")
    put = bucket.put

    async def lost(*arguments: Any, **rest: Any) -> int:
        await put(*arguments, **rest)
        raise TimedOutError("no answer")

    bucket.put = lost  # type: ignore[method-assign]
    with pytest.raises(TimedOutError):
        await lease.acquire()
    await lease.release()
    assert await bucket.entries() == []


async def test_giving_back_never_raises(bucket: Bucket, time: Time) -> None:
    lease = Lease(bucket, "group.a", "one")
    assert await lease.acquire()

    async def down(*arguments: Any, **rest: Any) -> None:
        raise UnavailableError("no server")

    bucket.delete = down  # type: ignore[method-assign]
    await lease.release()
    assert not lease.held


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
@pytest.mark.parametrize("reaped", [True, False])
async def test_the_lease_of_a_killed_process_of_this_machine_is_free_at_once(
    bucket: Bucket, time: Time, reaped: bool
) -> None:
    code = (
        "import time; from sojourn.bus.delivery.lease import Lease; "
        "print(Lease(None, 'k', 'gone')._value.decode(), flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout is not None
    await bucket.put("group.a", process.stdout.readline().strip(), ttl=5)
    mine = Lease(bucket, "group.a", "mine")
    assert not await mine.acquire() and mine.holder == "gone"
    process.kill()
    if reaped:
        process.wait()
    else:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert await mine.acquire()
    process.wait()
    process.stdout.close()


@pytest.mark.parametrize(
    "change",
    [lambda d: d | {"host": "elsewhere", "pid": 2**22 + 5}, lambda d: {"owner": "odd"}, lambda d: ["odd"]],
    ids=["another machine", "no process", "no object"],
)
async def test_any_other_lease_is_free_when_it_expires(
    bucket: Bucket, time: Time, change: Callable[[Any], object]
) -> None:
    document = json.loads(Lease(bucket, "group.a", "x")._value)
    await bucket.put("group.a", json.dumps(change(document)).encode(), ttl=5)
    lease = Lease(bucket, "group.a", "mine")
    assert not await lease.acquire()
    time.pass_(5.1)
    assert await lease.acquire()


async def test_a_lease_that_nobody_can_read_is_respected_until_it_expires(bucket: Bucket, time: Time) -> None:
    await bucket.put("group.a", b"\xff", ttl=5)
    lease = Lease(bucket, "group.a", "mine")
    assert not await lease.acquire()
    time.pass_(5.1)
    assert await lease.acquire()


async def test_a_process_id_that_was_given_again_is_another_process(bucket: Bucket, time: Time) -> None:
    document = json.loads(Lease(bucket, "group.a", "x")._value)
    if document["born"] is None:
        pytest.skip("needs /proc")
    document["born"] -= 1
    await bucket.put("group.a", json.dumps(document).encode(), ttl=5)
    assert await Lease(bucket, "group.a", "mine").acquire()
