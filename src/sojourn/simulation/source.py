"""Recorded behaviour: where a replay takes its events from."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import NamedTuple, Protocol

from pydantic_core import from_json

from sojourn.bus.catalog import Catalog
from sojourn.bus.envelope import Envelope, decode
from sojourn.bus.errors import ConfigurationError, PermanentError
from sojourn.bus.event import Event
from sojourn.simulation.timeline import Happening

MAX_LINE = 8 << 20
"""Characters of a line: a file that is none of lines ends in an error, not in memory."""


class Recording(NamedTuple):
    """One recorded event of one customer."""

    key: str
    happening: Happening


class Source(Protocol):
    """Recorded behaviour, in any order of customers; what one customer did is ordered by time, then as it comes."""

    @property
    def name(self) -> str:
        """What people call it."""
        ...

    def read(self, catalog: Catalog) -> Iterator[Recording]:
        """Everything recorded, as events of ``catalog``. Raises `ConfigurationError` naming file and line for what
        cannot be used."""
        ...


class Past:
    """A customer whose past is replayed (`sojourn.simulation.timeline.Timeline`). Nothing changes the past."""

    def __init__(self, key: str, happenings: Iterable[Happening]) -> None:
        self._key = key
        self._happenings = deque(happenings)

    @property
    def key(self) -> str:
        return self._key

    def next_at(self) -> datetime | None:
        return self._happenings[0].time if self._happenings else None

    def take(self) -> Happening:
        return self._happenings.popleft()

    def react(self, action: Envelope[Event]) -> None:
        return


class JsonLines:
    """A file of CloudEvents documents, one on each line, as `sojourn watch -o jsonl` and other tools write them.

    Each event keeps its id, time and customer. Actions and timers (``kind`` other than ``event``) are skipped: the
    agents make their own.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def name(self) -> str:
        return str(self._path)

    def read(self, catalog: Catalog) -> Iterator[Recording]:
        for number, line in lines(self._path):
            try:
                document = from_json(line)
                if not isinstance(document, dict) or not isinstance(type := document.get("type"), str):
                    raise ConfigurationError("no CloudEvents document: it has no type")
                if document.get("kind", "event") != "event":
                    continue
                cls = catalog.get(type)
                if cls is None:
                    raise ConfigurationError(f"the module has no event type {type!r}: define it, or leave the line out")
                envelope = decode(line.encode(), cls)
            except (ValueError, PermanentError, ConfigurationError) as error:
                raise ConfigurationError(f"{self._path}, line {number}: {error}") from error
            yield Recording(envelope.key, Happening(envelope.time, envelope.id, envelope.event))


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a text file that are not empty, numbered from 1. Raises `ConfigurationError` where it cannot be
    read."""
    try:
        with path.open(encoding="utf-8") as file:
            number = 0
            while line := file.readline(MAX_LINE):
                number += 1
                if len(line) == MAX_LINE:
                    raise ConfigurationError(
                        f"{path}, line {number}: longer than {MAX_LINE:,} characters; is it a text file?"
                    )
                if line := line.strip():
                    yield number, line
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path} is no UTF-8 text: {error.reason} at byte {error.start}") from error
