from __future__ import annotations

import pytest

from sojourn.bus.ports import Append, Schedule
from sojourn.simulation.timers import CustomerTimers
from tests.simulation.world import at


def timer(key: str, name: str, days: float, *, writer: str = "lapse") -> Append:
    target = f"sim.log.1.{key}.evt.due.{writer}.{name}"
    return Append(f"sim.timer.1.{key}.{writer}.{name}", b"{}", schedule=Schedule(at(days), target))


def test_each_customer_has_timers_of_its_own_earliest_first() -> None:
    timers = CustomerTimers()
    timers.stored("SIM_1", [timer("a", "x", 3), timer("b", "x", 1), timer("a", "y", 2)])
    assert len(timers) == 3
    first = timers.next("a")
    assert first is not None and first.at == at(2) and first.stream == "SIM_1"
    assert timers.pop("a") == first
    assert timers.pop("a").target == "sim.log.1.a.evt.due.lapse.x"
    assert timers.next("a") is None
    with pytest.raises(LookupError):
        timers.pop("a")
    assert len(timers) == 1


def test_a_timer_set_again_replaces_the_one_before() -> None:
    timers = CustomerTimers()
    timers.stored("SIM_1", [timer("a", "x", 1)])
    timers.stored("SIM_1", [timer("a", "x", 5)])
    assert len(timers) == 1
    assert timers.pop("a").at == at(5)


def test_a_cancelled_timer_is_gone_and_cancelling_nothing_is_nothing() -> None:
    timers = CustomerTimers()
    timers.stored("SIM_1", [timer("a", "x", 1)])
    cancel = Append("sim.lane.1.a.act.lapse.out", b"{}", unschedule="sim.timer.1.a.lapse.x")
    timers.stored("SIM_1", [cancel])
    assert timers.next("a") is None
    timers.changed()
    timers.stored("SIM_1", [cancel])
    assert timers.changed() == set()


def test_at_the_same_moment_the_subject_decides_not_who_was_faster() -> None:
    early, late = timer("a", "x", 1, writer="alpha"), timer("a", "x", 1, writer="beta")
    for order in ([early, late], [late, early]):
        timers = CustomerTimers()
        timers.stored("SIM_1", order)
        assert [timers.pop("a").subject for _ in order] == [early.subject, late.subject]


def test_it_tells_once_whose_timers_changed() -> None:
    timers = CustomerTimers()
    timers.stored("SIM_1", [timer("a", "x", 1), timer("b", "x", 1), Append("sim.log.1.c.evt.OrderPlaced", b"{}")])
    assert timers.changed() == {"a", "b"}
    assert timers.changed() == set()
    timers.pop("a")
    assert timers.changed() == {"a"}
