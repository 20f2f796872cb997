"""Sojourn: an event bus for AI agents that accompany customers over days and weeks.

Everything most programs need is here: ``from sojourn import Agent, Event, Journey, Key, agent, evolve, on``. A name is
imported from its module when it is first used, so that ``import sojourn`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sojourn.agents.agent import Agent, agent, on
    from sojourn.agents.context import Context
    from sojourn.bus.client import connect
    from sojourn.bus.durations import days, hours, minutes
    from sojourn.bus.envelope import Envelope
    from sojourn.bus.errors import PermanentError, TransientError
    from sojourn.bus.event import Event, Key
    from sojourn.bus.personal.field import Personal
    from sojourn.bus.processor import Retry
    from sojourn.bus.upcasting import upcast
    from sojourn.state.erasure import CustomerErased
    from sojourn.state.journey import Journey, evolve

__all__ = [
    "Agent",
    "Context",
    "CustomerErased",
    "Envelope",
    "Event",
    "Journey",
    "Key",
    "PermanentError",
    "Personal",
    "Retry",
    "TransientError",
    "agent",
    "connect",
    "days",
    "evolve",
    "hours",
    "minutes",
    "on",
    "upcast",
]

# The same list as above, for the run time; tests/test_facade.py holds the three equal.
_HOMES = {
    "Agent": "sojourn.agents.agent",
    "Context": "sojourn.agents.context",
    "CustomerErased": "sojourn.state.erasure",
    "Envelope": "sojourn.bus.envelope",
    "Event": "sojourn.bus.event",
    "Journey": "sojourn.state.journey",
    "Key": "sojourn.bus.event",
    "PermanentError": "sojourn.bus.errors",
    "Personal": "sojourn.bus.personal.field",
    "Retry": "sojourn.bus.processor",
    "TransientError": "sojourn.bus.errors",
    "agent": "sojourn.agents.agent",
    "connect": "sojourn.bus.client",
    "days": "sojourn.bus.durations",
    "evolve": "sojourn.state.journey",
    "hours": "sojourn.bus.durations",
    "minutes": "sojourn.bus.durations",
    "on": "sojourn.agents.agent",
    "upcast": "sojourn.bus.upcasting",
}


if not TYPE_CHECKING:  # a type checker that saw this would believe in any name

    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            raise AttributeError(f"module 'sojourn' has no attribute {name!r}")
        value = getattr(import_module(_HOMES[name]), name)
        globals()[name] = value  # found at once from now on
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
