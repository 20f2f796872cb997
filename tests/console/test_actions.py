from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from sojourn.bus.personal.key import CustomerKey
from sojourn.bus.subjects import Namespace
from sojourn.console.actions import Action, action_of, grid
from sojourn.console.lens import Lens
from sojourn.console.terminal import paint

NOW = datetime(2026, 11, 23, 18, tzinfo=UTC)
AT = Namespace().locate("c-0042")
SUBJECT = Namespace().action(AT, "win-back", "DiscountOffered")
DOCUMENT = {
    "specversion": "1.0",
    "type": "DiscountOffered",
    "subject": "c-0042",
    "time": "2026-11-23T12:04:31.5Z",
    "causetype": "CartAbandoned",
    "data": {"customer_id": "c-0042", "percent": 10, "code": "SAVE 10", "until": None},
}


def line(action: Action, width: int | None, **names: Any) -> str:
    return paint(grid(width, **names).line(action, NOW), colour=False)


def offered(**changes: Any) -> Action:
    action = action_of(SUBJECT, json.dumps({**DOCUMENT, **changes}).encode(), 0)
    assert action is not None
    return action


def test_an_action_is_read_from_subject_and_document() -> None:
    assert offered() == Action(
        datetime(2026, 11, 23, 12, 4, 31, 500_000, tzinfo=UTC),
        "c-0042",
        "win-back",
        "DiscountOffered",
        {"percent": 10, "code": "SAVE 10"},
        "CartAbandoned",
    )


@pytest.mark.parametrize(
    ("width", "shown"),
    [
        (50, "   12:04:31 c-0042   win-back    DiscountOffered"),
        (80, "   12:04:31 c-0042    win-back     DiscountOffered percent=10 … ← CartAbandoned"),
        (
            120,
            (
                '   12:04:31  c-0042           win-back      DiscountOffered percent=10 code="SAVE 10"'
                "                   ← CartAbandoned"
            ),
        ),
    ],
)
def test_the_grid_holds_still(width: int, shown: str) -> None:
    assert line(offered(), width) == shown


def test_columns_fit_the_names_that_are_known() -> None:
    known = {"agents": frozenset({"cart-recovery"}), "causes": frozenset({"CartAbandoned"})}
    assert (
        line(offered(), 80, **known)
        == "   12:04:31 c-0042    win-back      DiscountOffered percent=10 … ← CartAbandoned"
    )


def test_where_nothing_is_cut_everything_is_there() -> None:
    assert line(offered(), None) == (
        "2026-11-23 12:04:31  c-0042            win-back        "
        'DiscountOffered percent=10 code="SAVE 10"  ← CartAbandoned'
    )


def test_an_action_for_another_customer_names_the_one_it_comes_from() -> None:
    subject = Namespace().action(AT, "win-back~c=2E1", "DiscountOffered")
    action = action_of(subject, json.dumps(DOCUMENT).encode(), 0)
    assert action is not None
    assert (action.customer, action.agent, action.source) == ("c-0042", "win-back", "c.1")
    assert line(action, 120).startswith(
        "   12:04:31  c-0042           win-back      DiscountOffered from c.1 percent=10"
    )
    strange = action_of(Namespace().action(AT, "win-back~=", "DiscountOffered"), b"", 0)
    assert strange is not None
    assert (strange.agent, strange.source) == ("win-back", "=")


@pytest.mark.parametrize(
    ("time", "shown"),
    [
        ("2026-11-23T12:04:31Z", "   12:04:31"),
        ("2026-11-22T23:59:59Z", "11-22 23:59"),
        ("2026-11-23T00:30:00+02:00", "11-22 22:30"),
        ("1997-01-01T00:00:00Z", " 1997-01-01"),
    ],
)
def test_times_of_other_days_show_the_day(time: str, shown: str) -> None:
    assert line(offered(time=time), 80).startswith(f"{shown} c-0042")


@pytest.mark.parametrize(
    "payload",
    [
        b"", b"\xff", b"[]", b"null", b"[" * 100_000, b'{"data": {}}', b'{"time": 1, "data": {}}',
        b'{"time": "2026-11-23T12:00:00", "data": {}}', b'{"time": "2026-11-23T12:00:00Z", "data": []}',
        b'{"time": "2026-11-23T12:00:00Z", "data": {}, "causetype": 7}',
    ],
)  # fmt: skip
def test_an_unreadable_document_is_shown_as_such(payload: bytes) -> None:
    action = action_of(SUBJECT, payload, 1_795_435_200_000_000_000)
    assert action is not None
    assert (action.customer, action.agent, action.type) == ("c-0042", "win-back", "DiscountOffered")
    assert line(action, 120).endswith("DiscountOffered (not a CloudEvents document)")


@pytest.mark.parametrize("subject", ["sojourn.log.1.c1.evt.CartAbandoned", "sojourn.lane.1.c1.act.a.out", "else", ""])
def test_what_is_no_action_is_none(subject: str) -> None:
    assert action_of(subject, b"{}", 0) is None


@given(
    st.text(min_size=1, max_size=40), st.text(max_size=40),
    st.dictionaries(st.text(max_size=9), st.none() | st.integers() | st.floats() | st.text() | st.lists(st.text())),
    st.integers(40, 200),
)  # fmt: skip
@settings(max_examples=300)
def test_no_customer_or_field_breaks_the_line(customer: str, cause: str, fields: dict[str, Any], width: int) -> None:
    action = Action(NOW, customer, "win-back", "DiscountOffered", fields, cause)
    for shown in (line(action, width), line(action, None)):
        assert shown.isprintable()
    assert cell_len(line(action, width)) <= width


names = st.frozensets(st.text("ab-", min_size=1, max_size=64))


@given(st.integers(40, 300), names, names)
def test_every_width_leaves_room_for_the_action(width: int, agents: frozenset[str], causes: frozenset[str]) -> None:
    assert grid(width, agents, causes).action >= width // 4
    assert cell_len(paint(grid(width, agents, causes).header(), colour=False)) <= width


def test_agents_that_are_known_have_colours_of_their_own() -> None:
    known = frozenset({"cart-recovery", "lapse-watch", "loyalty", "win-back"})
    styles = set()
    for agent in known:
        action = Action(NOW, "c1", agent, "T", {}, None)
        styles |= {span.style for span in grid(80, known).line(action, NOW) if span.text.strip() == agent}
    assert len(styles) == len(known)


def test_an_agent_keeps_its_colour() -> None:
    first, second = (grid(80).line(offered(data={"percent": n}), NOW) for n in (1, 2))
    assert [span.style for span in first if span.text.startswith("win-back")] == [
        span.style for span in second if span.text.startswith("win-back")
    ]


def test_an_action_is_seen_through_the_lens_that_is_given() -> None:
    class Told(Lens):
        def show(self, type: str, document: dict[str, Any], payload: bytes) -> tuple[dict[str, Any], str | None]:
            return {**document, "data": {"customer_id": "c-0042", "as": type}}, "no such version"

    action = action_of(SUBJECT, json.dumps(DOCUMENT).encode(), 0, Told())
    assert action is not None
    assert (action.fields, action.trouble) == ({"as": "DiscountOffered"}, "no such version")
    assert "DiscountOffered (no such version)" in line(action, None)


def test_what_is_sealed_is_never_shown() -> None:
    key, _ = CustomerKey.new()
    action = offered(data={"customer_id": "c-0042", "to": key.seal(b'"ann@x.org"'), "percent": 10})
    assert "DiscountOffered to=••• percent=10" in line(action, None)
    assert key.id not in line(action, None)
