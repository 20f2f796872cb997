"""The circuit breaker: an endpoint that is down pauses its handlers instead of filling the dead letters.

There is one breaker for each handler (a writer and an event type) and one for each host that an error named. It opens
when transient failures of five different customers came in a row within 30 s; one customer's own trouble never opens
it. While it is open nobody calls. After a pause, which doubles from 1 s to 60 s, one caller is let through: its success
closes the breaker, its failure begins the next pause.

Those who were refused come back one by one and not all at once: each is told a moment 5 ms after the one before it, in
the order they asked, so that an endpoint which has just come back is met by at most 200 held calls a second.

Nothing here has a task or a clock: whoever asks says what time it is, in seconds on a clock that never goes back.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple, TypeAlias

import structlog

CUSTOMERS = 5
WINDOW = 30.0
"""Different customers, and the seconds within which their failures come, that open a breaker."""

FIRST_PAUSE = 1.0
LONGEST_PAUSE = 60.0
"""Seconds of the first pause and of the longest. A breaker that opens again within `WINDOW` of its closing goes on
where its pauses were."""

SPACING = 0.005
"""Seconds between two refused callers coming back."""

PROBE = 60.0
"""Seconds after which nobody waits any more for what became of a call that was let through."""

RECALL = 1.0
"""Seconds after which those who met a call that was let through ask again."""

BREAKERS = 4096
HOSTS = 8
"""Breakers that are kept, and hosts of one handler; the longest unused are forgotten first."""

_log = structlog.get_logger("sojourn.worker")


class Handler(NamedTuple):
    """What a writer does about one event type."""

    writer: str
    type: str

    def __str__(self) -> str:
        return f"{self.writer} on {self.type}"


Subject: TypeAlias = "Handler | str"
"""What a breaker is for: a handler, or a host by its name (with its port where that was given)."""

Caller: TypeAlias = "tuple[Handler, str]"


class State(StrEnum):
    """Of a breaker. Half-open: one call was let through, or the next to ask will be."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


class Condition(NamedTuple):
    """How one breaker stands. ``handler`` or ``host``: what it is for; ``seconds``: until the next call is let through
    (0 unless it is open); ``failures``: of different customers in a row; ``refused``: calls since it opened."""

    handler: Handler | None
    host: str | None
    state: State
    seconds: float
    failures: int
    refused: int


@dataclass(slots=True)
class _Breaker:
    subject: Subject
    row: dict[str, float] = field(default_factory=dict)
    """Customers whose call failed, none having succeeded since, and when; the latest last, as many as open it."""
    opened: float | None = None
    closed: float = float("-inf")
    until: float = 0.0
    pause: float = 0.0
    probe: Caller | None = None
    turn: float = 0.0
    refused: int = 0

    def state(self, now: float) -> State:
        if self.opened is None:
            return State.CLOSED
        return State.OPEN if self.probe is None and now < self.until else State.HALF_OPEN

    def wait(self, now: float) -> float:
        """Seconds until it is worth asking again; 0 where the call may be made."""
        if self.opened is None:
            return 0.0
        if now >= self.until:
            # The first to ask; or the one before never told what became of its call.
            return 0.0
        base = self.until if self.probe is None else now + RECALL
        # Turns that were given to callers who are gone by now must not add up.
        return min(max(base, self.turn), base + LONGEST_PAUSE) - now

    def refuse(self, moment: float) -> None:
        self.refused += 1
        self.turn = moment + SPACING


