"""What durable consumers on every transport adapter have to do."""

from __future__ import annotations

import asyncio

import pytest

from sojourn.bus.delivery.budget import Budget
from sojourn.bus.errors import (
    ClosedError,
    NotFoundError,
)
from tests.bus.arena import DEADLINE, Arena, Taking, eventually


class Budgeted(Taking):
    """One that shares a budget."""

    def __init__(self, arena: Arena, name: str, budget: Budget) -> None:
        self.deliveries = []
        self.reasons = []
        self.flow = arena.transport.consume(
            arena.stream, name, self.deliveries.append, self.reasons.append, budget=budget
        )


class ConsumerContract:
    """`Consumers` and `Consumption`."""

    async def test_deliveries_come_in_order_and_are_counted(self, arena: Arena) -> None:
        transport, ns = arena.transport, arena.ns
        await transport.ensure_consumer(arena.stream, "c-1", f"{ns}.log.1.*.evt.>", start=1, max_ack_pending=1_000)
        await transport.commit(
            arena.stream, [arena.event("k", partition=1 + n % 2, payload=b"%d" % n) for n in range(600)]
        )
        taking = Taking(arena, "c-1")
        await taking.flow.restart()
        await taking.got(300)
        assert taking.sequences == list(range(1, 601, 2))
        assert taking.counted == list(range(1, 301))
        first = taking.deliveries[0]
        stored = await transport.get(arena.stream, 1)
        assert stored is not None
        assert first[:4] == (f"{ns}.log.1.k.evt.Seen", 1, b"0", first.timestamp)
        assert first.timestamp // 1_000_000 == stored.timestamp // 1_000_000
        await taking.flow.close()

    async def test_nothing_comes_before_restart_nor_after_close(self, arena: Arena) -> None:
        await self.consumer(arena)
        taking = Taking(arena, "c-1")
        await arena.send(arena.event("k"))
        await self.settled(arena)
        assert taking.deliveries == []
        await taking.flow.restart()
        await taking.got(1)
        await taking.flow.close()
        await arena.send(arena.event("k"))
        await self.settled(arena)
        assert taking.sequences == [1]
        with pytest.raises(ClosedError):
            await taking.flow.restart()

    async def test_new_messages_flow_for_long(self, arena: Arena) -> None:
        await self.consumer(arena)
        taking = Taking(arena, "c-1")
        await taking.flow.restart()
        for part in range(12):
            await arena.transport.commit(arena.stream, [arena.event("k") for _ in range(100)])
            await taking.got(100 * (part + 1))
            taking.ack(*taking.sequences[-100:])
        assert taking.sequences == taking.counted == list(range(1, 1_201))
        assert taking.reasons == []
        await taking.flow.close()
        await eventually_lag(self, arena, (1_200, 1_200, 0, 0))

    async def test_a_consumer_starts_where_it_is_told_and_is_never_moved(self, arena: Arena) -> None:
        transport, ns = arena.transport, arena.ns
        await arena.send(*(arena.event("k") for _ in range(5)))
        await self.consumer(arena, start=4)
        assert await self.lag(arena) == (3, 3, 2, 0)
        await self.consumer(arena, start=1)
        assert await self.lag(arena) == (3, 3, 2, 0)
        await self.consumer(arena, name="future", start=9)
        await arena.send(*(arena.event("k") for _ in range(5)))
        taking, future = Taking(arena, "c-1"), Taking(arena, "future")
        await taking.flow.restart()
        await future.flow.restart()
        await taking.got(7)
        await future.got(2)
        assert (taking.sequences, future.sequences) == ([4, 5, 6, 7, 8, 9, 10], [9, 10])
        assert await transport.consumer_lag(arena.stream, "nobody") is None
        await taking.flow.close()
        await future.flow.close()
        assert ns

    async def test_a_changed_filter_keeps_the_position(self, arena: Arena) -> None:
        await arena.send(arena.event("k"), arena.action("k", 0), arena.event("k"))
        await self.consumer(arena, filter="log.1.*.evt.>")
        taking = Taking(arena, "c-1")
        await taking.flow.restart()
        await taking.got(2)
        taking.ack(1, 3)
        await taking.flow.close()
        await self.consumer(arena, filter="log.1.>")
        await arena.send(arena.action("k", 2), arena.event("k"))
        again = Taking(arena, "c-1")
        await again.flow.restart()
        await again.got(2)
        assert again.sequences == [4, 5] and again.counted == [1, 2]
        await again.flow.close()

    async def test_restart_delivers_again_from_the_ack_floor(self, arena: Arena) -> None:
        await self.consumer(arena)
        await arena.send(*(arena.event("k") for _ in range(6)))
        taking = Taking(arena, "c-1")
        await taking.flow.restart()
        await taking.got(6)
        taking.ack(1, 2, 4)  # 4 lies above the floor: it comes again
        await eventually_lag(self, arena, (2, 6, 0, 3))
        taking.deliveries.clear()
        await taking.flow.restart()
        await taking.got(4)
        assert taking.sequences == [3, 4, 5, 6]
        assert taking.counted == [1, 2, 3, 4]
        taking.ack(3, 4, 5, 6)
        await eventually_lag(self, arena, (6, 6, 0, 0))
        taking.deliveries.clear()
        await taking.flow.restart()
        await arena.send(arena.event("k"))
        await taking.got(1)
        assert (taking.sequences, taking.counted) == ([7], [1])
        await taking.flow.close()

    async def test_acks_of_before_a_close_count_for_the_next_owner(self, arena: Arena) -> None:
        await self.consumer(arena)
        await arena.send(*(arena.event("k") for _ in range(100)))
        first = Taking(arena, "c-1")
        await first.flow.restart()
        await first.got(100)
        first.ack(*range(1, 71))
        first.flow.progress(first.deliveries[-1].token)
        await first.flow.close()
        second = Taking(arena, "c-1")
        await second.flow.restart()
        await second.got(30)
        assert second.sequences == list(range(71, 101)) and second.counted == list(range(1, 31))
        await second.flow.close()

    async def test_at_most_max_ack_pending_are_out(self, arena: Arena) -> None:
        await self.consumer(arena, max_ack_pending=10)
        await arena.send(*(arena.event("k") for _ in range(25)))
        taking = Taking(arena, "c-1")
        await taking.flow.restart()
        await taking.got(10)
        await self.settled(arena)
        assert taking.sequences == list(range(1, 11))
        taking.ack(2, 3, 5)
        await taking.got(13)
        await self.settled(arena)
        assert taking.sequences == list(range(1, 14))
        assert await self.lag(arena) == (0, 13, 12, 10)
        await taking.flow.close()

    async def test_a_second_owner_takes_over(self, arena: Arena) -> None:
        await self.consumer(arena)
        await arena.send(arena.event("k"))
        zombie, owner = Taking(arena, "c-1"), Taking(arena, "c-1")
        await zombie.flow.restart()
        await zombie.got(1)
        await zombie.flow.close()
        await owner.flow.restart()
        await owner.got(1)
        await arena.send(arena.event("k"))
        await owner.got(2)
        assert owner.sequences == owner.counted == [1, 2]
        zombie.ack(1)  # of before: it acts on the new owner's copy
        owner.ack(2)
        await eventually_lag(self, arena, (2, 2, 0, 0))
        await owner.flow.close()

    async def test_a_deleted_stream_breaks_the_flow(self, arena: Arena) -> None:
        await self.consumer(arena)
        taking = Taking(arena, "c-1")
        await taking.flow.restart()
        await self.settled(arena)
        await arena.transport.delete_stream(arena.stream)
        await eventually(lambda: taking.reasons)
        assert len(taking.reasons) == 1
        with pytest.raises(NotFoundError):
            await taking.flow.restart()
        await taking.flow.close()

    async def test_restarting_a_consumer_that_is_not_there(self, arena: Arena) -> None:
        taking = Taking(arena, "nobody")
        with pytest.raises(NotFoundError):
            await taking.flow.restart()
        await taking.flow.close()

    async def test_what_lies_ahead_of_the_floor_is_what_a_consumer_has_not_handled(self, arena: Arena) -> None:
        """The first match after the ack floor is not handled, whatever was acked above the floor or lies between."""
        await self.consumer(arena, filter="log.1.*.evt.>")
        assert await self.ahead(arena) == (0, None)
        await arena.send(
            *(
                arena.action("k", None) if n % 3 == 0 else arena.event(f"k{n}", partition=1 + (n % 5 == 0))
                for n in range(1, 21)
            )
        )
        mine = [1, 2, 4, 7, 8, 11, 13, 14, 16, 17, 19]
        assert await self.ahead(arena) == (len(mine), 1)
        taking = Taking(arena, "c-1")
        await taking.flow.restart()
        await taking.got(len(mine))
        assert taking.sequences == mine
        waiting = set(mine)
        for sequence in (4, 1, 19, 2, 8, 11, 14, 7, 17, 13, 16):
            taking.ack(sequence)
            waiting.discard(sequence)
            await self.in_flight(arena, len(waiting))
            count, first = await self.ahead(arena)
            if waiting:
                assert first == min(waiting)
                assert count == sum(1 for one in mine if one >= min(waiting))
            else:
                assert (count, first) == (0, None)
        await arena.send(arena.event("k", partition=2), arena.event("late"))
        assert await self.ahead(arena) == (1, 22)
        await taking.flow.close()

    async def test_what_lies_ahead_survives_a_reset_and_a_wider_filter(self, arena: Arena) -> None:
        await self.consumer(arena, filter="log.1.*.evt.>")
        await arena.send(arena.event("k"), arena.action("k", 0), arena.event("k"), arena.action("k", 2))
        taking = Taking(arena, "c-1")
        await taking.flow.restart()
        await taking.got(2)
        taking.ack(1)
        await self.in_flight(arena, 1)
        await taking.flow.restart()
        await taking.got(3)
        assert await self.ahead(arena) == (1, 3)
        taking.ack(3)
        await self.in_flight(arena, 0)
        await taking.flow.close()
        await self.consumer(arena, filter="log.1.>")
        assert await self.ahead(arena, filter="log.1.>") == (1, 4)

    async def test_ahead_counts_from_a_position_that_no_consumer_has(self, arena: Arena) -> None:
        await arena.send(*(arena.event(f"k{n}", partition=n % 3) for n in range(1, 3_001)))
        transport, ns = arena.transport, arena.ns
        for filter, start, count, first in (
            ("log.>", 1, 3_000, 1),
            ("log.1.*.evt.>", 0, 1_000, 1),
            ("log.1.*.evt.>", 2_000, 333, 2_002),
            ("log.1.k4.evt.>", 4, 1, 4),
            ("log.1.k4.evt.>", 5, 0, None),
            ("log.1.*.act.>", 1, 0, None),
            ("log.>", 3_001, 0, None),
            ("log.>", 9_999, 0, None),
        ):
            ahead = await transport.ahead(arena.stream, f"{ns}.{filter}", start)
            found = await transport.read(arena.stream, f"{ns}.{filter}", start)
            assert ahead.matching == len(found) == count
            assert ahead.first == (found[0] if found else None)
            assert (ahead.first.sequence if ahead.first is not None else None) == first
        with pytest.raises(NotFoundError):
            await transport.ahead(f"{arena.stream}-NOT", f"{ns}.>")

    async def test_the_clock_of_a_stream_is_the_one_that_stamps(self, arena: Arena) -> None:
        before = await arena.transport.stream_state(arena.stream)
        await arena.send(arena.event("k"))
        stored = await arena.transport.get(arena.stream, 1)
        after = await arena.transport.stream_state(arena.stream)
        assert before is not None and stored is not None and after is not None
        assert before.time // 1_000 <= stored.timestamp // 1_000 <= after.time // 1_000

    async def ahead(self, arena: Arena, *, filter: str = "log.1.*.evt.>") -> tuple[int, int | None]:
        lag = await arena.transport.consumer_lag(arena.stream, "c-1")
        assert lag is not None
        count, first = await arena.transport.ahead(arena.stream, f"{arena.ns}.{filter}", lag.ack_floor + 1)
        return count, first.sequence if first is not None else None

    async def in_flight(self, arena: Arena, count: int) -> None:
        async with asyncio.timeout(DEADLINE):
            while (await self.lag(arena))[3] != count:  # noqa: ASYNC110 - the server counts
                await asyncio.sleep(0.01)

    async def test_no_more_is_in_memory_than_the_budget_allows(self, arena: Arena) -> None:
        await self.consumer(arena)
        budget = Budget(400_000)
        payload = b"x" * 10_000
        for _ in range(5):
            await arena.transport.commit(arena.stream, [arena.event("k", payload=payload) for _ in range(20)])
        taking = Budgeted(arena, "c-1", budget)
        await taking.flow.restart()
        done = 0
        while done < 100:
            await taking.got(done + 1)
            await self.settled(arena)
            assert sum(len(one.payload) for one in taking.deliveries[done:]) <= budget.used <= 400_000
            # Its own half, and a fifth of the other: no more, whatever is in the log.
            assert len(taking.deliveries) - done <= 24
            assert len(taking.deliveries) - done >= min(10, 100 - done)
            new = taking.sequences[done:]
            done = len(taking.deliveries)
            taking.ack(*new)
        assert taking.sequences == taking.counted == list(range(1, 101))
        assert taking.reasons == []
        await taking.flow.close()
        assert budget.used == 0

    async def test_a_flow_that_acks_nothing_leaves_room_for_others(self, arena: Arena) -> None:
        budget = Budget(400_000)
        for partition in (1, 2, 3):
            await self.consumer(arena, f"c-{partition}", filter=f"log.{partition}.>")
        stuck = [Budgeted(arena, f"c-{partition}", budget) for partition in (1, 2)]
        going = Budgeted(arena, "c-3", budget)
        for taking in (*stuck, going):
            await taking.flow.restart()
        for _ in range(5):
            appends = [arena.event("k", partition=1 + n % 3, payload=b"x" * 5_000) for n in range(60)]
            await arena.transport.commit(arena.stream, appends)
        done = 0
        while done < 100:
            await going.got(done + 1)
            new = going.sequences[done:]
            done += len(new)
            going.ack(*new)
        assert going.counted == list(range(1, 101))
        await self.settled(arena)
        assert all(1 < len(taking.deliveries) < 30 for taking in stuck)
        # A restart drops what was held, an ack makes room: both go on.
        await stuck[0].flow.restart()
        stuck[0].deliveries.clear()
        for taking in stuck:
            done = 0
            while done < 100:
                await taking.got(done + 1)
                new = taking.sequences[done:]
                done += len(new)
                taking.ack(*new)
            assert taking.counted == list(range(1, 101))
        for taking in (*stuck, going):
            assert taking.reasons == []
            await taking.flow.close()
        assert budget.used == 0

    async def test_messages_larger_than_the_budget_get_through(self, arena: Arena) -> None:
        await self.consumer(arena)
        budget = Budget(60_000)
        sizes = [10, 300_000, 10, 10, 200_000, 300_000, 10]
        await arena.send(*(arena.event("k", payload=b"x" * size) for size in sizes))
        taking = Budgeted(arena, "c-1", budget)
        await taking.flow.restart()
        for done in range(len(sizes)):
            await taking.got(done + 1)
            await self.settled(arena)
            assert sum(len(one.payload) for one in taking.deliveries[done:]) <= budget.used <= 60_000 + 2 * max(sizes)
            taking.ack(done + 1)
        assert [len(one.payload) for one in taking.deliveries] == sizes
        assert taking.reasons == []
        await taking.flow.close()
        assert budget.used == 0

    async def consumer(self, arena: Arena, name: str = "c-1", *, filter: str = "log.>", **rest: int) -> None:
        await arena.transport.ensure_consumer(
            arena.stream, name, f"{arena.ns}.{filter}", **({"start": 1, "max_ack_pending": 1_000} | rest)
        )

    async def lag(self, arena: Arena) -> tuple[int, int, int, int]:
        lag = await arena.transport.consumer_lag(arena.stream, "c-1")
        assert lag is not None
        return lag.ack_floor, lag.delivered, lag.pending, lag.in_flight

    async def settled(self, arena: Arena) -> None:
        """Round trips after which whatever was under way has arrived."""
        for _ in range(3):
            await arena.transport.stream_state(arena.stream)
            await asyncio.sleep(0.02)


async def eventually_lag(contract: ConsumerContract, arena: Arena, expected: tuple[int, int, int, int]) -> None:
    """Acks are fire and forget: waits until the server has counted them."""
    async with asyncio.timeout(DEADLINE):
        while await contract.lag(arena) != expected:  # noqa: ASYNC110 - the server counts
            await asyncio.sleep(0.01)
