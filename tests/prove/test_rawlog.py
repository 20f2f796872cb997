"""The judge of the crash proof has to find every fault, or its verdict is worth nothing."""

from __future__ import annotations

from typing import Any

from tests.prove.rawlog import judge

Log = list[tuple[int, str, dict[str, Any]]]


def event(sequence: int, number: int, value: int, customer: str = "c1") -> tuple[int, str, dict[str, Any]]:
    data = {"customer_id": customer, "number": number, "value": value}
    return sequence, f"s.log.0.{customer}.evt.CartUpdated", {"id": f"e{sequence}", "subject": customer, "data": data}


def action(sequence: int, cause: int, number: int, state: tuple[int, int, int]) -> tuple[int, str, dict[str, Any]]:
    data = dict(zip(("seen", "total", "offers"), state, strict=True)) | {"customer_id": "c1", "number": number}
    document = {"id": f"a{sequence}", "subject": "c1", "causationid": f"e{cause}", "causeseq": cause, "data": data}
    return sequence, "s.log.0.c1.act.escort.OfferMade", document


GOOD: Log = [
    event(1, 0, 60),
    event(2, 1, 40),
    event(3, 2, 70),
    action(4, 1, 0, (1, 60, 0)),
    action(5, 3, 2, (3, 170, 1)),
]
IDS = {"e1", "e2", "e3"}


def faults(log: Log, ids: set[str] = IDS) -> set[str]:
    verdict = judge({"S_0": log}, ids)
    return {name for name, value in vars(verdict).items() if isinstance(value, list) and value}


def test_a_good_log_is_clean() -> None:
    verdict = judge({"S_0": GOOD}, IDS)
    assert verdict.clean
    assert (verdict.events, verdict.actions, verdict.deserving) == (3, 2, 2)


def test_a_missing_action_is_lost() -> None:
    assert faults(GOOD[:-1]) == {"lost"}


def test_a_second_action_is_doubled() -> None:
    assert "doubled" in faults([*GOOD, action(6, 3, 2, (3, 170, 1))])


def test_an_action_nobody_earned() -> None:
    assert faults([*GOOD, action(6, 2, 1, (2, 100, 1))]) == {"undeserved", "out_of_order"}
    assert "undeserved" in faults([*GOOD, action(6, 99, 1, (2, 100, 1))])


def test_a_wrong_state_is_seen() -> None:
    assert faults([*GOOD[:-1], action(5, 3, 2, (3, 170, 0))]) == {"wrong_state"}
    assert faults([*GOOD[:-1], action(5, 3, 2, (2, 130, 1))]) == {"wrong_state"}


def test_actions_out_of_order_are_seen() -> None:
    swapped = [*GOOD[:3], action(4, 3, 2, (3, 170, 1)), action(5, 1, 0, (1, 60, 0))]
    assert faults(swapped) == {"out_of_order"}


def test_events_lost_and_doubled_are_seen() -> None:
    assert faults(GOOD, {*IDS, "e9"}) == {"events_lost"}
    again = (6, GOOD[1][1], GOOD[1][2])
    assert "events_doubled" in faults([*GOOD, again])


def test_a_dead_letter_is_no_clean_verdict() -> None:
    assert not judge({"S_0": [*GOOD, (6, "s.lane.0.c1.act.escort.dead", {"kind": "dead"})]}, IDS).clean
