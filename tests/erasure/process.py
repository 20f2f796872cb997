"""A worker in a process of its own, with the logs of the command line: ``python -m tests.erasure.process URL NAMESPACE
MASTER DATABASE STYLE``. Says so when it runs, and ends with its standard input."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from sojourn.agents.processor import AgentProcessor
from sojourn.bus.client import connect
from sojourn.bus.delivery.worker import Worker
from sojourn.bus.processor import Processor
from sojourn.console import logs
from tests.erasure.shop import Contacts, FormFilled, Greeter, Visits


async def main(url: str, namespace: str, master: str, database: str) -> None:
    async with connect(url, namespace=namespace, master_keys=Path(master)) as bus:
        processors: list[Processor] = [AgentProcessor(Greeter), AgentProcessor(Visits), Contacts(bus, Path(database))]
        async with Worker(bus, processors, catalog=[FormFilled]):
            sys.stdout.write("running\n")
            sys.stdout.flush()
            await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    *arguments, style = sys.argv[1:]
    logs.configure(style="json" if style == "json" else "text", level="debug")
    asyncio.run(main(*arguments))
