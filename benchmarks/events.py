"""The events that are measured: a cart of about 300 bytes of JSON, once with a plain address and once with a personal
one, and the agents that answer them."""

from __future__ import annotations

import random
from decimal import Decimal
from time import perf_counter, process_time
from typing import TypeVar

from sojourn import Agent, Event, Key, Personal, agent, on


class Cart(Event, abstract=True):
    """What both carts hold. ``number`` tells each event from all others."""

    customer_id: Key
    number: int
    value: Decimal
    page: str
    items: list[str]


class CartAbandoned(Cart):
    """A customer left with items in the cart; the address is as plain as the rest."""

    email: str | None = None


class CartForgotten(Cart):
    """The same, but the address is personal."""

    email: Personal[str] | None = None


class CustomerReminded(Event):
    """A customer was reminded of a cart."""

    customer_id: Key
    number: int
    letters: int


class Reminder(Agent):
    """What both agents do, and when they began to."""

    begun: tuple[float, float] | None = None

    def answer(self, event: Cart, email: str | None) -> CustomerReminded:
        if self.begun is None:
            self.begun = perf_counter(), process_time()
        return reminder(event, email)


@agent("reminder-plain", start="beginning")
class PlainReminder(Reminder):
    """Answers carts with a plain address."""

    @on(CartAbandoned)
    def remind(self, event: CartAbandoned) -> CustomerReminded:
        return self.answer(event, event.email)


@agent("reminder-personal", start="beginning")
class PersonalReminder(Reminder):
    """Answers carts with a personal address."""

    @on(CartForgotten)
    def remind(self, event: CartForgotten) -> CustomerReminded:
        return self.answer(event, event.email)


def reminder(event: Cart, email: str | None) -> CustomerReminded:
    """What a cart is answered with."""
    return CustomerReminded(customer_id=event.customer_id, number=event.number, letters=len(email or ""))


C = TypeVar("C", CartAbandoned, CartForgotten)


class Source:
    """Makes events: the same for the same seed, each with a number of its own."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self._number = 0

    def carts(self, cls: type[C], customers: list[str], count: int) -> list[C]:
        """Carts of customers drawn at random."""
        return [self.cart(cls, self._chance.choice(customers)) for _ in range(count)]

    def cart(self, cls: type[C], customer: str) -> C:
        chance = self._chance
        self._number += 1
        articles = chance.sample(range(100_000, 999_999), 6)
        return cls(
            customer_id=customer,
            number=self._number,
            value=Decimal(chance.randrange(500, 50_000)) / 100,
            page=f"https://shop.example/cart/{chance.getrandbits(48):012x}",
            items=[f"article-{article}" for article in articles],
            email=f"{customer}@mail{chance.randrange(10)}.example",
        )


def customers(count: int, prefix: str = "customer") -> list[str]:
    return [f"{prefix}-{number:05}" for number in range(count)]
