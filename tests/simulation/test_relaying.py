"""Agents that put out events for other customers, on virtual time."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal

from sojourn import Agent, Event, Journey, Key, agent, evolve, on
from sojourn.agents.processor import AgentProcessor
from sojourn.bus.catalog import Catalog
from sojourn.simulation.audit import Tally
from sojourn.simulation.engine import Engine
from sojourn.simulation.run import run_timelines
from sojourn.simulation.timeline import Happening
from tests.nats_server import NatsServer
from tests.simulation.shop import CartAbandoned
from tests.simulation.world import MEMORY, START, Scripted, at

CUSTOMERS = 40


class FriendTold(Event):
    """Somebody told a friend of a cart. ``way``: who has passed it on."""

    customer_id: Key
    way: tuple[str, ...]


class FriendThanked(Event):
    """What the friend made of it: ``heard`` is how much was heard before, and from whom last."""

    customer_id: Key
    way: tuple[str, ...]
    heard: int
    last: str
    carts: int


class Talk(Journey):
    """What somebody heard."""

    heard: int = 0
    last: str = ""
    carts: int = 0

    @evolve(FriendTold)
    def told(self, event: FriendTold) -> None:
        self.heard += 1
        self.last = "-".join(event.way)

    @evolve(CartAbandoned)
    def abandoned(self, event: CartAbandoned) -> None:
        self.carts += 1


@agent("gossip")
class Gossip(Agent[Talk]):
    """Tells two friends of every cart; one of them passes it on."""

    @on(CartAbandoned)
    def abandoned(self, event: CartAbandoned, talk: Talk) -> Iterator[FriendTold]:
        number = int(event.customer_id)
        for friend in (number * 7 + talk.carts, number // 2):
            yield FriendTold(customer_id=str(friend % CUSTOMERS), way=(event.customer_id,))

    @on(FriendTold)
    def told(self, event: FriendTold, talk: Talk) -> Iterator[FriendThanked | FriendTold]:
        yield FriendThanked(
            customer_id=event.customer_id, way=event.way, heard=talk.heard, last=talk.last, carts=talk.carts
        )
        if len(event.way) < 3:
            friend = (int(event.customer_id) * 3 + talk.heard) % CUSTOMERS
            yield FriendTold(customer_id=str(friend), way=(*event.way, event.customer_id))


def timelines() -> list[Scripted]:
    def abandoned(number: int, turn: int) -> Happening:
        days = turn / 3 + (number * 13 % 17) / 100
        event = CartAbandoned(customer_id=str(number), cart_value=Decimal(80))
        return Happening(at(days), f"{number}-{turn}", event)

    return [Scripted(str(number), [abandoned(number, turn) for turn in range(6)]) for number in range(CUSTOMERS)]


async def play(engine: Engine) -> Tally:
    tally, _ = await run_timelines(
        timelines(),
        [AgentProcessor(Gossip)],
        Catalog([CartAbandoned]),
        start=START,
        end=at(4),
        window=timedelta(hours=6),
        engine=engine,
        source="test",
    )
    return tally


async def test_the_same_customers_give_the_same_table() -> None:
    first = await play(MEMORY)
    assert first.clean, first
    told = first.actions["gossip"]
    # Who is told of something by himself knows it already.
    assert 1000 < told["FriendThanked"] < told["FriendTold"]
    assert await play(MEMORY) == first


async def test_both_engines_give_the_same_table(server: NatsServer) -> None:
    assert await play(Engine("nats", namespace="gossip", url=server.url)) == await play(MEMORY)
