"""Servers for tests: one that all share, and private ones that may be killed."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.nats_server import NatsServer

# How long one example takes says more about the machine's other work than about the code.
settings.register_profile("sojourn", deadline=None)
settings.load_profile("sojourn")

# Started in the background of a script, this process ignores it, and so would every one that a test starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def nats_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """A server for ordinary tests; use stream names of your own, and leave it running."""
    server = NatsServer(tmp_path_factory.mktemp("nats")).start()
    yield server
    server.stop()


@pytest.fixture
def private_server(tmp_path: Path) -> Iterator[Callable[..., NatsServer]]:
    """Starts a server of the test's own, with further lines of configuration, that may be killed and paused."""
    servers: list[NatsServer] = []

    def start(settings: str = "") -> NatsServer:
        folder = tmp_path / f"nats-{len(servers)}"
        folder.mkdir()
        server = NatsServer(folder, settings).start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.stop()
