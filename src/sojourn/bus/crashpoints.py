"""Crash points: the places where tests end or freeze a worker, to prove that it may happen there.

Delivery code says ``reach(BEFORE_COMMIT)`` where it passes one. That does nothing, unless the process's environment
names the point when this module is imported::

    SOJOURN_CRASH_POINT=before_commit:3         ends the process with SIGKILL the third time it is reached
    SOJOURN_CRASH_POINT=before_commit:3:stop    freezes it there with SIGSTOP; SIGCONT lets it go on

The environment is read here and not in the command line, so that no constructor has to hand a test's wish down to
the places concerned.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from typing import Final, Literal, NamedTuple, get_args

from sojourn.bus.errors import ConfigurationError

VARIABLE = "SOJOURN_CRASH_POINT"
"""The environment variable that arms one point: ``name:n[:kill|stop]``."""

Point = Literal[
    "before_commit",
    "after_commit",
    "before_ack",
    "in_handover",
    "after_claim",
    "in_renewal",
    "before_once",
    "after_once",
    "in_park",
    "in_unpark",
    "in_relay",
    "in_redrive",
    "before_attempt",
    "after_attempt",
]

BEFORE_COMMIT: Final = "before_commit"
"""A handler has returned and its worker's session was found alive; its output is about to be submitted."""

AFTER_COMMIT: Final = "after_commit"
"""An output is stored; its cause is not acked, and memory knows nothing of it yet."""

BEFORE_ACK: Final = "before_ack"
"""A delivery is done with by every processor of the group; its ack is not sent. It may have had no output at all."""

IN_HANDOVER: Final = "in_handover"
"""A partition is no longer pulled and all of its outputs are stored; its claim is not yet given back."""

AFTER_CLAIM: Final = "after_claim"
"""A partition is claimed; its consumer is not yet reset, so the deliveries of the owner before are still open."""

IN_RENEWAL: Final = "in_renewal"
"""A session's renewal is about to be sent."""

BEFORE_ONCE: Final = "before_once"
"""A call made once has returned; its result is not yet journalled, so it will be made again."""

AFTER_ONCE: Final = "after_once"
"""A call's result is journalled; the handler that asked for it has not gone on."""

IN_PARK: Final = "in_park"
"""A key's ``parked`` record is about to be submitted, with its wake-up; the deliveries it parks are not acked."""

IN_UNPARK: Final = "in_unpark"
"""A woken key's events were read from the log again and handled; its ``unparked`` record is about to be submitted."""

IN_RELAY: Final = "in_relay"
"""A ``relay`` record was delivered; what it carries is not yet appended to the other key's lane."""

IN_REDRIVE: Final = "in_redrive"
"""The original of a dead letter was read; its redrive is not yet appended; those before it are, or are on their way."""

BEFORE_ATTEMPT: Final = "before_attempt"
"""A cause that was in flight at a crash is due again; its ``attempt`` record is not stored."""

AFTER_ATTEMPT: Final = "after_attempt"
"""The ``attempt`` record is stored; the handler is not called."""

POINTS: Final[tuple[Point, ...]] = get_args(Point)
"""Every crash point."""


class Armed(NamedTuple):
    """The point that is armed in this process: what happens the ``turn``-th time it is reached, from 1."""

    point: str
    turn: int
    signal: int


def parse(text: str) -> Armed:
    """Reads ``name:n[:kill|stop]``. Raises `ConfigurationError`."""
    name, _, rest = text.partition(":")
    number, _, how = rest.partition(":")
    if name not in POINTS:
        raise ConfigurationError(f"{VARIABLE} names {name!r}, which is no crash point; there are {', '.join(POINTS)}")
    if not (number.isascii() and number.isdecimal() and int(number) > 0) or how not in {"", "kill", "stop"}:
        raise ConfigurationError(
            f"{VARIABLE}={text!r} is not name:n[:kill|stop], with n from 1 on, such as {name}:1 or {name}:3:stop"
        )
    return Armed(name, int(number), signal.SIGSTOP if how == "stop" else signal.SIGKILL)


def reach(name: Point) -> None:
    """Says that the process is at a crash point. Costs one look at a global where none is armed."""
    if _armed is not None and _armed.point == name:
        _count(_armed)


def _count(armed: Armed) -> None:
    global _reached  # noqa: PLW0603 - a process has one environment, and so one count
    _reached += 1
    if _reached == armed.turn:
        os.kill(os.getpid(), armed.signal)


def _from(environment: Mapping[str, str]) -> Armed | None:
    text = environment.get(VARIABLE)
    return parse(text) if text else None


_armed = _from(os.environ)
_reached = 0
