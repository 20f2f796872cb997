"""Letters that go from hand to hand, and the raw log held against their routes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise

from sojourn.bus.client import Bus
from sojourn.bus.subjects import split_writer
from tests.bus.delivery.processors import log_of
from tests.bus.relay_shop import LetterPosted


async def post(bus: Bus, routes: Sequence[tuple[str, ...]]) -> None:
    """One letter for each route, from its first to its last."""
    for n, route in enumerate(routes):
        await bus.publish(LetterPosted(customer_id=route[0], n=n, route=route[1:]))


async def check_routes(bus: Bus, routes: Sequence[tuple[str, ...]]) -> None:
    """Holds the raw log against the routes: each step of each letter once, in order for each source and target."""
    steps = {(n, *pair): 0 for n, route in enumerate(routes) for pair in enumerate(pairwise(route))}
    lanes: dict[str, list[int]] = {}
    records: dict[tuple[str, int], str] = {}
    for stream in bus.namespace.streams:
        for message in await bus.transport.read(stream, f"{bus.namespace.name}.lane.*.*.act.*.relay"):
            records[json.loads(message.payload)["event"]["id"], message.sequence] = message.subject
    arrived: set[str] = set()
    for message in await log_of(bus.transport, bus.namespace, "log.*.*.act.*.*"):
        document = json.loads(message.payload)
        data = document["data"]
        writer, source = split_writer(message.subject.split(".")[5])
        assert (writer, source) == ("courier", bus.namespace.locate(data["sender"]).token)
        assert document["subject"] == data["customer_id"]
        route = routes[data["n"]]
        place = len(route) - len(data["route"]) - 2
        steps[data["n"], place, (data["sender"], data["customer_id"])] += 1
        assert document["hops"] == place + 1
        assert (document["id"], document["causeseq"]) in records, "its cause's place is that of its record"
        assert document["id"] not in arrived
        arrived.add(document["id"])
        lanes.setdefault(message.subject.rpartition(".")[0], []).append(document["causeseq"])
    assert set(steps.values()) <= {1}, {step: times for step, times in steps.items() if times != 1}
    assert len(records) == len(arrived)
    assert all(lane == sorted(lane) for lane in lanes.values())
