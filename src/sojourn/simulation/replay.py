"""A replay: recorded customers live their past again, with today's agents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sojourn.bus.catalog import Catalog
from sojourn.bus.errors import ConfigurationError
from sojourn.bus.processor import Processor
from sojourn.simulation.audit import Tally
from sojourn.simulation.engine import EMBEDDED, Engine
from sojourn.simulation.run import NOBODY, Timing, Watching, run_timelines
from sojourn.simulation.source import Past, Source
from sojourn.simulation.timeline import Happening

WINDOW = timedelta(days=14)


@dataclass(frozen=True, slots=True)
class ReplayResult:
    """What came of a replay. Everything but ``timing`` is the same for the same source and agents.

    ``start`` is the midnight (UTC) before the first event, ``end`` the one after the last: no timer fires at or after
    it.
    """

    source: str
    start: datetime
    end: datetime
    tally: Tally
    timing: Timing

    @property
    def events(self) -> int:
        """Events in the log."""
        return sum(self.tally.events.values())

    @property
    def journeys(self) -> int:
        """Customers with at least one event."""
        return self.tally.journeys

    @property
    def clean(self) -> bool:
        """Nothing doubled, nothing lost, nothing dead."""
        return self.tally.clean

    def table(self) -> dict[str, Any]:
        """What must not differ between two runs, as plain JSON values."""
        return {
            "source": self.source,
            "start": self.start.isoformat(),
            "end": self.end.isoformat(),
            **self.tally.to_json(),
        }

    def to_json(self) -> dict[str, Any]:
        """The table, and how long it took."""
        return {**self.table(), "run": self.timing.to_json()}


async def run_replay(
    source: Source,
    processors: Sequence[Processor],
    catalog: Catalog,
    *,
    engine: Engine = EMBEDDED,
    window: timedelta = WINDOW,
    watching: Watching = NOBODY,
) -> ReplayResult:
    """Lets the processors meet everything that a source recorded, at its own times.

    ``window`` as in `run_simulation`. Raises `ConfigurationError` for a source that cannot be read or is empty, for
    two events of one id, and for a namespace that is in use.
    """
    customers = _by_customer(source, catalog)
    times = [happening.time for happenings in customers.values() for happening in happenings]
    if not times:
        raise ConfigurationError(f"{source.name} holds no events: nothing to replay")
    start, end = _midnight(min(times)), _midnight(max(times)) + timedelta(days=1)
    tally, timing = await run_timelines(
        [Past(key, happenings) for key, happenings in customers.items()],
        processors,
        catalog,
        start=start,
        end=end,
        window=window,
        engine=engine,
        source=f"/{engine.namespace}/replay",
        watching=watching,
    )
    return ReplayResult(source.name, start, end, tally, timing)


def _by_customer(source: Source, catalog: Catalog) -> dict[str, list[Happening]]:
    customers: dict[str, list[Happening]] = {}
    ids: set[str] = set()
    for key, happening in source.read(catalog):
        if happening.id in ids:
            raise ConfigurationError(
                f"{source.name}: two events have the id {happening.id!r}; an id is one event's own"
            )
        ids.add(happening.id)
        customers.setdefault(key, []).append(happening)
    for happenings in customers.values():
        # Stable: what happened at the same moment stays as it was recorded.
        happenings.sort(key=lambda happening: happening.time)
    return customers


def _midnight(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
