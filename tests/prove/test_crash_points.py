"""A worker that dies or freezes at any of the named places: each event has one effect all the same."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from sojourn.bus import crashpoints
from tests.faults.proxy import Proxy
from tests.nats_server import NatsServer
from tests.prove.keeping import SERVER, keep
from tests.prove.points import crash, crash_redriving, crash_relaying, stage

TWICE = ("before_commit:20", "before_commit:5")
"""Two workers in a row die in the middle of their work: what they had in flight is under suspicion from then on."""


TAKEN_OVER = 20.0
"""Seconds within which another worker has taken over from one that is frozen and has handled what waited: the session's
five, and what a busy machine takes."""


How = Callable[[NatsServer, Path, str, Sequence[str]], Awaitable[None]]


class Where:
    """How a crash point is come by. ``few`` and ``many``: at which of its turns; ``before``: what has to go wrong
    first; ``how`` it is run, where it is not by a worker with the escort."""

    def __init__(
        self,
        few: tuple[int, ...],
        many: tuple[int, ...],
        *,
        module: str = "tests.prove.escort",
        before: tuple[str, ...] = (),
        joined: bool = False,
        customers: int = 20,
        how: How | None = None,
    ) -> None:
        self.few, self.many, self.how = few, many, how
        self.module, self.before, self.joined, self.customers = module, before, joined, customers


HOT = (1, 2, 3, 5, 8, 13, 21, 34, 55)
POINTS: dict[crashpoints.Point, Where] = {
    crashpoints.BEFORE_COMMIT: Where((1, 30), HOT),
    crashpoints.AFTER_COMMIT: Where((1, 30), HOT),
    crashpoints.BEFORE_ACK: Where((1, 30), HOT),
    crashpoints.IN_HANDOVER: Where((1, 5), (1, 2, 3, 5, 8), joined=True),
    crashpoints.AFTER_CLAIM: Where((1, 17), (1, 2, 8, 16, 31, 32)),
    crashpoints.IN_RENEWAL: Where((1, 2), (1, 2, 3, 4)),
    crashpoints.BEFORE_ONCE: Where((1, 30), HOT, module="tests.prove.errand"),
    crashpoints.AFTER_ONCE: Where((1, 30), HOT, module="tests.prove.errand"),
    crashpoints.IN_PARK: Where((1, 2), (1, 2, 3), customers=4),
    crashpoints.IN_UNPARK: Where((1, 2), (1, 2, 3), customers=4),
    crashpoints.BEFORE_ATTEMPT: Where((1, 2), (1, 2, 3, 5), before=TWICE),
    crashpoints.AFTER_ATTEMPT: Where((1, 2), (1, 2, 3, 5), before=TWICE),
    crashpoints.IN_RELAY: Where((1,), (1, 2, 3, 9, 30), how=crash_relaying),
    crashpoints.IN_REDRIVE: Where((1, 300), (1, 2, 64, 65, 128, 300, 599, 600), how=crash_redriving),
}


@pytest.fixture(scope="module")
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    server = NatsServer(tmp_path_factory.mktemp("points")).start()
    yield server
    server.stop()


def test_every_declared_point_is_armed() -> None:
    assert set(POINTS) == set(crashpoints.POINTS)


async def test_a_kill_at_every_point(own_server: NatsServer, tmp_path: Path) -> None:
    await _kill({point: where.few for point, where in POINTS.items()}, own_server, tmp_path)


@pytest.mark.prove
async def test_a_kill_at_every_point_in_every_position(own_server: NatsServer, tmp_path: Path) -> None:
    started = time.monotonic()
    plan = {point: where.many for point, where in POINTS.items()}
    await _kill(plan, own_server, tmp_path)
    keep(
        "crash_points",
        {
            "server": SERVER,
            "killed_at": {point: list(turns) for point, turns in plan.items()},
            "clean": True,  # it would have ended above
            "seconds": round(time.monotonic() - started, 1),
        },
    )


async def _kill(plan: Mapping[crashpoints.Point, Sequence[int]], server: NatsServer, folder: Path) -> None:
    """Each of them in a namespace of its own, as many at a time as a small machine has room for."""
    room = asyncio.Semaphore(4)

    async def kill(point: crashpoints.Point, turn: int) -> None:
        where = POINTS[point]
        async with room:
            namespace = f"{point}-{turn}-{len(plan[point])}".replace("_", "-")
            armed = (*where.before, f"{point}:{turn}")
            try:
                if where.how is not None:
                    await where.how(server, folder, namespace, armed)
                    return
                await crash(
                    server,
                    folder,
                    namespace,
                    armed,
                    module=where.module,
                    joined=where.joined,
                    customers=where.customers,
                )
            except Exception as error:
                error.add_note(f"killed at {point}, the {turn}. time")
                raise

    kills = [kill(point, turn) for point, turns in plan.items() for turn in turns]
    outcomes = await asyncio.gather(*kills, return_exceptions=True)
    failed = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
    if failed:
        raise ExceptionGroup(f"{len(failed)} of {len(kills)} crashes did harm", failed)


async def test_a_worker_frozen_before_its_commit_past_its_lease_changes_nothing(
    own_server: NatsServer, tmp_path: Path
) -> None:
    async with Proxy(own_server.port) as proxy, stage(own_server, tmp_path, "zombie") as there:
        await there.publish(160)
        zombie = there.start("before_commit:20:stop", url=proxy.url)
        await zombie.frozen(30)
        there.start()
        # The other one has to wait for the end of the lease, and then handles what the frozen one was about to store.
        await there.handled(TAKEN_OVER)
        stored = await there.messages()
        refused = asyncio.Event()
        # What the server answers to an append to the log that it refuses: an error, then the stream.
        proxy.when("down", b'},"stream":"ZOMBIE_', lambda _: refused.set())
        zombie.resume()
        async with asyncio.timeout(20):
            await refused.wait()
        await zombie.ready()
        assert await there.messages() == stored
        await there.publish(60)
        await there.handled()
        await there.check()
