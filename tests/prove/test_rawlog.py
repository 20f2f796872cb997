"""The judge of the crash proof has to find every fault, or its verdict is worth nothing."""

from __future__ import annotations

from tests.prove.rawlog import Record, judge

Log = list[Record]


def event(sequence: int, number: int, value: int, customer: str = "c1") -> Record:
    data = {"customer_id": customer, "number": number, "value": value}
    document = {"id": f"e{sequence}", "subject": customer, "data": data}
    return Record(sequence, f"s.log.0.{customer}.evt.CartUpdated", document)


def action(sequence: int, cause: int, number: int, state: tuple[int, int, int]) -> Record:
    data = dict(zip(("seen", "total", "offers"), state, strict=True)) | {"customer_id": "c1", "number": number}
    document = {"id": f"a{sequence}", "subject": "c1", "causationid": f"e{cause}", "causeseq": cause, "data": data}
    return Record(sequence, "s.log.0.c1.act.escort.OfferMade", document)


def lane(sequence: int, kind: str) -> Record:
    return Record(sequence, f"s.lane.0.c1.act.escort.{kind}", {"kind": kind, "cause": 3})


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


def test_an_action_before_its_cause_is_out_of_order() -> None:
    early = [*GOOD[:2], action(3, 4, 2, (3, 170, 1)), event(4, 2, 70), action(5, 1, 0, (1, 60, 0))]
    assert "out_of_order" in faults(early, {"e1", "e2", "e4"})


def test_each_agents_actions_have_an_order_of_their_own() -> None:
    other = GOOD[3]._replace(sequence=6, subject="s.log.0.c1.act.other.OfferMade")
    assert faults([*GOOD, other]) == {"doubled"}


def test_actions_under_another_key_or_partition_are_seen() -> None:
    moved = GOOD[4]._replace(subject="s.log.0.c2.act.escort.OfferMade")
    assert faults([*GOOD[:4], moved]) == {"lost", "undeserved", "misplaced"}
    moved = GOOD[4]._replace(subject="s.log.1.c1.act.escort.OfferMade")
    assert faults([*GOOD[:4], moved]) == {"lost", "undeserved"}
    content = GOOD[4].document["data"] | {"customer_id": "c2"}
    assert faults([*GOOD[:4], GOOD[4]._replace(document=GOOD[4].document | {"data": content})]) == {"misplaced"}


def test_events_lost_and_doubled_are_seen() -> None:
    assert faults(GOOD, {*IDS, "e9"}) == {"events_lost"}
    assert "events_doubled" in faults([*GOOD, GOOD[1]._replace(sequence=6)])


def test_events_out_of_order_are_seen() -> None:
    swapped = [event(1, 0, 40), event(2, 2, 40), event(3, 1, 40)]
    assert faults(swapped) == {"events_out_of_order"}


def test_what_nobody_published_is_seen() -> None:
    assert faults(GOOD, IDS - {"e2"}) == {"foreign"}
    assert faults([*GOOD, Record(6, "s.elsewhere", {})]) == {"foreign"}


def test_a_key_that_stays_parked_is_seen() -> None:
    assert faults([*GOOD, lane(6, "parked")]) == {"still_parked"}
    assert faults([*GOOD, lane(6, "parked"), lane(7, "unparked"), lane(8, "parked")]) == {"still_parked"}
    assert faults([*GOOD, lane(6, "parked"), lane(7, "unparked")]) == set()
    woken = Record(7, "s.log.0.c1.evt.due.escort.=park", {"kind": "wake", "generation": 1})
    assert faults([*GOOD, lane(6, "parked"), woken, lane(8, "unparked")]) == set()
    other = lane(7, "unparked")._replace(subject="s.lane.0.c1.act.other.unparked")
    assert faults([*GOOD, lane(6, "parked"), other]) == {"still_parked"}


def test_a_dead_letter_is_no_clean_verdict() -> None:
    assert not judge({"S_0": [*GOOD, lane(6, "dead")]}, IDS).clean


def test_attempts_are_counted_and_no_fault() -> None:
    verdict = judge({"S_0": [*GOOD, lane(6, "attempt"), lane(7, "once")]}, IDS)
    assert verdict.clean and verdict.attempts == 1
