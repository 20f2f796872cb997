"""A state machine of worker, lease, lane and log: whatever happens to workers, network and operators, in whatever
order, each event of each customer leads to what it has to, once and in order."""

from __future__ import annotations

import asyncio

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from tests.bus.delivery.machine import CUSTOMERS, WRITERS, Hand, Town
from tests.bus.delivery.machine_model import KINDS, Plan

MOST = 4
"""Workers at a time."""

NETWORKS = {
    "lossy": {"lost": 0.2, "refused": 0.1, "slow": 1.0},
    "late": {"late": 0.2, "lost": 0.1, "slow": 1.0},
    "stale": {"behind": 0.3, "slow": 1.0},
    "contested": {"conflict": 0.2, "unread": 0.1},
    "astray": {"gap": 0.1, "again": 0.1, "unacked": 0.2, "broken": 0.05, "stuck": 0.2},
}

then = st.sampled_from([0.0, 0.0001, 0.002, 0.1, 0.7])
"""Seconds that pass after something happened."""

index = st.integers(0, 7)
who = st.sampled_from([frozenset(WRITERS), *(frozenset({writer}) for writer in WRITERS)])
kinds = st.sampled_from(KINDS)
customers = st.sampled_from([*CUSTOMERS, *["c0"] * 6])


class Machine(RuleBasedStateMachine):
    """Rules are what may happen at any time; at the end all heals, and the log is held against the model."""

    def __init__(self) -> None:
        super().__init__()
        self.town = Town()
        self.failed = True

    def teardown(self) -> None:
        try:
            if not self.failed:
                self.town.run(self.town.settle())
                self.town.run(self.town.verify())
        finally:
            self.town.end()

    def _do(self, what: object, seconds: float) -> None:
        self.failed = True

        async def both() -> None:
            if asyncio.iscoroutine(what):
                await what
            if seconds:
                await asyncio.sleep(seconds)

        self.town.run(both())
        self.failed = False

    def _pick(self, number: int) -> Hand:
        return self.town.hands[number % len(self.town.hands)]

    @rule(key=customers, kind=kinds, who=who, then=then)
    def publish(self, key: str, kind: str, who: frozenset[str], then: float) -> None:
        self._do(self.town.publish(key, Plan(kind, who)), then)  # type: ignore[arg-type]  # drawn from KINDS

    @rule(kinds=st.lists(kinds, min_size=3, max_size=8), times=st.integers(1, 4), who=who, then=then)
    def crowd(self, kinds: list[str], times: int, who: frozenset[str], then: float) -> None:
        async def all_of_them() -> None:
            for kind in kinds * times:
                await self.town.publish("c0", Plan(kind, who))  # type: ignore[arg-type]  # drawn from KINDS

        self._do(all_of_them(), then)

    @rule(kinds=st.lists(kinds, max_size=4), who=who, later=st.integers(1, 6), then=then)
    def flood(self, kinds: list[str], who: frozenset[str], later: int, then: float) -> None:
        """A crowd that takes its time, so that its wake-up waits in front of what comes later."""

        async def all_of_them() -> None:
            for kind in ["slow"] * 7 + kinds:
                await self.town.publish("c0", Plan(kind, who))  # type: ignore[arg-type]  # drawn from KINDS
            await asyncio.sleep(1.1)
            for kind in [*kinds, *["ok"] * later]:
                await self.town.publish("c0", Plan(kind, who))  # type: ignore[arg-type]  # drawn from KINDS

        self._do(all_of_them(), then)

    @rule(
        key=customers,
        kinds=st.lists(kinds, min_size=1, max_size=4),
        times=st.integers(1, 20),
        who=who,
        every=st.sampled_from([0.0001, 0.0007, 0.01, 0.3]),
        then=then,
    )
    def trickle(self, key: str, kinds: list[str], times: int, who: frozenset[str], every: float, then: float) -> None:
        plans = [Plan(kind, who) for _ in range(times) for kind in kinds]  # type: ignore[arg-type]  # drawn from KINDS
        self.town.trickle(key, plans, every)
        self._do(None, then)

    @precondition(lambda self: len(self.town.hands) < MOST)
    @rule(then=then)
    def hire(self, then: float) -> None:
        self._do(self.town.hire(), then)

    @precondition(lambda self: self.town.hands)
    @rule(number=index, then=then)
    def dismiss(self, number: int, then: float) -> None:
        self._do(self.town.dismiss(self._pick(number)), then)

    @precondition(lambda self: self.town.hands)
    @rule(number=index, then=then)
    def kill(self, number: int, then: float) -> None:
        self._do(self.town.kill(self._pick(number)), then)

    @precondition(lambda self: any(not hand.frozen for hand in self.town.hands))
    @rule(number=index, believes=st.booleans(), then=then)
    def freeze(self, number: int, believes: bool, then: float) -> None:
        awake = [hand for hand in self.town.hands if not hand.frozen]
        self.town.freeze(awake[number % len(awake)], believes=believes)
        self._do(None, then)

    @precondition(lambda self: any(hand.frozen for hand in self.town.hands))
    @rule(number=index, then=then)
    def thaw(self, number: int, then: float) -> None:
        frozen = [hand for hand in self.town.hands if hand.frozen]
        self._do(self._thaw(frozen[number % len(frozen)]), then)

    async def _thaw(self, hand: Hand) -> None:
        self.town.thaw(hand)

    @rule(network=st.sampled_from(sorted(NETWORKS)))
    def break_network(self, network: str) -> None:
        self.town.faults.chances = NETWORKS[network]
        self.town.faults.on = True

    @precondition(lambda self: self.town.faults.on)
    @rule(then=then)
    def mend_network(self, then: float) -> None:
        self._do(self._mend(), then)

    async def _mend(self) -> None:
        self.town.server.heal()

    @precondition(lambda self: self.town.hands)
    @rule(number=index, group=st.integers(0, 1), partition=st.integers(0, 1), then=then)
    def restart(self, number: int, group: int, partition: int, then: float) -> None:
        async def restart() -> None:
            running = self._pick(number).worker.groups[group].partitions.get(partition)
            if running is not None:
                running.restart("whatever")

        self._do(restart(), then)

    @precondition(lambda self: self.town.hands)
    @rule(number=index, key=customers, then=then)
    def erase(self, number: int, key: str, then: float) -> None:
        async def erase() -> None:
            self._pick(number).worker._forget(key)

        self._do(erase(), then)

    @precondition(lambda self: not self.town.hushed)
    @rule(group=st.sampled_from(["win", "light"]), then=then)
    def pause(self, group: str, then: float) -> None:
        self._do(self.town.pause(group), then)

    @precondition(lambda self: self.town.hushed)
    @rule(then=then)
    def resume(self, then: float) -> None:
        self._do(self.town.resume(next(iter(self.town.hushed))), then)

    @rule(number=index, dropping=st.booleans(), heal=st.booleans(), twice=st.booleans(), then=then)
    def decide(self, number: int, dropping: bool, heal: bool, twice: bool, then: float) -> None:
        async def decide() -> None:
            letters = await self.town.letters()
            if letters:
                letter = letters[number % len(letters)]
                await self.town.decide(letter, dropping=dropping, heal=heal, twice=twice)

        self._do(decide(), then)

    @precondition(lambda self: self.town.fired)
    @rule(number=index, then=then)
    def fire_again(self, number: int, then: float) -> None:
        self._do(self.town.fire(self.town.fired[-1 - number % len(self.town.fired)]), then)

    @rule(then=then)
    def go_down(self, then: float) -> None:
        self.town.down = not self.town.down
        self._do(None, then)

    @rule(seconds=st.sampled_from([0.05, 0.5, 1.5, 5.5, 12.0, 60.0]))
    def wait(self, seconds: float) -> None:
        self._do(None, seconds)


TestMachine = Machine.TestCase
TestMachine.settings = settings(
    max_examples=12,
    stateful_step_count=20,
    deadline=None,
    print_blob=True,
    phases=(Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
)
