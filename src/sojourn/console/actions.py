"""Actions as people read them: one line each, on a grid that holds still."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any
from zlib import crc32

from rich.cells import cell_len

from sojourn.bus.errors import DecodeError
from sojourn.bus.subjects import parse_log_subject, split_writer, unescape_key
from sojourn.console.cells import cut, fit, pad
from sojourn.console.lens import AS_STORED, Lens
from sojourn.console.terminal import Span, plain

_DIM = "2"
_ACTION = "1"
# Without red, which means trouble, and without black and white, of which one is the background.
_AGENT_COLOURS = ("36", "35", "33", "34", "32", "96", "95", "94")
_BARE = re.compile(r"[\w.,:+@%/#~•-]+")
_TIME = 11


@dataclass(frozen=True, slots=True)
class Action:
    """What an agent did, as far as readers are told. ``fields`` are the event's, without its key; ``cause`` is a type,
    ``source`` the customer whose event it was where that is another one."""

    time: datetime
    customer: str
    agent: str
    type: str
    fields: dict[str, Any]
    cause: str | None = None
    trouble: str | None = None
    source: str | None = None


def action_of(subject: str, payload: bytes, timestamp: int, lens: Lens = AS_STORED) -> Action | None:
    """The action in a stored message, seen through ``lens``; None where its subject is not that of an action.
    ``timestamp`` in nanoseconds.

    A message that holds no readable document is an action in trouble: shown, not skipped.
    """
    parsed = parse_log_subject(subject)
    if parsed is None or parsed.family != "act" or parsed.writer is None:
        return None
    customer = customer_of(parsed.token)
    agent, token = split_writer(parsed.writer)
    source = customer_of(token) if token is not None else None
    stored = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=timestamp // 1000)
    try:
        document = json.loads(payload)
        time = datetime.fromisoformat(document["time"])
        cause = document.get("causetype")
        if time.tzinfo is None or not isinstance(document["data"], dict) or not isinstance(cause, (str, type(None))):
            raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        reason = "not a CloudEvents document"
        return Action(stored, customer, agent, parsed.name, {}, trouble=reason, source=source)
    shown, trouble = lens.show(parsed.name, document, payload)
    fields = _without_key(shown["data"], customer)
    return Action(time, customer, agent, parsed.name, fields, cause, trouble, source)


def customer_of(token: str) -> str:
    """The key behind a subject token; the token itself where it is no escaped key."""
    try:
        return unescape_key(token)
    except DecodeError:
        return token


@dataclass(frozen=True, slots=True)
class Grid:
    """Widths of the columns, in cells; ``width`` of the whole line is None where nothing is cut.

    ``agents`` are the names known beforehand.
    """

    width: int | None
    gap: int
    customer: int
    agent: int
    cause: int
    agents: tuple[str, ...] = ()

    @property
    def action(self) -> int:
        """What is left for the action and its fields."""
        gaps = (4 if self.cause else 3) * self.gap
        return (self.width or 0) - _TIME - self.customer - self.agent - self.cause - gaps

    def header(self) -> list[Span]:
        """The names of the columns."""
        names = [
            "time".rjust(_TIME),
            fit("customer", self.customer),
            fit("agent", self.agent),
            fit("action", self.action),
        ]
        return [Span((" " * self.gap).join([*names, cut("because of", self.cause)]).rstrip(), _DIM)]

    def line(self, action: Action, today: datetime) -> list[Span]:
        """An action's line. ``today`` is the present, in the zone that times are shown in."""
        gap = Span(" " * self.gap)
        customer, agent = plain(action.customer), plain(action.agent)
        wide = self.width is None
        time = f"{action.time.astimezone(today.tzinfo):%Y-%m-%d %H:%M:%S}" if wide else _time(action.time, today)
        spans = [
            Span(time.rjust(_TIME), _DIM),
            gap,
            Span(pad(customer, self.customer) if wide else fit(customer, self.customer, middle=True)),
            gap,
            Span(pad(agent, self.agent) if wide else fit(agent, self.agent), self._colour(agent)),
            gap,
            *self._what(action),
        ]
        if action.cause is not None and (wide or self.cause):
            cause = f"← {plain(action.cause)}"
            spans += [gap, Span(cause if wide else cut(cause, self.cause), _DIM)]
        return spans

    def _colour(self, agent: str) -> str:
        """An agent has one colour throughout: its own among those known beforehand, where they are not too many."""
        number = self.agents.index(agent) if agent in self.agents else crc32(agent.encode())
        return _AGENT_COLOURS[number % len(_AGENT_COLOURS)]

    def _what(self, action: Action) -> list[Span]:
        if self.width is None:
            details = _details(action)
            return [Span(plain(action.type), _ACTION), Span(details, "31" if action.trouble else "")]
        name = cut(plain(action.type), self.action)
        left = self.action - cell_len(name)
        details = cut(_details(action), left) if left > 2 else ""
        rest = " " * (left - cell_len(details)) if action.cause is not None and self.cause else ""
        return [Span(name, _ACTION), Span(details, "31" if action.trouble else ""), Span(rest)]


@lru_cache(maxsize=64)
def grid(width: int | None, agents: frozenset[str] = frozenset(), causes: frozenset[str] = frozenset()) -> Grid:
    """The grid for a terminal of that width. ``agents`` and ``causes`` are names known beforehand: their columns are
    made to fit them, within what the width allows."""
    if width is None:
        return Grid(None, 2, 16, _longest(agents, 14), 0, tuple(sorted(agents)))
    gap, with_cause = 1 if width < 96 else 2, width >= 64
    # What is sure to be read in full comes first: agent, then cause. The action keeps a third of the line.
    spare = width - _TIME - (4 if with_cause else 3) * gap - width * 34 // 100
    customer = min(max(8, spare // 4), 24)
    agent = min(_longest(agents, 12), spare - customer - (10 if with_cause else 0), 24)
    cause = min(_longest(causes, 14) + 2, spare - customer - agent, 28) if with_cause else 0
    return Grid(width, gap, customer, agent, cause, tuple(sorted(agents)))


def _longest(names: Iterable[str], default: int) -> int:
    return max(map(len, names), default=default)


def _time(moment: datetime, today: datetime) -> str:
    local = moment.astimezone(today.tzinfo)
    if local.date() == today.date():
        return f"{local:%H:%M:%S}"
    return f"{local:%m-%d %H:%M}" if local.year == today.year else f"{local:%Y-%m-%d}"


def _without_key(data: dict[str, Any], customer: str) -> dict[str, Any]:
    key = next((name for name, value in data.items() if value == customer), None)
    return {name: value for name, value in data.items() if name != key and value is not None}


def _details(action: Action) -> str:
    source = f" from {_value(action.source)}" if action.source is not None else ""
    if action.trouble is not None:
        return f"{source} ({action.trouble})"
    return source + "".join(f" {plain(str(name))}={_value(value)}" for name, value in action.fields.items())


def _value(value: object) -> str:
    if isinstance(value, str) and _BARE.fullmatch(value):
        return plain(value)
    return plain(json.dumps(value, ensure_ascii=False, separators=(",", ":")))
