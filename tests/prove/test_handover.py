"""The measure of a hand-over, held against logs written by hand."""

from __future__ import annotations

import pytest

from tests.prove.handover import Fault, handovers, waiting
from tests.prove.rawlog import Record

EVERYTHING = frozenset(range(8))


def event(sequence: int, time: float, partition: int = 0, value: int = 60) -> Record:
    return Record(sequence, f"s.log.{partition}.c1.evt.CartUpdated", {"data": {"value": value}}, time)


def action(sequence: int, cause: int, time: float, partition: int = 0) -> Record:
    return Record(sequence, f"s.log.{partition}.c1.act.escort.OfferMade", {"causeseq": cause, "data": {}}, time)


LOG = [event(1, 10.0), event(2, 10.1), action(3, 1, 10.2), event(4, 11.0), action(5, 2, 14.5), action(6, 4, 14.6)]


def longest(faults: list[Fault], log: list[Record] = LOG) -> dict[str, float]:
    return handovers({"S_0": log}, faults)


def test_it_lasts_until_the_next_action_of_the_partition() -> None:
    assert longest([Fault("killed", 10.5, EVERYTHING)]) == {"killed": pytest.approx(4.0)}
    assert longest([Fault("killed", 10.5, frozenset({0}))]) == {"killed": pytest.approx(4.0)}


def test_other_partitions_tell_nothing() -> None:
    assert longest([Fault("killed", 10.5, frozenset({1}))]) == {"killed": 0.0}
    assert longest([Fault("killed", 10.5, EVERYTHING)], [*LOG, action(7, 4, 10.7, partition=1)]) == {
        "killed": pytest.approx(4.0)
    }


def test_what_was_on_its_way_is_the_victims() -> None:
    assert longest([Fault("killed", 10.15, EVERYTHING)]) == {"killed": pytest.approx(4.35)}


def test_where_nothing_was_due_nobody_waited() -> None:
    idle = [event(1, 10.0), action(2, 1, 10.2), event(3, 20.0), action(4, 3, 20.1)]
    assert longest([Fault("killed", 10.5, EVERYTHING)], idle) == {"killed": 0.0}
    unearned = [event(1, 10.0), action(2, 1, 10.2), event(3, 10.3, value=1), event(4, 20.0), action(5, 4, 20.1)]
    assert longest([Fault("killed", 10.5, EVERYTHING)], unearned) == {"killed": 0.0}


def test_the_longest_of_each_kind_counts() -> None:
    faults = [Fault("killed", 10.5, EVERYTHING), Fault("killed", 12.5, EVERYTHING), Fault("stopped", 13.0, EVERYTHING)]
    assert longest(faults) == {"killed": pytest.approx(4.0), "stopped": pytest.approx(1.5)}


def test_of_the_undisturbed_ones_only_those_count_beside_which_nothing_happened() -> None:
    def alone(*times: float) -> dict[str, float]:
        faults = [Fault("killed", time, EVERYTHING) for time in times]
        return handovers({"S_0": LOG}, faults, undisturbed=2.0)

    assert alone(10.5) == {"killed": pytest.approx(4.0)}
    assert alone(10.5, 15.0) == {"killed": pytest.approx(4.0)}, "the second comes after it"
    assert alone(8.4, 10.5) == {"killed": pytest.approx(4.0)}, "the first is long past"
    assert alone(10.5, 12.0) == {"killed": 0.0}
    assert alone(10.5, 13.0) == {"killed": pytest.approx(1.5)}, "the second alone"


def test_faults_without_partitions_have_no_hand_over() -> None:
    assert longest([Fault("resumed", 10.5, frozenset())]) == {}


def test_who_waits() -> None:
    times = {9.9: 0, 10.05: 1, 10.15: 2, 10.5: 1, 12.0: 2, 20.0: 0}
    assert waiting({"S_0": LOG}, times) == list(times.values())
    assert waiting({"S_0": [*LOG, event(7, 9.0, value=1)], "S_1": []}, times) == list(times.values())
