"""What a registration makes of a record, and every refusal with its way out."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import Field

from sojourn.bus.errors import SchemaError
from sojourn.bus.event import Event, Key
from sojourn.bus.schemas.admission import admitted, check_bridged, claim_of, judge
from sojourn.bus.schemas.compatibility import Level
from sojourn.bus.schemas.records import SchemaRecord
from sojourn.bus.schemas.schema import fingerprint, schema_of
from tests.bus.schemas.contracts import cart

AT = datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC)
INT = (int, ...)
TEXT = (str, ...)


def after(*classes: type[Event], known: SchemaRecord | None = None, **rest: Any) -> SchemaRecord:
    """The record once these were registered, one after the other, a day apart."""
    for days, cls in enumerate(classes):
        known = admitted(claim_of(cls), known, now=AT + timedelta(days=days), **rest)
    assert known is not None
    return known


def refused(cls: type[Event], *before: type[Event], **rest: Any) -> str:
    known = after(*before)
    with pytest.raises(SchemaError) as caught:
        admitted(claim_of(cls), known, now=AT, **rest)
    return str(caught.value)


def test_the_first_registration_tells_everything() -> None:
    cls = cart(
        2, value=INT, owner="shop", compatibility="FULL", doc="  A customer left.\n\n    For now.  ", upcasts=(1,)
    )
    record = after(cls)
    assert (record.type, record.key_field, record.owner, record.compatibility, record.description) == (
        "CartAbandoned",
        "customer_id",
        "shop",
        Level.FULL,
        "A customer left.\n\nFor now.",
    )
    (version,) = record.versions
    assert (version.version, version.schema_, version.hash, version.registered, version.reference, version.upcasts) == (
        2,
        schema_of(cls),
        fingerprint(schema_of(cls)),
        AT,
        "shop:CartAbandoned",
        [1],
    )


def test_what_is_not_declared_is_the_default() -> None:
    record = after(cart())
    assert (record.owner, record.compatibility, record.description) == (None, Level.BACKWARD, "")


def test_the_same_again_changes_nothing() -> None:
    record = after(cart(1, value=INT), cart(2, value=INT, note=(str, "")))
    for cls in (cart(1, value=INT), cart(2, value=INT, note=(str, Field("", title="Other words")))):
        assert after(cls, known=record) == record


def test_versions_are_kept_in_order_with_the_moment_they_were_first_seen() -> None:
    record = after(cart(1), cart(3, note=(str, "")), cart(7, note=(str, "")))
    assert [(one.version, one.registered) for one in record.versions] == [
        (1, AT),
        (3, AT + timedelta(days=1)),
        (7, AT + timedelta(days=2)),
    ]


def test_a_description_follows_the_newest_version() -> None:
    record = after(cart(1, doc="Old."), cart(2, doc="New."))
    assert record.description == "New."
    assert after(cart(1, doc="Older."), known=record).description == "New."
    assert after(cart(2), known=record).description == "New."
    assert after(cart(2, doc="Newer."), known=record).description == "Newer."
    assert after(cart(2), known=record, push=True).description == ""


def test_another_schema_under_the_same_version_is_refused_with_the_difference() -> None:
    message = refused(cart(1, value=(str, ...)), cart(1, value=INT), cart(2, value=INT, note=(str, "")))
    assert message.startswith("CartAbandoned version 1 is registered with another schema (by shop:CartAbandoned)")
    assert "value" in message and "string" in message and "integer" in message
    assert "fix:" not in message and message.endswith("undo it, or say version=3 in the class")


def test_a_compatible_change_is_a_new_version_too() -> None:
    assert "note" in refused(cart(1, note=(str, "")), cart(1))
    assert after(cart(1), cart(2, note=(str, ""))).latest is not None


def test_what_breaks_the_level_is_refused_with_every_violation() -> None:
    new = cart(2, value=(str, ...), currency=(str, ...))
    message = refused(new, cart(1, value=INT))
    head, direction, *lines = message.splitlines()
    assert head == "CartAbandoned version 2 (shop:CartAbandoned) breaks this type's compatibility BACKWARD"
    assert direction == "backward, it cannot read version 1:"
    assert len(lines) == 2 and all("fix: " in line for line in lines)
    assert {line.split()[0] for line in lines} == {"value", "currency"}


def test_a_transitive_level_names_every_version() -> None:
    first, second = cart(1, value=INT, compatibility="FULL_TRANSITIVE"), cart(2, value=INT, note=(str, ""))
    message = refused(cart(3, value=(str, ...)), first, second)
    for number in (1, 2):
        assert f"backward, it cannot read version {number}:" in message
        assert f"forward, version {number} cannot read it:" in message


def test_upcasters_bridge_what_breaks_backward() -> None:
    old, new = cart(1), cart(2, currency=(str, ...), upcasts=(1,))
    record = after(old, new)
    assert record.latest is not None and record.latest.upcasts == [1]
    assert judge(claim_of(new), after(old), Level.BACKWARD).ok
    assert not judge(claim_of(cart(2, currency=(str, ...))), after(old), Level.BACKWARD).ok
    # Forward it is none of theirs: a new required field is no matter there, another type of an old one is.
    message = refused(cart(2, value=(str, ...), upcasts=(1,)), cart(1, value=INT, compatibility="FULL"))
    assert "forward, version 1 cannot read it:" in message and "backward" not in message


def test_a_level_is_settled_by_the_first_and_changed_only_by_a_push() -> None:
    record = after(cart(1, compatibility="FULL"))
    assert after(cart(2), known=record).compatibility is Level.FULL
    message = refused(cart(1, compatibility="NONE"), cart(1, compatibility="FULL"))
    assert "is registered with compatibility FULL, shop:CartAbandoned says NONE" in message
    assert "`sojourn schemas push shop`" in message
    pushed = after(cart(2, value=INT, compatibility="NONE"), known=record, push=True)
    assert pushed.compatibility is Level.NONE and len(pushed.versions) == 2
    assert after(cart(2, value=INT, compatibility="NONE"), known=pushed) == pushed
    # A push is held to the level as well, the class's own or the stored one.
    assert "breaks this type's compatibility FULL" in refused(
        cart(2, value=INT), cart(1, compatibility="FULL"), push=True
    )


def test_a_type_has_one_owner() -> None:
    record = after(cart(1), cart(1, owner="shop"))
    assert record.owner == "shop"
    assert after(cart(1), known=record) == record
    message = refused(cart(1, owner="crm"), cart(1, owner="shop"), push=True)
    assert message.startswith("CartAbandoned belongs to 'shop', shop:CartAbandoned says owner='crm'")
    assert after(cart(1, owner="crm"), known=record, hand_over=True).owner == "crm"


def test_another_key_is_refused_for_ever() -> None:
    class CartAbandoned(Event, version=9, compatibility="NONE"):
        client: Key

    message = refused(CartAbandoned, cart(1), push=True, hand_over=True)
    assert "the key field 'customer_id'" in message and "has 'client'" in message
    assert "give it a name of its own" in message


def test_a_version_between_registered_ones_comes_too_late() -> None:
    message = refused(cart(2), cart(1), cart(3))
    assert "version 2 was never registered, and version 3 already is" in message and "version=4" in message


def test_upcasters_add_up_and_a_push_says_which() -> None:
    old = after(cart(1), cart(2), cart(3, upcasts=(2,)))
    assert old.latest is not None and old.latest.upcasts == [2]
    both = after(cart(3, upcasts=(1,)), known=old)
    assert both.latest is not None and both.latest.upcasts == [1, 2]
    assert after(cart(3), known=both) == both
    pushed = after(cart(3), known=both, push=True)
    assert pushed.latest is not None and pushed.latest.upcasts == []


def test_a_record_without_versions_is_completed() -> None:
    bare = SchemaRecord(type="CartAbandoned", key_field="customer_id")
    record = after(cart(2, owner="shop", compatibility="FORWARD"), known=bare)
    assert record == after(cart(2, owner="shop", compatibility="FORWARD"))


# Reading.


@pytest.mark.parametrize(
    ("reader", "registered", "missing"),
    [
        # What fits as it is needs no upcaster, and versions that were never there none either.
        (cart(3, note=(str, "")), [cart(1)], None),
        (cart(5, value=INT), [cart(1, value=INT), cart(3, value=INT)], None),
        (cart(1, value=INT), [cart(2, other=INT, upcasts=(1,)), cart(3)], None),
        # A step that is missing, next to the class, before an upcaster, and behind one.
        (cart(2, value=INT), [cart(1)], (1, "the class itself does not read it")),
        (cart(3, value=INT, upcasts=(2,)), [cart(1), cart(2, other=INT)], (1, "its upcaster from version 2 does not")),
        (cart(3, value=INT, upcasts=(1,)), [cart(1), cart(2, other=INT)], (2, "the class itself does not read it")),
        # Bridged: by one step, by two, by one over a version that is read as it is.
        (cart(2, value=INT, upcasts=(1,)), [cart(1)], None),
        (cart(3, value=INT, upcasts=(1, 2)), [cart(1), cart(2, other=INT)], None),
        (cart(4, value=INT, upcasts=(2,)), [cart(1, other=INT), cart(2, other=INT)], None),
        (cart(4, value=INT, upcasts=(1,)), [cart(1), cart(3, value=INT)], None),
        # What an upcaster made of a version that was never registered is its author's word.
        (cart(3, value=INT, upcasts=(1,)), [cart(1)], None),
        # What an upcaster of such a version reads is not known.
        (cart(3, value=INT, upcasts=(2,)), [cart(1)], (1, "version 2 was never registered")),
        # A chain that can never run is no error.
        (cart(3, value=INT, upcasts=(1, 2)), [cart(3, value=INT)], None),
    ],
)
def test_what_was_registered_has_to_be_readable(
    reader: type[Event], registered: list[type[Event]], missing: tuple[int, str] | None
) -> None:
    level = Level.NONE
    known = SchemaRecord(type="CartAbandoned", key_field="customer_id", compatibility=level)
    for cls in registered:
        known = admitted(claim_of(cls), known, now=AT)
    if missing is None:
        check_bridged(claim_of(reader), known)
        return
    number, reason = missing
    with pytest.raises(SchemaError) as caught:
        check_bridged(claim_of(reader), known)
    message = str(caught.value)
    assert f"(shop:CartAbandoned) cannot read version {number}" in message and reason in message
    assert message.endswith(f"the missing step: @upcast(CartAbandoned, from_version={number})")


@pytest.mark.parametrize(
    ("registered", "reader", "missing"),
    [
        # What the next version reads as it is comes along with it.
        ([cart(1), cart(2), cart(3)], cart(4, value=INT), [3]),
        ([cart(1), cart(2, other=INT), cart(3, other=INT)], cart(4, value=INT), [3, 1]),
        # Each step is another.
        ([cart(1), cart(2, other=INT), cart(3, value=INT)], cart(4, value=TEXT), [3, 2, 1]),
        # What is there already is not asked for.
        ([cart(1), cart(2, other=INT), cart(3, value=INT)], cart(4, value=TEXT, upcasts=(2,)), [3, 1]),
        ([cart(1), cart(2, other=INT)], cart(4, value=INT, upcasts=(1,)), [2]),
    ],
)
def test_only_the_steps_that_are_missing_are_asked_for(
    registered: list[type[Event]], reader: type[Event], missing: list[int]
) -> None:
    known = after(
        *registered,
        push=True,
        known=SchemaRecord(type="CartAbandoned", key_field="customer_id", compatibility=Level.NONE),
    )
    with pytest.raises(SchemaError) as caught:
        check_bridged(claim_of(reader), known)
    *lines, last = str(caught.value).splitlines()
    steps = ", ".join(f"@upcast(CartAbandoned, from_version={number})" for number in missing)
    assert last == f"Write the missing step{'s' if len(missing) > 1 else ''}: {steps}"
    told = [line for line in lines if not line.startswith("  ")]
    assert [int(line.partition("cannot read version ")[2].partition(":")[0]) for line in told] == missing
    # Those steps are enough.
    check_bridged(claim_of(reader)._replace(upcasts=[*claim_of(reader).upcasts, *missing]), known)


def test_each_missing_step_shows_what_its_own_next_stop_does_not_read() -> None:
    known = SchemaRecord(type="CartAbandoned", key_field="customer_id", compatibility=Level.NONE)
    known = after(cart(1), cart(2, other=INT), known=known)
    with pytest.raises(SchemaError) as caught:
        check_bridged(claim_of(cart(3, value=INT, other=INT)), known)
    assert "version 2: the class itself does not" in str(caught.value)
    assert "version 1: the upcaster from version 2 does not" in str(caught.value)
    assert [change.path for change in caught.value.difference] == ["value", "other"]
