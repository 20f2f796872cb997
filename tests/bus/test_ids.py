"""Identifiers: well-formed, unique where they should be, the same for ever where they should be."""

from __future__ import annotations

import time
import uuid

from hypothesis import given
from hypothesis import strategies as st

from sojourn.bus.ids import derived_id, uuid7

PART = st.text(max_size=8) | st.integers() | st.sampled_from(["", "\x1f", "1", "a\x1fb", '", "', "\ud800", "[", "null"])


def test_uuid7_is_one_and_holds_the_time() -> None:
    before = time.time_ns() // 1_000_000
    ids = [uuid7() for _ in range(2_000)]
    after = time.time_ns() // 1_000_000
    assert len(set(ids)) == 2_000
    for text in ids:
        parsed = uuid.UUID(text)
        assert str(parsed) == text
        assert parsed.version == 7 and parsed.variant == uuid.RFC_4122
        assert before <= parsed.int >> 80 <= after


def test_uuid7_has_74_random_bits() -> None:
    ones = zeros = 0
    for _ in range(200):
        ones |= uuid.UUID(uuid7()).int
        zeros |= ~uuid.UUID(uuid7()).int
    free = (1 << 80) - 1 & ~(0xF << 76) & ~(0x3 << 62)
    assert ones & free == free and zeros & free == free


@given(st.lists(PART, max_size=4))
def test_a_derived_id_is_the_same_for_the_same_parts(parts: list[str | int]) -> None:
    parsed = uuid.UUID(derived_id(*parts))
    assert parsed.version == 8 and parsed.variant == uuid.RFC_4122
    assert derived_id(*parts) == derived_id(*parts)


@given(st.lists(PART, max_size=4), st.lists(PART, max_size=4))
def test_other_parts_give_another_id(one: list[str | int], other: list[str | int]) -> None:
    assert (derived_id(*one) == derived_id(*other)) == (one == other)


def test_a_derived_id_stays_what_it_is() -> None:
    # Stored timers and outside systems know these: they may never change.
    assert derived_id("timer", "sojourn", "c1", "win-back", "lapse", 1) == "8ada30ae-8c9f-8f7f-b241-5dcc1cc7ed7a"
