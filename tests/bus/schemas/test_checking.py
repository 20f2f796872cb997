"""Checking classes against records: the verdict of the level, the changes, and why a class would be refused."""

from __future__ import annotations

from datetime import UTC, datetime

from sojourn.bus.event import Event
from sojourn.bus.schemas.admission import admitted, claim_of
from sojourn.bus.schemas.checking import check_class, check_classes
from sojourn.bus.schemas.compatibility import Level, Verdict
from sojourn.bus.schemas.records import SchemaRecord
from tests.bus.schemas.contracts import cart

AT = datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC)
INT = (int, ...)


def after(*classes: type[Event]) -> SchemaRecord:
    known = None
    for cls in classes:
        known = admitted(claim_of(cls), known, now=AT)
    assert known is not None
    return known


def test_a_type_that_nobody_knows_is_fine() -> None:
    checked = check_class(cart(3, compatibility="FULL"), None)
    assert checked.ok and checked == ("CartAbandoned", 3, False, None, [], Verdict(Level.FULL, []), "")


def test_what_is_registered_as_it_is_is_fine() -> None:
    checked = check_class(cart(value=INT), after(cart(value=INT)))
    assert checked.ok and checked == ("CartAbandoned", 1, True, 1, [], Verdict(Level.BACKWARD, []), "")


def test_a_compatible_new_version_shows_its_changes() -> None:
    checked = check_class(cart(5, note=(str, "")), after(cart(1), cart(2)))
    assert (checked.registered, checked.base, checked.ok) == (False, 2, True)
    assert [(change.path, change.breaks) for change in checked.changes] == [("note", frozenset())]


def test_what_breaks_the_level_is_refused_with_the_verdict() -> None:
    checked = check_class(cart(2, value=INT), after(cart(1)))
    assert not checked.ok and "breaks this type's compatibility BACKWARD" in checked.reason
    (violation,) = checked.verdict.violations
    assert (violation.against, violation.direction, violation.change.path) == (1, "backward", "value")


def test_another_schema_under_a_registered_version_is_refused_with_the_changes() -> None:
    checked = check_class(cart(1, value=(str, ...)), after(cart(1, value=INT)))
    assert not checked.ok and checked.registered and "registered with another schema" in checked.reason
    assert [change.path for change in checked.changes] == ["value"]


def test_a_class_that_cannot_read_what_is_stored_is_refused() -> None:
    known = after(cart(1, compatibility="NONE"))
    checked = check_class(cart(2, value=INT), known)
    assert checked.verdict.ok and not checked.ok and "@upcast(CartAbandoned, from_version=1)" in checked.reason
    assert check_class(cart(2, value=INT, upcasts=(1,)), known).ok


def test_classes_are_checked_by_name_each_against_its_own_record() -> None:
    records = {"CartAbandoned": after(cart(1, value=INT))}
    checked = check_classes([cart(event="OrderPlaced"), cart(1, value=(str, ...))], records)
    assert [(one.type, one.ok) for one in checked] == [("CartAbandoned", False), ("OrderPlaced", True)]
