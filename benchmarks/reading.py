"""Reading: a worker from end to end with and without a personal field, and documents of older versions."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Sequence
from time import perf_counter, process_time
from typing import Any

from benchmarks.events import (
    CartAbandoned,
    CartForgotten,
    CustomerReminded,
    PersonalReminder,
    PlainReminder,
    Reminder,
    Source,
    customers,
    reminder,
)
from benchmarks.figures import Comparison, Pass
from benchmarks.publishing import WrongError, fresh_bus
from sojourn import Event, Key, upcast
from sojourn.agents.processor import AgentProcessor
from sojourn.bus.client import Bus
from sojourn.bus.clock import WallClock
from sojourn.bus.delivery.worker import Worker
from sojourn.bus.envelope import decode, encode
from sojourn.bus.ids import uuid7
from sojourn.bus.ports import Append
from sojourn.bus.subjects import parse_log_subject

_CUSTOMERS = 250
"""Few enough that a customer's first event, for which the lane has to be read, is the exception."""


async def worker(url: str, source: Source, *, events: int, rounds: int, fsync: str) -> Comparison:
    """An agent that answers each event with another one, from the first event handled to the last answer stored."""
    comparison = Comparison("worker", "an agent from end to end", "plain", "personal", None, fsync)
    for number in range(-1, rounds):
        passes: dict[int, Pass] = {}
        for place in (0, 1) if number % 2 else (1, 0):
            async with fresh_bus(url) as bus:
                passes[place] = await _answered(bus, source, events, personal=bool(place))
        if number >= 0:  # The first round warms up.
            comparison.rounds.append((passes[0], passes[1]))
    return comparison


async def _answered(bus: Bus, source: Source, events: int, *, personal: bool) -> Pass:
    shoppers = customers(_CUSTOMERS)
    carts: Sequence[CartAbandoned | CartForgotten]
    if personal:
        await asyncio.gather(*map(bus.keys.ensure, shoppers))
        carts = source.carts(CartForgotten, shoppers, events)
    else:
        carts = source.carts(CartAbandoned, shoppers, events)
    async with bus.publisher() as publisher:
        for cart in carts:
            await publisher.publish(cart)
    processor = AgentProcessor(PersonalReminder if personal else PlainReminder)
    stored, ended, done = 0, (0.0, 0.0), asyncio.Event()

    def seen(_stream: str, appends: Sequence[Append], _sequences: Sequence[int]) -> None:
        nonlocal stored, ended
        for append in appends:
            found = parse_log_subject(append.subject)
            stored += found is not None and found.family == "act"
        if stored == events and not done.is_set():
            ended = perf_counter(), process_time()
            done.set()

    bus.committer.observers.append(seen)
    gc.collect()
    async with Worker(bus, [processor], catalog=[CartAbandoned, CartForgotten, CustomerReminded], ingress=False):
        await done.wait()
    await _verify(bus, carts)
    agent = processor.agent
    if not isinstance(agent, Reminder) or agent.begun is None:
        raise WrongError("answers were stored, but nothing was handled")
    return Pass(events, ended[0] - agent.begun[0], ended[1] - agent.begun[1])


async def _verify(bus: Bus, carts: Sequence[CartAbandoned | CartForgotten]) -> None:
    """Raises `WrongError` unless each event was answered once, and with what stood in it."""
    answers: list[Event] = []
    for stream in bus.namespace.streams:
        stored = await bus.transport.read(stream, f"{bus.namespace.name}.log.*.*.act.>")
        answers += [decode(message.payload, CustomerReminded).event for message in stored]
    expected = {cart.number: reminder(cart, cart.email) for cart in carts}
    found = {event.number: event for event in answers if isinstance(event, CustomerReminded)}
    if len(answers) != len(carts) or found != expected:
        raise WrongError(f"{len(carts)} events were handled, {len(answers)} answers stored, or with other content")


def _first_version() -> type[Event]:
    class ProfileUpdated(Event):
        customer_id: Key
        name: str
        interests: list[str]

    return ProfileUpdated


def _second_version() -> type[Event]:
    class ProfileUpdated(Event, version=2):
        customer_id: Key
        first: str
        last: str
        interests: list[str]

    return ProfileUpdated


class ProfileUpdated(Event, version=3):
    """What a customer says about herself, in its third version."""

    customer_id: Key
    first: str
    last: str
    language: str
    interests: list[str]


@upcast(ProfileUpdated, from_version=1)
def _in_two_names(data: dict[str, Any]) -> dict[str, Any]:
    first, _, last = data.pop("name").partition(" ")
    return {**data, "first": first, "last": last}


@upcast(ProfileUpdated, from_version=2)
def _with_language(data: dict[str, Any]) -> dict[str, Any]:
    return {**data, "language": "en"}


def documents(version: int, count: int) -> list[bytes]:
    """Stored documents of a version of `ProfileUpdated`."""
    now = WallClock().now()
    made = []
    for number in range(count):
        key, first, last = f"customer-{number:05}", f"Ann{number}", "Lee"
        data = {"customer_id": key, "interests": ["running", "chess", "gardening", "cycling", "photography"]}
        match version:
            case 1:
                event = _FIRST.model_validate({**data, "name": f"{first} {last}"})
            case 2:
                event = _SECOND.model_validate({**data, "first": first, "last": last})
            case _:
                event = ProfileUpdated.model_validate({**data, "first": first, "last": last, "language": "en"})
        made.append(encode(event, id=uuid7(), source="/bench", key=key, time=now))
    return made


_FIRST = _first_version()
_SECOND = _second_version()


def upcasting(*, events: int, rounds: int) -> list[Comparison]:
    """Decoding documents of the present version against those of the one before, and of the one before that."""
    comparisons = [
        Comparison("upcast one", "one version older", "present", "older", None),
        Comparison("upcast two", "two versions older", "present", "older", None),
    ]
    older = [documents(2, events), documents(1, events)]
    present = documents(3, events)
    expected = [decode(payload, ProfileUpdated).event for payload in present]
    for payloads in older:
        if [decode(payload, ProfileUpdated).event for payload in payloads] != expected:
            raise WrongError("what was brought up is not what is written today")
    for number in range(rounds):
        for comparison, payloads in zip(comparisons, older, strict=True):
            if number % 2:
                first, second = _decoded(present), _decoded(payloads)
            else:
                second, first = _decoded(payloads), _decoded(present)
            comparison.rounds.append((first, second))
    return comparisons


def _decoded(payloads: Sequence[bytes]) -> Pass:
    gc.collect()
    started, cpu = perf_counter(), process_time()
    for payload in payloads:
        decode(payload, ProfileUpdated)
    return Pass(len(payloads), perf_counter() - started, process_time() - cpu)
