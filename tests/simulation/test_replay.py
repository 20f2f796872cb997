from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from sojourn.bus.catalog import Catalog
from sojourn.bus.errors import ConfigurationError
from sojourn.simulation.replay import run_replay
from sojourn.simulation.source import Recording
from sojourn.simulation.timeline import Happening
from tests.simulation.shop import CATALOG, Lapse
from tests.simulation.world import MEMORY, at, ordered


class Listed:
    """A source of what it is given."""

    name = "a list"

    def __init__(self, *happenings: Happening) -> None:
        self._happenings = happenings

    def read(self, catalog: Catalog) -> Iterator[Recording]:
        for happening in self._happenings:
            yield Recording(happening.event.customer_id, happening)  # type: ignore[attr-defined]  # all of these have one


async def test_it_runs_from_the_midnight_before_the_first_event_to_the_one_after_the_last() -> None:
    source = Listed(ordered("a", 9.5), ordered("b", 0.5), ordered("a", 2))
    result = await run_replay(source, [Lapse(days=3)], CATALOG, engine=MEMORY)
    assert (result.start, result.end) == (at(0), at(10))
    # a lapses after day 2 and b after day 0.5; what would come after the end does not.
    assert (result.events, result.journeys, result.tally.fired) == (3, 2, 2)
    assert result.clean
    document = json.loads(json.dumps(result.to_json()))
    assert document.pop("run")["engine"] == "memory"
    assert document == result.table()
    assert document["source"] == "a list"


async def test_what_happened_at_the_same_moment_stays_in_its_order() -> None:
    source = Listed(*(ordered("a", 1, id=str(number), items=number) for number in (3, 1, 2)))
    result = await run_replay(source, [Lapse(days=3)], CATALOG, engine=MEMORY)
    assert result.events == 3


async def test_an_empty_source_and_an_id_that_comes_twice_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="a list holds no events"):
        await run_replay(Listed(), [], CATALOG, engine=MEMORY)
    with pytest.raises(ConfigurationError, match="two events have the id 'x'"):
        await run_replay(Listed(ordered("a", 1, id="x"), ordered("b", 1, id="x")), [], CATALOG, engine=MEMORY)
