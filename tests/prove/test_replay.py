"""The whole CDNOW log: twice on NATS and once in memory, the agents do the same."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import examples.retail
from sojourn.agents.loading import catalog_of, load_agents
from sojourn.simulation.cdnow import Cdnow
from sojourn.simulation.engine import Engine
from sojourn.simulation.replay import run_replay
from tests.nats_server import NatsServer
from tests.prove.keeping import SERVER, keep

EVENTS = 69_659
CUSTOMERS = 23_570


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[NatsServer]:
    server = NatsServer(tmp_path).start()
    yield server
    server.stop()


@pytest.mark.prove
async def test_the_whole_log_gives_the_same_actions_twice_and_on_both_engines(own_server: NatsServer) -> None:
    agents = load_agents("examples.retail")
    catalog = catalog_of(agents, examples.retail)
    nats = Engine("nats", "cdnow", url=own_server.url)
    results = [await run_replay(Cdnow(), agents, catalog, engine=engine) for engine in (nats, nats, Engine("memory"))]
    tables = [result.table() for result in results]
    keep("replay", {"server": SERVER, "tables_equal": tables[0] == tables[1] == tables[2], "table": tables[0]})
    for result in results:
        assert result.clean
        assert (result.events, result.journeys) == (EVENTS, CUSTOMERS)
    assert tables[0] == tables[1] == tables[2]