class Breakers:
    """All breakers of one worker. ``chance`` gives numbers from 0 to 1: half a pause more, at most, is jitter."""

    def __init__(self, chance: Callable[[], float] = random.random) -> None:
        self._chance = chance
        self._breakers: dict[Subject, _Breaker] = {}
        self._hosts: dict[Handler, dict[str, None]] = {}
        self._open = 0

    def may_call(self, handler: Handler, customer: str, now: float) -> float:
        """0 where the handler may be called for the customer now; otherwise seconds after which to ask again.

        A refused call is no attempt. Whoever may call tells of the outcome: `succeeded`, `failed` or `gave_up`.
        """
        if not self._open:
            return 0.0
        concerned = [breaker for subject in self._subjects(handler) if (breaker := self._breakers.get(subject))]
        wait = max((breaker.wait(now) for breaker in concerned), default=0.0)
        if wait > 0:
            for breaker in concerned:
                if breaker.opened is not None:
                    breaker.refuse(now + wait)
            return wait
        for breaker in concerned:
            if breaker.opened is not None:
                breaker.probe = (handler, customer)
                breaker.until = now + PROBE
        return 0.0

    def succeeded(self, handler: Handler, customer: str, now: float) -> None:
        """A call ended well."""
        if not self._breakers:
            return
        for subject in self._subjects(handler):
            breaker = self._breakers.get(subject)
            if breaker is None:
                continue
            if breaker.opened is not None:
                if breaker.probe == (handler, customer):
                    self._shut(breaker, now)
            elif isinstance(subject, Handler) or customer in breaker.row:
                # Of a host only who failed there before is known to have been there again.
                breaker.row.clear()
                if now - breaker.closed > WINDOW:
                    del self._breakers[subject]

    def failed(
        self, handler: Handler, customer: str, now: float, *, hosts: Iterable[str] = (), after: float = 0.0
    ) -> bool:
        """A call failed with a transient error that names ``hosts`` and asks for a pause of ``after`` seconds.

        True where it counts as an attempt: not where a breaker was open meanwhile, so that an event is not given up
        for having been the one that was let through, or under way, while an endpoint was down.
        """
        named = dict.fromkeys(hosts)
        for host in named:
            self._uses(handler, host)
        subjects = self._subjects(handler)
        there = [breaker for subject in subjects if (breaker := self._breakers.get(subject))]
        waiting = [breaker for breaker in there if breaker.opened is not None]
        for breaker in waiting:
            if breaker.probe == (handler, customer):
                self._open_again(breaker, now, after)
        if waiting:
            return False
        for subject in subjects:
            if isinstance(subject, Handler) or subject in named:
                self._count(self._breakers.get(subject) or self._add(subject), customer, now, after)
        return True

    def gave_up(self, handler: Handler, customer: str, now: float) -> None:
        """A call ended in a way that says nothing about the endpoint: a permanent error, or it was cut short. Where it
        was the one let through, the next to ask is."""
        if not self._open:
            return
        for subject in self._subjects(handler):
            breaker = self._breakers.get(subject)
            if breaker is not None and breaker.probe == (handler, customer):
                breaker.probe = None
                breaker.until = now

    def snapshot(self, now: float) -> list[Condition]:
        """The breakers that are open or count failures, open ones first."""
        found = [
            Condition(
                subject if isinstance(subject, Handler) else None,
                None if isinstance(subject, Handler) else subject,
                breaker.state(now),
                max(0.0, breaker.until - now) if breaker.state(now) is State.OPEN else 0.0,
                len(breaker.row),
                breaker.refused if breaker.opened is not None else 0,
            )
            for subject, breaker in self._breakers.items()
            if breaker.opened is not None or breaker.row
        ]
        return sorted(found, key=lambda condition: condition.state is State.CLOSED)

    def _subjects(self, handler: Handler) -> list[Subject]:
        return [handler, *self._hosts.get(handler, ())]

    def _uses(self, handler: Handler, host: str) -> None:
        hosts = self._hosts.pop(handler, {})
        hosts.pop(host, None)
        hosts[host] = None
        if len(hosts) > HOSTS:
            del hosts[next(iter(hosts))]
        self._hosts[handler] = hosts
        if len(self._hosts) > BREAKERS:
            del self._hosts[next(iter(self._hosts))]

    def _add(self, subject: Subject) -> _Breaker:
        if len(self._breakers) >= BREAKERS:
            idle = (key for key, breaker in self._breakers.items() if breaker.opened is None)
            gone = self._breakers.pop(next(idle, next(iter(self._breakers))))
            self._open -= gone.opened is not None
        breaker = self._breakers[subject] = _Breaker(subject)
        return breaker

    def _count(self, breaker: _Breaker, customer: str, now: float, after: float) -> None:
        row = breaker.row
        row.pop(customer, None)
        row[customer] = now
        for other in [other for other, when in row.items() if when <= now - WINDOW]:
            del row[other]
        # The longest unused are the first.
        self._breakers[breaker.subject] = self._breakers.pop(breaker.subject)
        if len(row) < CUSTOMERS:
            return
        if now - breaker.closed > WINDOW:
            breaker.pause = 0.0
        breaker.opened = now
        breaker.refused = 0
        self._open += 1
        self._open_again(breaker, now, after)
        _log.warning(
            "circuit breaker opens: calls wait",
            subject=str(breaker.subject),
            customers=len(row),
            seconds=round(breaker.until - now, 1),
        )

    def _open_again(self, breaker: _Breaker, now: float, after: float) -> None:
        breaker.pause = min(max(breaker.pause * 2, FIRST_PAUSE), LONGEST_PAUSE)
        breaker.probe = None
        breaker.until = now + max(breaker.pause * (1 + self._chance() / 2), after)

    def _shut(self, breaker: _Breaker, now: float) -> None:
        assert breaker.opened is not None
        _log.warning(
            "circuit breaker closes: calls go on",
            subject=str(breaker.subject),
            seconds=round(now - breaker.opened, 1),
            refused=breaker.refused,
        )
        breaker.opened = breaker.probe = None
        breaker.closed = now
        breaker.row.clear()
        self._open -= 1
