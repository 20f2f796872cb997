"""Verdicts on classes, against what is registered."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import create_model

from sojourn.bus.errors import SchemaError
from sojourn.bus.event import Event, Key
from sojourn.bus.schemas.admission import admitted, claim_of
from sojourn.bus.schemas.compatibility import Level
from sojourn.bus.schemas.lock import format_lock, parse_lock
from sojourn.bus.schemas.records import SchemaRecord
from sojourn.bus.schemas.schema import fingerprint
from sojourn.console.schemas.judging import Judged, judge_event, judge_events, judged_json
from tests.bus.schemas.contracts import cart

AT = datetime(2026, 5, 4, tzinfo=UTC)
INT = (int, ...)
TEXT = (str, ...)
MAYBE = (str | None, None)


def record(*classes: type[Event], push: bool = False) -> SchemaRecord:
    known: SchemaRecord | None = None
    for cls in classes:
        known = admitted(claim_of(cls), known, now=AT, push=push)
    assert known is not None
    return known


def kinds(judged: Judged) -> list[str]:
    return [problem.kind for problem in judged.problems]


def test_a_type_that_nobody_registered_is_new() -> None:
    judged = judge_event(cart(1, value=INT, compatibility="FULL"), None)
    assert (judged.status, judged.base, judged.level, judged.problems) == ("new", None, Level.FULL, [])
    assert judge_event(cart(1, value=INT), None).level == Level.BACKWARD


def test_an_entry_without_versions_is_new_unless_its_key_is_another() -> None:
    early = SchemaRecord(type="CartAbandoned", key_field="customer_id")
    assert judge_event(cart(1, value=INT), early).status == "new"
    other = early.model_copy(update={"key_field": "client"})
    assert kinds(judge_event(cart(1, value=INT), other)) == ["key"]


def test_the_registered_version_is_unchanged_whatever_the_class_says_of_itself() -> None:
    known = record(cart(1, value=INT))
    judged = judge_event(cart(1, value=INT, doc="Now described."), known)
    assert (judged.status, judged.base, judged.changes, judged.problems) == ("unchanged", 1, [], [])


def test_a_new_version_that_its_level_allows_shows_its_changes() -> None:
    judged = judge_event(cart(2, value=INT, note=MAYBE), record(cart(1, value=INT)))
    assert (judged.status, judged.base, judged.version, judged.problems) == ("changed", 1, 2, [])
    assert [(change.path, set(change.breaks)) for change in judged.changes] == [("note", set())]


def test_a_change_that_the_level_forbids_names_version_direction_and_the_upcaster_to_write() -> None:
    judged = judge_event(cart(2, value=INT, note=TEXT), record(cart(1, value=INT)))
    (problem,) = judged.problems
    assert (judged.status, problem.kind, problem.against, problem.direction) == (
        "broken", "compatibility", 1, "backward",
    )  # fmt: skip
    assert problem.message == "it cannot read version 1, against its level BACKWARD"
    assert [change.path for change in problem.changes] == ["note"]
    assert "@upcast(CartAbandoned, from_version=1)" in problem.changes[0].fix


def test_an_upcaster_mends_it() -> None:
    judged = judge_event(cart(2, value=INT, note=TEXT, upcasts=(1,)), record(cart(1, value=INT)))
    assert (judged.status, judged.problems) == ("changed", [])


@pytest.mark.parametrize(
    ("level", "expected"),
    [("NONE", ["upcaster"]), ("BACKWARD", ["compatibility"]), ("FORWARD", ["upcaster"]), ("FULL", ["compatibility"])],
)
def test_the_registered_level_decides_and_reading_is_asked_of_every_level(level: str, expected: list[str]) -> None:
    known = record(cart(1, value=INT, compatibility=level))
    assert kinds(judge_event(cart(2, value=INT, note=TEXT), known)) == expected


def test_another_level_may_be_tried() -> None:
    known, removed = record(cart(1, value=INT, note=TEXT)), cart(2, value=INT)
    assert judge_event(removed, known).status == "changed"
    (problem,) = judge_event(removed, known, level=Level.FULL).problems
    assert (problem.direction, problem.message) == ("forward", "it cannot be read by version 1, against its level FULL")
    declared = cart(2, value=INT, compatibility="FULL")
    assert kinds(judge_event(declared, known)) == ["level"]
    assert judge_event(declared, known, level=Level.BACKWARD).problems == []


def test_another_level_is_tried_on_what_is_registered_too() -> None:
    first, second = cart(1, value=INT, note=TEXT), cart(2, value=INT)
    assert judge_event(second, record(first, second)).status == "unchanged"
    assert kinds(judge_event(second, record(first, second), level=Level.FORWARD)) == ["compatibility"]


def test_a_version_that_was_changed_says_which_is_next() -> None:
    known = record(cart(1, value=INT), cart(2, value=INT, note=MAYBE))
    judged = judge_event(cart(1, value=TEXT), known)
    assert kinds(judged) == ["schema", "version"]
    problem = judged.problems[0]
    assert "say version=3" in problem.message
    assert [change.path for change in problem.changes] == ["value"]


def test_code_older_than_what_is_registered_is_out_of_date() -> None:
    first = cart(1, value=INT)
    (problem,) = judge_event(first, record(first, cart(2, value=INT, note=MAYBE))).problems
    assert (problem.kind, problem.against, problem.direction, problem.changes) == ("version", 2, None, ())
    changed = cart(2, value=TEXT, upcasts=(1,))
    (problem,) = judge_event(first, record(first, changed)).problems
    assert "cannot read that version" in problem.message
    assert [change.path for change in problem.changes] == ["value"]


def test_code_may_be_meant_to_stay_behind_but_not_to_invent_old_versions() -> None:
    first, third = cart(1, value=INT), cart(3, value=INT, note=MAYBE)
    known = record(first, third)
    judged = judge_event(first, known, older=True)
    assert (judged.status, judged.problems) == ("unchanged", [])
    assert kinds(judge_event(cart(1, value=TEXT), known, older=True)) == ["schema"]
    assert kinds(judge_event(cart(2, value=INT), known, older=True)) == ["version"]


def test_an_older_version_that_was_never_registered() -> None:
    (problem,) = judge_event(cart(2, value=INT), record(cart(1, value=INT), cart(3, value=INT))).problems
    assert (problem.kind, problem.against) == ("version", 3)
    assert "say version=4" in problem.message


def test_owner_and_level_are_told_with_their_way_out() -> None:
    known = record(cart(1, value=INT, owner="shop", compatibility="FULL"))
    judged = judge_event(cart(1, value=INT, owner="fraud", compatibility="NONE"), known)
    assert kinds(judged) == ["owner", "level"]
    assert "'shop'" in judged.problems[0].message
    assert "--take-over" in judged.problems[0].message
    assert "`sojourn schemas push` changes it" in judged.problems[1].message


def test_a_missing_upcaster_for_a_version_far_back() -> None:
    known = record(cart(1, value=TEXT), cart(2, value=INT, upcasts=(1,)))
    judged = judge_event(cart(3, value=INT, note=MAYBE), known)
    (problem,) = judged.problems
    assert (problem.kind, problem.against) == ("upcaster", 1)
    assert "@upcast(CartAbandoned, from_version=1)" in problem.message
    assert judge_event(cart(3, value=INT, note=MAYBE, upcasts=(1,)), known).problems == []


@pytest.mark.parametrize("level", [Level.NONE, Level.BACKWARD, Level.BACKWARD_TRANSITIVE])
def test_only_the_upcasters_that_are_missing_are_asked_for(level: Level) -> None:
    known = record(cart(1, value=INT, compatibility=level.value), cart(2, value=INT), cart(3, value=INT, note=MAYBE))
    judged = judge_event(cart(4, value=TEXT, note=MAYBE), known)
    (problem,) = judged.problems
    assert (problem.against, problem.direction) == (3, "backward")
    assert judge_event(cart(4, value=TEXT, note=MAYBE, upcasts=(3,)), known).problems == []


def test_upcasters_are_asked_for_from_the_newest_to_the_oldest() -> None:
    known = record(cart(1, value=INT, compatibility="NONE"), cart(2, value=TEXT), cart(3, value=TEXT))
    judged = judge_event(cart(4, value=TEXT, note=TEXT), known)
    assert [(problem.kind, problem.against) for problem in judged.problems] == [("upcaster", 3), ("upcaster", 1)]
    assert [[change.path for change in problem.changes] for problem in judged.problems] == [["note"], ["value"]]


def test_the_same_contract_in_other_words_is_no_difference() -> None:
    cls = cart(1, value=INT)
    known = record(cls)
    (there,) = known.versions
    schema = {**there.schema_, "allOf": [{"type": "object"}]}
    rewritten = there.model_copy(update={"schema_": schema, "hash": fingerprint(schema)})
    known = known.model_copy(update={"versions": [rewritten]})
    assert rewritten.hash != there.hash
    judged = judge_event(cls, known)
    assert (judged.status, judged.problems) == ("unchanged", [])


@pytest.mark.parametrize("version", [1, 2])
def test_another_key_is_told_once_with_its_one_way_out(version: int) -> None:
    def paid(version: int, *, key: str, text: str) -> type[Event]:
        fields: dict[str, Any] = {key: (Key, ...), text: (str, ...)}
        arguments = {"version": version}
        return create_model("OrderPaid", __base__=Event, __module__="shop", __cls_kwargs__=arguments, **fields)

    known = record(paid(1, key="customer_id", text="client"))
    (problem,) = judge_event(paid(version, key="client", text="customer_id"), known).problems
    assert (problem.kind, problem.changes) == ("key", ())
    assert "give it a name of its own" in problem.message


@pytest.mark.parametrize(
    "cls",
    [
        cart(1, value=TEXT), cart(2, value=TEXT), cart(2, value=INT, owner="fraud"), cart(4, value=INT, other=TEXT),
        cart(1, value=INT, compatibility="FULL"), cart(5, value=INT, note=TEXT),
    ],
    ids=range(6),
)  # fmt: skip
def test_what_the_registry_refuses_is_never_passed(cls: type[Event]) -> None:
    known = record(cart(1, value=INT, owner="shop"), cart(3, value=INT, note=MAYBE))
    with pytest.raises(SchemaError, match="CartAbandoned"):
        admitted(claim_of(cls), known, now=AT)
    assert judge_event(cls, known).status == "broken"


def test_a_lock_file_gives_the_same_verdicts() -> None:
    known = record(cart(1, value=INT, note=TEXT, owner="shop", compatibility="FULL"))
    read = parse_lock(format_lock([known]))
    for cls in (cart(1, value=INT, note=TEXT), cart(2, value=INT), cart(2, value=TEXT, owner="x"), cart(2, note=TEXT)):
        assert judge_events([cls], read) == judge_events([cls], {known.type: known})


def test_a_verdict_for_programs_is_json_all_through() -> None:
    judged = judge_event(cart(2, value=TEXT, note=MAYBE), record(cart(1, value=INT)))
    document = json.loads(json.dumps(judged_json(judged)))
    assert (document["type"], document["version"], document["status"], document["base"]) == (
        "CartAbandoned", 2, "broken", 1,
    )  # fmt: skip
    assert [change["path"] for change in document["changes"]] == ["value", "note"]
    (problem,) = document["problems"]
    assert set(problem) == {"kind", "message", "against", "direction", "changes"}
    assert problem["changes"][0]["breaks"] == ["backward", "forward"]
