"""What one key's events meet: order, state, failures of handlers, timers, and messages that nobody can read."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest

from sojourn.bus.client import Bus
from sojourn.bus.delivery.worker import Worker
from sojourn.bus.envelope import MAX_HOPS
from sojourn.bus.errors import HandlerError, PermanentError, TransientError
from sojourn.bus.ports import Append
from sojourn.bus.processor import NOTHING, CancelTimer, Output, Recorded, Retry, SetTimer, Turn
from tests.bus.delivery.processors import (
    START,
    CartAbandoned,
    DiscountOffered,
    OfferPrinted,
    OrderPlaced,
    Resident,
    Scripted,
    WaitEnded,
    actions,
    check_effects,
    dead,
    log_of,
    memory_bus,
    offer,
    turbo,
    until,
)

Story = Callable[[Bus, Worker], Awaitable[None]]


def run(story: Story, *processors: Scripted, seconds: float = 600) -> None:
    async def main() -> None:
        async with memory_bus() as bus, Worker(bus, processors) as worker:
            await story(bus, worker)

    turbo(main(), seconds=seconds)


async def carts(bus: Bus, *numbers: int, key: str = "c1") -> None:
    for n in numbers:
        await bus.publish(CartAbandoned(customer_id=key, n=n))


async def raw(bus: Bus, subject: str, payload: bytes) -> int:
    """Stores what a program that knows nothing of Sojourn might write."""
    [sequence] = await bus.committer.store(bus.namespace.stream(int(subject.split(".")[2])), [Append(subject, payload)])
    return sequence


def test_each_event_is_answered_once_in_order_and_with_its_state() -> None:
    async def story(bus: Bus, worker: Worker) -> None:
        async with bus.publisher() as publisher:
            for n in range(300):
                await publisher.publish(CartAbandoned(customer_id=f"c{n % 7}", n=n))
        await worker.caught_up()
        assert await check_effects(bus) == 300
        counters = worker.groups[0].counters
        assert (counters.closed, counters.actions, counters.dead, counters.restarts) == (300, 300, 0, 0)

    run(story, Scripted())


def test_the_next_handler_starts_when_the_previous_output_is_durable() -> None:
    running: list[str] = []
    stored: list[int] = []

    async def handle(resident: Resident, turn: Turn) -> Output:
        assert not running, "two handlers of one key at once"
        running.append(resident.key)
        # What the log holds now includes the output for every earlier event.
        stored.append(len(resident.own))
        await asyncio.sleep(0.01)
        running.pop()
        return offer(resident, turn)

    async def story(bus: Bus, worker: Worker) -> None:
        await carts(bus, *range(5))
        await worker.caught_up()
        assert stored == [0, 1, 2, 3, 4]

    run(story, Scripted(handle))


def test_a_slow_key_does_not_hold_others() -> None:
    release: list[asyncio.Future[None]] = []

    async def handle(resident: Resident, turn: Turn) -> Output:
        if resident.key == "slow":
            release.append(asyncio.get_running_loop().create_future())
            await release[0]
        return offer(resident, turn)

    async def story(bus: Bus, worker: Worker) -> None:
        await carts(bus, 1, key="slow")
        for n in range(20):
            await carts(bus, n, key=f"c{n}")

        async def others() -> bool:
            return len(await actions(bus)) == 20

        await until(others)
        release[0].set_result(None)
        await worker.caught_up()
        assert await check_effects(bus) == 21

    run(story, Scripted(handle))


def test_no_more_handlers_at_once_than_allowed() -> None:
    now = highest = 0

    async def handle(resident: Resident, turn: Turn) -> Output:
        nonlocal now, highest
        now += 1
        highest = max(highest, now)
        await asyncio.sleep(0.05)
        now -= 1
        return offer(resident, turn)

    async def main() -> None:
        async with memory_bus() as bus, Worker(bus, [Scripted(handle)], concurrency=5) as worker:
            for n in range(40):
                await carts(bus, n, key=f"c{n}")
            await worker.caught_up()
            assert await check_effects(bus) == 40
            assert highest == 5

    turbo(main())


def test_quick_handlers_share_a_few_tasks() -> None:
    tasks: set[int] = set()

    def handle(resident: Resident, turn: Turn) -> Output:
        tasks.add(id(asyncio.current_task()))
        return offer(resident, turn)

    async def story(bus: Bus, worker: Worker) -> None:
        async with bus.publisher() as publisher:
            for n in range(500):
                await publisher.publish(CartAbandoned(customer_id=f"c{n}", n=n))
        await worker.caught_up()
        assert len(tasks) <= 3

    run(story, Scripted(handle))


# Failures of handlers


def failing(
    error: Callable[[], BaseException], times: int = 10**9
) -> tuple[list[int], Callable[[Resident, Turn], Any]]:
    """A handler that raises so many times for each event, then offers; and the attempts it saw."""
    calls: list[int] = []

    async def handle(resident: Resident, turn: Turn) -> Output:
        calls.append(turn.attempt)
        if calls.count(turn.attempt) and len(calls) <= times:
            raise error()
        return offer(resident, turn)

    return calls, handle


def test_a_transient_error_is_retried_in_place_holding_only_its_key() -> None:
    moments: list[float] = []

    def handle(resident: Resident, turn: Turn) -> Output:
        if resident.key == "c1":
            moments.append(asyncio.get_running_loop().time())
            if turn.attempt < 3:
                raise TransientError("come back")
        return offer(resident, turn)

    async def story(bus: Bus, worker: Worker) -> None:
        await carts(bus, 1, 2)
        await carts(bus, 3, key="other")
        await worker.caught_up()
        assert await check_effects(bus) == 3
        assert await dead(bus) == []
        first, second, third, *_ = moments
        assert 1 <= second - first < 1.6 and 2 <= third - second < 3.1, "waits double, with up to half as jitter"

    run(story, Scripted(handle, retry=Retry(3, timedelta(seconds=1), timedelta(seconds=9))))


def test_exhausted_attempts_end_in_one_dead_letter_that_tells_all() -> None:
    calls, handle = failing(lambda: TransientError("no luck"))

    async def story(bus: Bus, worker: Worker) -> None:
        await carts(bus, 7)
        await worker.caught_up()
        [letter] = await dead(bus)
        assert calls == [1, 2, 3]
        assert letter["reason"] == "no luck" and letter["error"] == "TransientError"
        assert "in handle" in letter["traceback"] and letter["attempts"] == 3 and letter["version"] == 4
        assert letter["type"] == "CartAbandoned" and letter["subject"].endswith(".c1.evt.CartAbandoned")
        assert worker.groups[0].counters.dead == 1
        assert await check_effects(bus, dies=lambda n: n == 7) == 1

    run(story, Scripted(handle, version=4))


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (lambda: PermanentError("never"), "PermanentError"),
        (lambda: ZeroDivisionError("by zero"), "ZeroDivisionError"),
        (lambda: SystemExit(3), "HandlerError"),
        (GeneratorExit, "HandlerError"),
        (lambda: BaseExceptionGroup("several", [SystemExit(1)]), "HandlerError"),
        (lambda: ExceptionGroup("several", [ValueError("one")]), "ExceptionGroup"),
    ],
    ids=["permanent", "any", "exit", "generator", "base group", "group"],
)
def test_what_no_retry_mends_is_a_dead_letter_at_once(error: Callable[[], BaseException], name: str) -> None:
    calls, handle = failing(error, times=1)

    async def story(bus: Bus, worker: Worker) -> None:
        await carts(bus, 1, 2)
        await worker.caught_up()
        [letter] = await dead(bus)
        assert letter["error"] == name
        assert calls == [1, 1]
        assert await check_effects(bus, dies=lambda n: n == 1) == 2

    run(story, Scripted(handle))


@pytest.mark.parametrize("result", [None, 5, "text", [], {"a": 1}, DiscountOffered(customer_id="c1", n=1, seen=1)])
@pytest.mark.parametrize("sync", [True, False])
def test_a_wrong_result_is_a_dead_letter(result: object, sync: bool) -> None:
    def plain(resident: Resident, turn: Turn) -> object:
        return result

    async def waiting(resident: Resident, turn: Turn) -> object:
        return result

    async def story(bus: Bus, worker: Worker) -> None:
        await carts(bus, 1)
        await worker.caught_up()
        [letter] = await dead(bus)
        assert type(result).__name__ in letter["reason"]

    run(story, Scripted(plain if sync else waiting))


@pytest.mark.parametrize(
    "output",
    [
        Output([DiscountOffered(customer_id="c1", n=n, seen=0) for n in range(1001)]),
        Output([DiscountOffered(customer_id="c1", n=1, seen=0, note="x" * 1_100_000)]),
        Output(["no event"]),  # type: ignore[list-item]
        Output(timers=[SetTimer("a.b c", WaitEnded(customer_id="c1", n=1), START)]),
        Output(timers=[SetTimer("", WaitEnded(customer_id="c1", n=1), START)]),
        Output(timers=["no timer"]),  # type: ignore[list-item]
    ],
    ids=["too many", "too large", "no event", "bad timer", "nameless timer", "no timer"],
)
def test_an_output_that_cannot_be_stored_is_a_dead_letter_and_hurts_nobody_else(output: Output) -> None:
    def handle(resident: Resident, turn: Turn) -> Output:
        return output if resident.key == "c1" else offer(resident, turn)

    async def story(bus: Bus, worker: Worker) -> None:
        async with bus.publisher() as publisher:
            for n in range(60):
                await publisher.publish(CartAbandoned(customer_id=f"c{n}", n=n))
        await worker.caught_up()
        assert await check_effects(bus, dies=lambda n: n == 1) == 60

    run(story, Scripted(handle))


def test_a_handler_that_never_ends_is_ended_retried_and_dead_lettered() -> None:
    attempts = 0

    async def handle(resident: Resident, turn: Turn) -> Output:
        nonlocal attempts
        if resident.key == "c1":
            attempts += 1
            await asyncio.Event().wait()
        return offer(resident, turn)

    async def story(bus: Bus, worker: Worker) -> None:
        await carts(bus, 1)
        await carts(bus, 2, key="c2")
        await worker.caught_up()
        [letter] = await dead(bus)
        assert letter["error"] == "TimedOutError" and attempts == 2
        assert "win on CartAbandoned was still running after 5 s" in letter["reason"]
        await carts(bus, 3, key="c3")
        await worker.caught_up()
        assert await check_effects(bus, dies=lambda n: n == 1) == 3

    run(story, Scripted(handle, timeout=5, retry=Retry(2, timedelta(seconds=1))))


def test_a_handler_that_swallows_its_cancellation_does_not_confuse_the_next_one() -> None:
    async def handle(resident: Resident, turn: Turn) -> Output:
        if resident.key == "c1":
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                return offer(resident, turn, "late")
        # A task group looks at the requests to cancel that its task has got so far.
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(asyncio.sleep(1))
                tasks.create_task(_raise(ValueError()))
        except* ValueError:
            pass
        async with asyncio.timeout(10):
            await asyncio.sleep(0.01)
        return offer(resident, turn)

    async def story(bus: Bus, worker: Worker) -> None:
        await carts(bus, 1)
        await worker.caught_up()
        await carts(bus, 2, key="c2")
        await worker.caught_up()
        assert [action["data"]["note"] for action in await actions(bus)] == ["late", ""]

    run(story, Scripted(handle, timeout=2))


async def _raise(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize("itself", [True, False])
def test_a_cancellation_from_within_is_retried_like_any_passing_failure(itself: bool) -> None:
    async def handle(resident: Resident, turn: Turn) -> Output:
        if turn.attempt == 1:
            if itself:
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
                await asyncio.sleep(0)
            other = asyncio.get_running_loop().create_future()
            other.cancel()
            await other
        return offer(resident, turn)

    async def story(bus: Bus, worker: Worker) -> None:
        await carts(bus, 1, 2)
        await worker.caught_up()
        assert await check_effects(bus) == 2

    run(story, Scripted(handle))


def test_two_agents_that_trigger_each_other_end_in_a_dead_letter() -> None:
    def ping(resident: Resident, turn: Turn) -> Output:
        return Output([OfferPrinted(customer_id=resident.key, n=turn.recorded.sequence)])

    def pong(resident: Resident, turn: Turn) -> Output:
        return Output([DiscountOffered(customer_id=resident.key, n=turn.recorded.sequence, seen=0)])

    async def story(bus: Bus, worker: Worker) -> None:
        await carts(bus, 1)
        await worker.caught_up()
        letters = await dead(bus, "*")
        assert len(letters) == 1 and "circle" in letters[0]["reason"]
        assert len(await actions(bus, "*")) == MAX_HOPS + 1

    run(
        story,
        Scripted(ping, writer="ping", handles=(CartAbandoned, DiscountOffered), folds=(), publishes=(OfferPrinted,)),
        Scripted(pong, writer="pong", handles=(OfferPrinted,), folds=(), publishes=(DiscountOffered,)),
    )


@pytest.mark.parametrize("error", [ZeroDivisionError("odd"), PermanentError("odd"), TimeoutError("odd")])
def test_a_fold_that_fails_is_one_dead_letter_and_the_state_goes_on_without_it(error: Exception) -> None:
    handled: list[int] = []

    def fold(recorded: Recorded) -> None:
        if getattr(recorded.envelope.event, "n", 0) == 2:
            raise error

    def handle(resident: Resident, turn: Turn) -> Output:
        assert isinstance(turn.recorded.envelope.event, CartAbandoned)
        handled.append(turn.recorded.envelope.event.n)
        return Output([OfferPrinted(customer_id=resident.key, n=handled[-1], seen=resident.seen(CartAbandoned))])

    async def story(bus: Bus, worker: Worker) -> None:
        await carts(bus, 1, 2, 3)
        await worker.caught_up()
        for partition in worker.groups[0].partitions.values():
            partition.restart("so that the state is loaded anew")
        await carts(bus, 4)
        await worker.caught_up()
        assert handled == [1, 3, 4]
        assert [d["data"]["seen"] for d in await actions(bus)] == [1, 2, 3]
        [letter] = await dead(bus)
        assert "odd" in letter["reason"]

    run(story, Scripted(handle, on_fold=fold, publishes=(OfferPrinted,)))


def test_a_dead_letter_of_the_fold_is_not_repeated_when_its_event_comes_again() -> None:
    def fold(recorded: Recorded) -> None:
        raise ValueError("odd")

    async def main() -> None:
        async with memory_bus() as bus:
            for _ in range(3):
                async with Worker(bus, [Scripted(on_fold=fold, start="beginning")]) as worker:
                    for partition in worker.groups[0].partitions.values():
                        # As if no ack had ever reached the server.
                        assert partition._consumption is not None
                        partition._consumption.ack = lambda token: None  # type: ignore[method-assign]
                    await carts(bus, 1)
                    await worker.caught_up()
            assert [letter["cause"] for letter in await dead(bus)] == sorted({d["cause"] for d in await dead(bus)})
            assert len(await dead(bus)) == 3

    turbo(main())


def test_an_own_action_that_cannot_be_folded_does_not_hold_the_key() -> None:
    def fold(recorded: Recorded) -> None:
        if recorded.writer == "win":
            raise ValueError("odd")

    async def story(bus: Bus, worker: Worker) -> None:
        await carts(bus, 1, 2)
        await worker.caught_up()
        assert len(await actions(bus)) == 2

    run(story, Scripted(on_fold=fold))


# Groups of several processors


def test_members_of_a_group_each_close_an_event_and_see_each_other() -> None:
    def printer(resident: Resident, turn: Turn) -> Output:
        event = turn.recorded.envelope.event
        assert isinstance(event, DiscountOffered)
        return Output([OfferPrinted(customer_id=resident.key, n=event.n)])

    async def story(bus: Bus, worker: Worker) -> None:
        await carts(bus, *range(10))
        await worker.caught_up()
        assert [d["data"]["n"] for d in await actions(bus, "win")] == list(range(10))
        assert [d["data"]["n"] for d in await actions(bus, "printer")] == list(range(10))
        assert worker.groups[0].name == "light" and len(worker.groups) == 1

    run(
        story,
        Scripted(group="light"),
        Scripted(printer, writer="printer", group="light", handles=(DiscountOffered,), publishes=(OfferPrinted,)),
    )


def test_a_failure_of_one_member_is_not_the_other_ones() -> None:
    def bad(resident: Resident, turn: Turn) -> Output:
        raise HandlerError("bad")

    async def story(bus: Bus, worker: Worker) -> None:
        await carts(bus, 1, 2)
        await worker.caught_up()
        assert await check_effects(bus, "win") == 2
        assert len(await dead(bus, "bad")) == 2 and await dead(bus, "win") == []

    run(story, Scripted(group="light"), Scripted(bad, writer="bad", group="light"))


def test_a_reset_between_the_outputs_of_two_members_doubles_neither() -> None:
    reached: list[int] = []

    async def second(resident: Resident, turn: Turn) -> Output:
        if not reached:
            reached.append(1)
            await asyncio.Event().wait()
        return offer(resident, turn)

    async def story(bus: Bus, worker: Worker) -> None:
        await carts(bus, 1)
        await until(lambda: bool(reached))
        for partition in worker.groups[0].partitions.values():
            partition.restart("test")
        await carts(bus, 2)
        await worker.caught_up()
        assert await check_effects(bus, "win") == await check_effects(bus, "late") == 2

    run(story, Scripted(group="light"), Scripted(second, writer="late", group="light"))


# Timers


async def fire(bus: Bus, times: int = 1, until_day: int = 365) -> int:
    """Stores what is due, each so many times, as a server that crashed may."""
    due = bus.transport._timers.pop_due(START + timedelta(days=until_day))  # type: ignore[attr-defined]
    for timer in due:
        for _ in range(times):
            await bus.committer.store(timer.stream, [Append(timer.target, timer.payload)])
    return len(due)


def reminding(resident: Resident, turn: Turn) -> Output:
    event = turn.recorded.envelope.event
    match event:
        case CartAbandoned():
            wait = SetTimer("wait", WaitEnded(customer_id=resident.key, n=event.n), START + timedelta(days=event.n))
            return Output(timers=[wait])
        case OrderPlaced():
            return Output(timers=[CancelTimer("wait")])
        case WaitEnded():
            return offer(resident, turn)
    return NOTHING


def timers(*, handle: Callable[[Resident, Turn], Any] = reminding) -> Scripted:
    return Scripted(handle, handles=(CartAbandoned, OrderPlaced, WaitEnded))


def test_a_timer_that_fires_twice_is_handled_once() -> None:
    async def story(bus: Bus, worker: Worker) -> None:
        await carts(bus, 3)
        await worker.caught_up()
        assert await fire(bus, times=2) == 1
        await worker.caught_up()
        assert [d["data"]["n"] for d in await actions(bus)] == [3]
        assert worker.groups[0].counters.stale_timers == 1

    run(story, timers())


def test_a_timer_set_again_replaces_the_first_even_where_both_fire() -> None:
    async def story(bus: Bus, worker: Worker) -> None:
        await carts(bus, 3)
        await worker.caught_up()
        [first] = bus.transport._timers.pop_due(START + timedelta(days=9))  # type: ignore[attr-defined]
        await carts(bus, 5)
        await worker.caught_up()
        await bus.committer.store(first.stream, [Append(first.target, first.payload)])
        await worker.caught_up()
        assert await actions(bus) == []
        await fire(bus)
        await worker.caught_up()
        assert [d["data"]["n"] for d in await actions(bus)] == [5]

    run(story, timers())


@pytest.mark.parametrize("purchase_first", [True, False])
def test_a_purchase_and_a_timer_at_the_same_moment_have_one_right_effect(purchase_first: bool) -> None:
    async def story(bus: Bus, worker: Worker) -> None:
        await carts(bus, 3)
        await worker.caught_up()
        [due] = bus.transport._timers.pop_due(START + timedelta(days=9))  # type: ignore[attr-defined]
        fired = bus.committer.store(due.stream, [Append(due.target, due.payload)])
        bought = bus.publish(OrderPlaced(customer_id="c1", n=1))
        await asyncio.gather(*((bought, fired) if purchase_first else (fired, bought)))
        await worker.caught_up()
        assert len(await actions(bus)) == (0 if purchase_first else 1)
        assert await fire(bus) == 0

    run(story, timers())


def test_a_timer_set_again_while_it_is_handled_lives_on() -> None:
    def handle(resident: Resident, turn: Turn) -> Output:
        event = turn.recorded.envelope.event
        assert isinstance(event, CartAbandoned | WaitEnded)
        if event.n > 3:
            return offer(resident, turn)
        at = START + timedelta(days=event.n + 1)
        return Output(timers=[SetTimer("wait", WaitEnded(customer_id=resident.key, n=event.n + 1), at)])

    async def story(bus: Bus, worker: Worker) -> None:
        await carts(bus, 1)
        await worker.caught_up()
        rounds = 0
        while await fire(bus, times=2):
            rounds += 1
            await worker.caught_up()
        assert rounds == 3 and [d["data"]["n"] for d in await actions(bus)] == [4]

    run(story, timers(handle=handle))


def test_a_timers_failure_closes_the_timer() -> None:
    open_after: list[object] = []

    def handle(resident: Resident, turn: Turn) -> Output:
        if isinstance(turn.recorded.envelope.event, WaitEnded):
            raise PermanentError("no")
        open_after.append(turn.timer("wait"))
        return reminding(resident, turn) if not isinstance(turn.recorded.envelope.event, OrderPlaced) else NOTHING

    async def story(bus: Bus, worker: Worker) -> None:
        await carts(bus, 3)
        await worker.caught_up()
        await fire(bus, times=2)
        await worker.caught_up()
        assert len(await dead(bus)) == 1
        await bus.publish(OrderPlaced(customer_id="c1", n=1))
        await worker.caught_up()
        assert open_after == [None, None]

    run(story, timers(handle=handle))


def test_a_timer_whose_type_the_new_code_does_not_know_is_closed_by_its_dead_letter() -> None:
    seen: list[object] = []

    def handle(resident: Resident, turn: Turn) -> Output:
        seen.append(turn.timer("wait"))
        return NOTHING

    async def main() -> None:
        async with memory_bus() as bus:
            async with Worker(bus, [timers()]) as worker:
                await carts(bus, 3)
                await worker.caught_up()
            async with Worker(bus, [Scripted(handle)]) as worker:
                await fire(bus)
                await worker.caught_up()
                [letter] = await dead(bus)
                assert letter["error"] == "UnknownTypeError"
                await carts(bus, 4)
                await worker.caught_up()
                assert seen == [None]

    turbo(main())


# What others write


def partition_of(bus: Bus, key: str = "c1") -> int:
    return bus.namespace.locate(key).partition


@pytest.mark.parametrize(
    "subject",
    [
        "test.log.{p}.c1.evt.CartAbandoned",
        "test.log.{other}.c1.evt.CartAbandoned",
        "test.log.{p}.=zz.evt.CartAbandoned",
        "test.log.{p}.ключ.evt.CartAbandoned",
        "test.log.{p}." + "x" * 3400 + ".evt.CartAbandoned",
    ],
    ids=["garbage", "partition", "escape", "unicode", "long"],
)
@pytest.mark.parametrize("payload", [b"\xff\x00 no json", b"", b"[]", b'{"specversion":"1.0"}', b"null"])
def test_what_nobody_can_read_is_a_dead_letter_and_the_flow_goes_on(subject: str, payload: bytes) -> None:
    async def story(bus: Bus, worker: Worker) -> None:
        p = partition_of(bus)
        await carts(bus, 1)
        cause = await raw(bus, subject.format(p=p, other=1 - p), payload)
        await carts(bus, 2)
        await worker.caught_up()
        assert [letter["cause"] for letter in await dead(bus)] == [cause]
        assert [d["data"]["n"] for d in await actions(bus)] == [1, 2]

    run(story, Scripted())


def test_many_keys_that_are_none_share_a_lane_and_each_has_its_dead_letter() -> None:
    async def story(bus: Bus, worker: Worker) -> None:
        causes = [await raw(bus, f"test.log.1.=z{n}.evt.CartAbandoned", b"x") for n in range(30)]
        await worker.caught_up()
        for partition in worker.groups[0].partitions.values():
            partition.restart("test")
        causes += [await raw(bus, f"test.log.1.=z{n}.evt.CartAbandoned", b"x") for n in range(30)]
        await worker.caught_up()
        assert [letter["cause"] for letter in await dead(bus)] == causes

    run(story, Scripted())


def test_a_valid_document_in_the_wrong_place_is_a_dead_letter() -> None:
    async def story(bus: Bus, worker: Worker) -> None:
        await carts(bus, 1)
        p = partition_of(bus)
        [message] = await log_of(bus.transport, bus.namespace, "log.*.c1.evt.CartAbandoned")
        others_key = await raw(bus, f"test.log.{partition_of(bus, 'c9')}.c9.evt.CartAbandoned", message.payload)
        partition = await raw(bus, f"test.log.{1 - p}.c1.evt.CartAbandoned", message.payload)
        renamed = message.payload.replace(b"CartAbandoned", b"OrderPlaced")
        other_type = await raw(bus, f"test.log.{p}.c1.evt.CartAbandoned", renamed)
        newer = message.payload.replace(b'"schemaversion":1', b'"schemaversion":7')
        version = await raw(bus, f"test.log.{p}.c1.evt.CartAbandoned", newer)
        await worker.caught_up()
        letters = {letter["cause"]: letter for letter in await dead(bus)}
        assert sorted(letters) == sorted([others_key, partition, other_type, version])
        assert "belongs to partition" in letters[partition]["reason"]
        assert letters[version]["error"] == "UnknownTypeError"

    run(story, Scripted())


@pytest.mark.parametrize("tail", ["evt", "act", "act.win", "evt.due", "evt.due.win", "x", "evt.CartAbandoned.more"])
def test_odd_subjects_do_no_harm(tail: str) -> None:
    async def story(bus: Bus, worker: Worker) -> None:
        await raw(bus, f"test.log.{partition_of(bus)}.c1.{tail}", b"x")
        await raw(bus, f"test.log.{partition_of(bus)}.{tail.partition('.')[0]}", b"x")
        await carts(bus, 1)
        await worker.caught_up()
        assert len(await actions(bus)) == 1

    run(story, Scripted(), Scripted(lambda r, t: NOTHING, writer="reader", handles=(DiscountOffered,)))


@pytest.mark.parametrize("payload", [b"\xff", b"", b"[]", b"{}", b'{"kind":"out"}', b'{"kind":"dead","cause":"x"}'])
@pytest.mark.parametrize("resident", [True, False])
def test_junk_in_a_lane_does_not_wedge_the_key(payload: bytes, resident: bool) -> None:
    async def story(bus: Bus, worker: Worker) -> None:
        p = partition_of(bus)
        if resident:
            await carts(bus, 1)
            await worker.caught_up()
        for subject in (
            "lane.{}.c1.act.win.out",
            "log.{}.c1.act.win.DiscountOffered",
            "lane.{}.c1.act.win",
            "lane.{}.c1.x",
        ):
            await raw(bus, f"test.{subject.format(p)}", payload)
        await carts(bus, 2, 3)
        await worker.caught_up()
        valid = [d for d in await _read_actions(bus) if d]
        assert [d["data"]["n"] for d in valid] == ([1] if resident else []) + [2, 3]
        assert await _letters(bus) == 0

    run(story, Scripted())


async def _read_actions(bus: Bus) -> list[dict[str, Any]]:
    found = []
    for message in await log_of(bus.transport, bus.namespace, "log.*.*.act.win.*"):
        try:
            document = json.loads(message.payload)
        except ValueError:
            continue
        found.append(document if isinstance(document, dict) and "data" in document else {})
    return found


async def _letters(bus: Bus) -> int:
    return len(await log_of(bus.transport, bus.namespace, "lane.*.*.act.win.dead"))


def test_a_lane_record_from_the_future_does_not_silence_the_key() -> None:
    async def story(bus: Bus, worker: Worker) -> None:
        record = {"kind": "out", "cause": 10**9, "generation": 0, "timers": {}}
        await raw(bus, f"test.lane.{partition_of(bus)}.c1.act.win.out", json.dumps(record).encode())
        await carts(bus, 1)
        await worker.caught_up()
        assert len(await actions(bus)) == 1

    run(story, Scripted())


def test_in_a_shared_group_only_the_concerned_get_a_dead_letter() -> None:
    async def story(bus: Bus, worker: Worker) -> None:
        await raw(bus, f"test.log.{partition_of(bus)}.c1.evt.OrderPlaced", b"junk")
        await raw(bus, f"test.log.{partition_of(bus)}.c1.evt.due.orders.wait", b"junk")
        await worker.caught_up()
        assert len(await dead(bus, "orders")) == 2 and await dead(bus, "win") == []

    orders = Scripted(writer="orders", group="light", handles=(OrderPlaced,), folds=())
    run(story, Scripted(group="light"), orders)


def test_a_message_removed_after_its_delivery_does_not_hold_the_key() -> None:
    async def story(bus: Bus, worker: Worker) -> None:
        published = await bus.publish(CartAbandoned(customer_id="c1", n=1))
        for partition in worker.groups[0].partitions.values():
            partition.restart("so that nothing is in memory")
        await bus.transport.delete_messages(published.stream, [published.sequence])
        await carts(bus, 2)
        await worker.caught_up()
        assert 2 in [d["data"]["n"] for d in await actions(bus)]

    run(story, Scripted())


# Memory


def test_idle_keys_are_evicted_and_come_back_as_they_were() -> None:
    opened: list[str] = []

    class Counting(Scripted):
        def open(self, key: str) -> Resident:
            opened.append(key)
            return super().open(key)

    async def story(bus: Bus, worker: Worker) -> None:
        worker.groups[0].resident_limit = 2
        for n in range(60):
            await carts(bus, n, key=f"c{n % 10}")
            await worker.caught_up()
        assert await check_effects(bus) == 60
        assert len(opened) == 60
        assert all(len(partition._keys) <= 2 for partition in worker.groups[0].partitions.values())

    run(story, Counting())
