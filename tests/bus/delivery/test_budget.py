"""What the flows of a process may take together, and that each gets its part."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from sojourn.bus.delivery.budget import SLOTS, Budget, Share

LIMIT = 1_000_000


async def turn() -> None:
    """What the event loop was asked to do has been done afterwards."""
    await asyncio.sleep(0)
    await asyncio.sleep(0)


def flows(budget: Budget, count: int) -> list[Share]:
    return [budget.join(lambda: None) for _ in range(count)]


def fill(budget: Budget, share: Share, size: int = 1_000) -> int:
    """Takes as long as there is something; how much it has in the end."""
    while budget.take(share, size, size):
        pass
    return share.taken


async def test_as_much_is_given_as_there_is() -> None:
    budget = Budget(LIMIT)
    [share] = flows(budget, 1)
    assert budget.take(share, 10, 5_000) == 5_000
    assert budget.take(share, 10, 10 * LIMIT) == LIMIT // 2 - 5_000 + LIMIT // 8
    assert share.taken == budget.used == LIMIT // 2 + LIMIT // 8
    budget.leave(share)
    assert budget.used == 0


async def test_a_flow_alone_does_not_get_all() -> None:
    budget = Budget(LIMIT)
    greedy, late = flows(budget, 2)
    # Its own quarter, and a fifth of the half that is lent.
    assert 345_000 <= fill(budget, greedy) <= 350_000
    assert 325_000 <= fill(budget, late) <= 350_000


async def test_those_who_take_all_they_get_leave_the_others_their_own_part() -> None:
    budget = Budget(LIMIT)
    share, *greedy = flows(budget, 32)
    for _ in range(3):
        for other in greedy:
            fill(budget, other)
    own = LIMIT // 2 // 32
    assert budget.used <= LIMIT - own
    assert fill(budget, share, 500) > own - 500
    assert budget.used <= LIMIT


async def test_what_is_refused_comes_once_there_is_room() -> None:
    budget = Budget(LIMIT)
    called: list[str] = []
    one = budget.join(lambda: called.append("one"))
    other = budget.join(lambda: called.append("other"))
    fill(budget, one)
    fill(budget, other)
    await turn()
    assert called == []
    budget.give(other, 100)
    await turn()
    assert called == [], "a hundred bytes are no room for a thousand"
    budget.give(other, 900)
    await turn()
    # Whatever one of them gives back, the other is lent a part of.
    assert called == ["other"]
    budget.give(one, one.taken)
    await turn()
    assert called == ["other", "one"]


async def test_messages_larger_than_all_of_it_get_through_a_few_at_a_time() -> None:
    budget = Budget(LIMIT)
    called: list[int] = []
    shares = [budget.join(lambda n=n: called.append(n)) for n in range(10)]  # type: ignore[misc] # bound at once
    granted = [budget.take(share, 2 * LIMIT, 2 * LIMIT) for share in shares]
    assert granted == [2 * LIMIT] * SLOTS + [0] * (10 - SLOTS)
    assert budget.take(shares[0], 10, 10) == 0, "it has more than its part already"
    budget.give(shares[1], 2 * LIMIT)
    await turn()
    # In the order in which they came; whoever does not ask again is passed.
    assert called[0] == SLOTS
    assert budget.take(shares[SLOTS], 2 * LIMIT, 2 * LIMIT) == 2 * LIMIT


async def test_a_flow_that_leaves_makes_room() -> None:
    budget = Budget(LIMIT)
    called: list[str] = []
    leaving, staying = budget.join(lambda: None), budget.join(lambda: called.append("room"))
    fill(budget, leaving)
    before = fill(budget, staying)
    budget.leave(leaving)
    await turn()
    assert called == ["room"]
    assert fill(budget, staying) > before
    assert budget.used == staying.taken
    budget.leave(staying)
    assert (budget.used, budget.waiting) == (0, {})


async def test_flows_that_join_take_nothing_that_others_have() -> None:
    budget = Budget(LIMIT)
    [first] = flows(budget, 1)
    fill(budget, first)
    late = flows(budget, 31)
    for share in late:
        fill(budget, share)
    # A flow with nothing may always have one message in a slot.
    assert budget.used <= LIMIT + SLOTS * 1_000
    budget.give(first, first.taken)
    assert all(fill(budget, share) >= LIMIT // 2 // 32 - 1_000 for share in late)
    assert budget.used <= LIMIT + SLOTS * 1_000


steps = st.lists(
    st.tuples(st.integers(0, 5), st.sampled_from(["take", "take", "give", "drop"]), st.integers(1, 60_000)),
    max_size=200,
)


@given(steps, st.integers(1, 6))
def test_the_bound_holds_and_nobody_starves(steps: list[tuple[int, str, int]], count: int) -> None:
    largest = 60_000

    async def main() -> None:
        budget = Budget(100_000)
        wanting: dict[int, int] = {}
        shares = [budget.join(lambda n=n: again(n)) for n in range(count)]  # type: ignore[misc] # bound at once

        def again(number: int) -> None:
            size = wanting.pop(number)
            assert budget.take(shares[number], size, size) == size, "it was told that there is room"

        for number, what, size in steps:
            share = shares[number % count]
            if what == "take":
                wanting.pop(number % count, None)
                granted = budget.take(share, size, size)
                assert granted in {0, size}
                if not granted:
                    wanting[number % count] = size
            else:
                budget.give(share, share.taken if what == "drop" else size)
            if number % 2:
                await turn()
            assert budget.used == sum(one.taken for one in shares)
            assert budget.used <= 100_000 + SLOTS * largest
            assert set(budget.waiting) == {shares[one] for one in wanting}
        # Everything is acked: whoever waits gets what it waits for, and gives it back in turn.
        for _ in range(count + 1):
            for share in shares:
                budget.give(share, share.taken)
            await turn()
        assert wanting == {}

    asyncio.run(main())
