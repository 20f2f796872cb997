"""A town: several workers on one twin, each with its own line to it, and everything that may happen to them."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar, cast

import pytest
import structlog

from sojourn.bus.client import Bus, open_bus
from sojourn.bus.clock import Clock
from sojourn.bus.deadletters import DeadLetter, Selection, dead_letters
from sojourn.bus.delivery import group as groups
from sojourn.bus.delivery import handling, lease, ownership, pages, session, waking
from sojourn.bus.delivery import worker as workers
from sojourn.bus.delivery.worker import Worker
from sojourn.bus.errors import PermanentError, TransientError
from sojourn.bus.memory import MemoryTransport
from sojourn.bus.ports import Append, Stored, Transport
from sojourn.bus.processor import CancelTimer, Output, Retry, SetTimer, Turn
from sojourn.bus.redrive import drop, redrive
from sojourn.bus.timers import DueTimer, VirtualTimers
from tests.bus.delivery.machine_line import Line, LoopClock, Server
from tests.bus.delivery.machine_model import Plan, check
from tests.bus.delivery.processors import (
    NARROW,
    CartAbandoned,
    DiscountOffered,
    Faults,
    OfferPrinted,
    Resident,
    Scripted,
    Turbo,
    WaitEnded,
    log_of,
    offer,
)

T = TypeVar("T")

WRITERS = ("win", "mild", "firm")
"""``win`` is a group of its own; the others share one, and ``firm`` parks what it cannot handle."""

CUSTOMERS = ("c0", "c1", "c2", "c3", "c4", "c5")
RETRY = Retry(1_000, timedelta(milliseconds=50), timedelta(seconds=20))
QUIET = 900.0
"""Seconds after which whatever was to happen has happened."""


@dataclass
class Hand:
    """A worker, with all that its process has."""

    name: str
    line: Line
    stack: AsyncExitStack
    worker: Worker
    bus: Bus
    frozen: bool = False


@dataclass
class Hush:
    """A group that was paused, as everybody acknowledged: how much its lanes held then."""

    stored: int | None


class Town:
    """Everything in one event loop, whose time passes only while it is waited for. Bounds are small, so that a few
    events meet them."""

    def __init__(self, seed: int = 0) -> None:
        self.plans: dict[int, Plan] = {}
        self.calls: Counter[tuple[str, int]] = Counter()
        self.hands: list[Hand] = []
        self.fired: list[DueTimer] = []
        self.hushed: dict[str, Hush] = {}
        self.down = False
        self.broken: list[str] = []
        self.trickles: list[asyncio.Task[None]] = []
        self._born = 0
        self._drawn = 0
        self._patches = pytest.MonkeyPatch()
        self._logs = structlog.get_config()
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
        self._runner = asyncio.Runner(loop_factory=Turbo)
        loop = self._runner.get_loop()
        loop.set_exception_handler(lambda loop, context: self.broken.append(str(context)))
        self._shrink(loop)
        self.timers = VirtualTimers()
        self.faults = Faults(seed)
        self.faults.on = False
        self.clock = LoopClock(loop)
        self.server = Server(self.faults, self.timers, self.clock)
        self._stack = AsyncExitStack()
        self.run(self._open())

    def _shrink(self, loop: asyncio.AbstractEventLoop) -> None:
        patch = self._patches.setattr
        for module in (groups, handling, lease, ownership, session):
            patch(module, "monotonic", loop.time)
        patch(waking, "CROWD", 5)
        # So that wake-ups come while their customers catch up.
        patch(waking, "SAFETY", timedelta(seconds=0.6))
        patch(pages, "PAGE", 4)
        patch(groups, "MAX_ACK_PENDING", 60)
        patch(handling, "PATIENCE", 0.3)
        # Of the machine's own time, which does not count here; and of names that would differ each time.
        patch(workers, "Watchdog", lambda runners: contextlib.nullcontext())
        patch(session, "secrets", self)

    def token_hex(self, length: int) -> str:
        """In place of chance, for the names of sessions."""
        self._drawn += 1
        return f"{self._drawn:0{length * 2}x}"

    def run(self, what: Awaitable[T], seconds: float = 2 * QUIET) -> T:
        async def limited() -> T:
            async with asyncio.timeout(seconds):
                return await what

        result = self._runner.run(limited())
        assert not self.broken, self.broken
        return result

    async def _open(self) -> None:
        enter = self._stack.enter_async_context
        line = cast("Transport", Line(self.server, reliable=True))
        self.bus = await enter(open_bus(line, NARROW, clock=cast("Clock", self.clock)))
        self._serving = asyncio.create_task(self._serve())
        await self.hire()

    async def close(self) -> None:
        for task in (self._serving, *self.trickles):
            task.cancel()
        for hand in list(self.hands):
            await self.kill(hand)
        await self._stack.aclose()

    def end(self) -> None:
        """Leaves nothing behind, whatever happened."""
        try:
            self._runner.run(self.close())
        finally:
            self._runner.close()
            self._patches.undo()
            structlog.configure(**self._logs)

    async def _serve(self) -> None:
        """What a server does by itself: timers fire, sessions expire. And at no time do two run the same."""
        leases = await self.server.bucket(NARROW.bucket("leases"))
        while True:
            for timer in self.timers.pop_due(self.clock.now()):
                self.fired.append(timer)
                await self.fire(timer)
            await leases.entries("")
            self.look()
            await asyncio.sleep(0.25)

    async def fire(self, timer: DueTimer) -> None:
        await MemoryTransport.commit(self.server, timer.stream, [Append(timer.target, timer.payload)])

    def look(self) -> None:
        """Notes whatever must never be."""
        running: Counter[tuple[str, int]] = Counter()
        for hand in self.hands:
            running_of = hand.worker._running
            if running_of is not None and running_of.done():
                self.broken.append(f"{hand.name} failed: {running_of}")
            for group in hand.worker.groups:
                if group.session.held and not hand.frozen:
                    running.update((group.name, number) for number in group.partitions)
        self.broken += [f"{place} runs {n} times" for place, n in running.items() if n > 1]

    # What happens

    async def hire(self) -> None:
        """Starts a worker."""
        self._born += 1
        line, stack = Line(self.server), AsyncExitStack()
        bus = await stack.enter_async_context(
            open_bus(cast("Transport", line), NARROW, clock=cast("Clock", self.clock))
        )
        worker = Worker(bus, self._processors(), name=f"w{self._born}", ingress=False)
        for group in worker.groups:
            group.resident_limit = 1
        await worker.__aenter__()
        self.hands.append(Hand(worker.name, line, stack, worker, bus))

    async def dismiss(self, hand: Hand) -> None:
        """Stops a worker as a service manager does."""
        self.hands.remove(hand)
        self.thaw(hand)
        await hand.worker.__aexit__(None, None, None)
        await hand.stack.aclose()

    async def kill(self, hand: Hand) -> None:
        """Nothing that its process was about to do happens any more."""
        if hand in self.hands:
            self.hands.remove(hand)
        hand.line.cut()
        killed = asyncio.CancelledError()
        await hand.worker.__aexit__(type(killed), killed, None)
        await hand.stack.aclose()

    def freeze(self, hand: Hand, *, believes: bool) -> None:
        """As a SIGSTOP, but for its handlers, which go on. ``believes``: even in a session that has run out."""
        hand.frozen = True
        hand.line.freeze()
        if believes:
            hand.worker.groups[0].session._until = float("inf")

    def thaw(self, hand: Hand) -> None:
        hand.frozen = False
        hand.line.thaw()

    async def publish(self, key: str, plan: Plan) -> None:
        n = len(self.plans)
        self.plans[n] = plan
        if plan.kind == "transient":
            plan.failures.update(dict.fromkeys(plan.who, 1 + n % 5))
        await self.bus.publish(CartAbandoned(customer_id=key, n=n))

    def trickle(self, key: str, plans: list[Plan], every: float) -> None:
        """Publishes one after the other while other things happen."""

        async def go_on() -> None:
            for plan in plans:
                await self.publish(key, plan)
                await asyncio.sleep(every)

        self.trickles.append(self._runner.get_loop().create_task(go_on()))

    async def letters(self) -> list[DeadLetter]:
        return [letter async for letter in dead_letters(self.bus, Selection(status="open"))]

    async def decide(self, letter: DeadLetter, *, dropping: bool, heal: bool, twice: bool) -> None:
        """An operator redrives or drops a letter, or both, or wakes a customer that waits."""
        number = await self._number(letter)
        if heal and number is not None:
            self.plans[number].healed = True

        async def one() -> Any:
            yield letter

        for dropped in (dropping, not dropping) if twice else (dropping,):
            if dropped:
                await drop(self.bus, one(), lambda outcome: None, by="tests")
            else:
                await redrive(self.bus, one(), lambda outcome: None)

    async def _number(self, letter: DeadLetter) -> int | None:
        stored = await self.bus.transport.get(letter.cause_stream, letter.cause)
        return None if stored is None else int(stored.payload.split(b'"n":')[1].split(b"}")[0].split(b",")[0])

    async def pause(self, name: str) -> None:
        """Pauses a group and waits for those that can acknowledge it."""
        writers = [p.writer for p in self._processors() if p.group == name]
        modes = [await self.bus.registry.set_mode(writer, "paused") for writer in writers[:1]]
        self.hushed[name] = Hush(None)
        if any(hand.frozen for hand in self.hands) or self.faults.on:
            return  # whoever did not acknowledge may still store something
        leases = await self.bus.transport.bucket(NARROW.bucket("leases"))

        async def acknowledged() -> bool:
            members = [session.read_member(entry) for entry in await leases.entries("member.")]
            return all(
                member is not None and member.modes.get(writers[0], 0) >= modes[0].revision for member in members
            )

        async with asyncio.timeout(60):
            while not await acknowledged():  # noqa: ASYNC110 - on the loop's own time
                await asyncio.sleep(0.01)
        self.hushed[name] = Hush(await self._stored(writers))

    async def resume(self, name: str) -> None:
        hush = self.hushed.pop(name, None)
        if hush is None:
            return
        writers = [p.writer for p in self._processors() if p.group == name]
        if hush.stored is not None:
            assert await self._stored(writers) == hush.stored, f"{name} stored something while it was paused"
        await self.bus.registry.set_mode(writers[0], "live")

    async def _stored(self, writers: list[str]) -> int:
        return sum([len(await log_of(self.bus.transport, NARROW, f"*.*.*.act.{writer}.>")) for writer in writers])

    # What has to be

    async def settle(self) -> None:
        """Everything heals; returns when nothing is left to be done. What is in memory then is held to be right by
        one more event of each customer, in those who have handled the rest and in whoever comes after them."""
        await asyncio.gather(*self.trickles)
        self.down = False
        self.server.heal()
        for hand in self.hands:
            self.thaw(hand)
        for name in list(self.hushed):
            await self.resume(name)
        for _ in range(2):
            if self.hands:
                await self._rest()
                for key in CUSTOMERS:
                    await self.publish(key, Plan("ok", frozenset()))
                await self._rest()
            await self.hire()
        await self._rest()

    async def _rest(self) -> None:
        limit = asyncio.get_running_loop().time() + QUIET
        calm = 0
        while calm < 3:
            await asyncio.sleep(2)
            calm = calm + 1 if await self._is_quiet() else 0
            if asyncio.get_running_loop().time() > limit:
                raise AssertionError(f"it never ends: {await self._state()}")

    async def _is_quiet(self) -> bool:
        if self.timers.next_due() is not None or self.bus.committer.pending:
            return False
        for name in ("win", "light"):
            for number in range(NARROW.partitions):
                lag = await MemoryTransport.consumer_lag(self.server, NARROW.stream(number), f"{name}-{number}")
                if lag is None or lag.pending or lag.in_flight:
                    return False
                running = [h for h in self.hands for g in h.worker.groups if g.name == name and number in g.partitions]
                if len(running) != 1:
                    return False
        return all(group.idle for hand in self.hands for group in hand.worker.groups)

    async def _state(self) -> list[str]:
        told = [f"timers until {self.timers.next_due()}"]
        for hand in self.hands:
            for group in hand.worker.groups:
                for number, partition in group.partitions.items():
                    lag = await MemoryTransport.consumer_lag(self.server, partition.stream, partition.consumer)
                    told.append(
                        f"{hand.name} {group.name}-{number}: {lag} open {list(partition._open)} catching "
                        f"{[queue.at.key for queue in partition.catching]} "
                        f"queues {[(q.at.key, len(q.queue), q.busy, q.waiting) for q in partition._keys.values()]}"
                    )
        return told

    async def verify(self) -> int:
        """Holds the log against the plans; returns how much there was to judge."""
        messages: list[Stored] = await log_of(self.bus.transport, NARROW)
        return check(messages, WRITERS, self.plans, self.calls, poison="firm")

    # What the agents do

    def _processors(self) -> list[Scripted]:
        def make(writer: str, group: str, **rest: Any) -> Scripted:
            return Scripted(
                self._handler(writer),
                writer=writer,
                group=group,
                handles=(CartAbandoned, WaitEnded),
                publishes=(DiscountOffered, OfferPrinted, WaitEnded),
                retry=RETRY,
                **rest,
            )

        return [make("win", "win"), make("mild", "light"), make("firm", "light", on_poison="park")]

    def _handler(self, writer: str) -> Callable[[Resident, Turn], Awaitable[Output]]:
        async def handle(resident: Resident, turn: Turn) -> Output:
            event = turn.recorded.envelope.event
            self.calls[writer, turn.recorded.sequence] += 1
            if isinstance(event, WaitEnded):
                return offer(resident, turn, "due")
            assert isinstance(event, CartAbandoned)
            plan = self.plans[event.n]
            return await self._act(plan, plan.of(writer), writer, event, resident, turn)

        return handle

    async def _act(
        self, plan: Plan, kind: str, writer: str, event: CartAbandoned, resident: Resident, turn: Turn
    ) -> Output:
        note = ""
        output = Output()
        match kind:
            case "silent":
                return output
            case "transient" if plan.failures[writer] > 0:
                plan.failures[writer] -= 1
                raise TransientError("not yet")
            case "outage" if self.down:
                raise TransientError("the endpoint is down")
            case "permanent" if not plan.healed:
                raise PermanentError("poison")
            case "slow":
                await asyncio.sleep(0.4 * (1 + event.n % 5))
            case "timer":
                due = turn.now + timedelta(seconds=event.n % 9)
                output.timers.append(SetTimer("lapse", WaitEnded(customer_id=resident.key, n=event.n), due))
            case "cancel":
                output.timers.append(CancelTimer("lapse"))
            case "two":
                output.events.append(OfferPrinted(customer_id=resident.key, n=event.n))
            case "once":
                note = (await turn.once("paid", self._pay)).decode()
        output.events = offer(resident, turn, note).events + output.events
        return output

    async def _pay(self) -> bytes:
        await asyncio.sleep(0.1)
        self._drawn += 1
        return str(self._drawn).encode()
