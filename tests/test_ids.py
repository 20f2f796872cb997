"""Names of parametrized cases: parallel runs would refuse to run at all if they differed."""

from __future__ import annotations

from tests.ids import told


def test_a_name_depends_neither_on_addresses_nor_on_the_order_of_a_set() -> None:
    for _ in range(50):
        # Of each set the order is a matter of where the objects happen to be.
        things = [object() for _ in range(3)]
        assert told({1, "a", *things[:2]}) == "{1, <object object>, <object object>, a}"
        assert told(things[2]) == "<object object>"
    assert told(frozenset({"b", "a"})) == "{a, b}"
