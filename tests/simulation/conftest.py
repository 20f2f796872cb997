from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.nats_server import NatsServer


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """One nats-server for a module's tests, which use namespaces of their own."""
    running = NatsServer(Path(tmp_path_factory.mktemp("nats"))).start()
    yield running
    running.stop()
