"""The one definition of state: what a writer knows of a customer when it handles an event.

*Base* is the fold, in stream order, of the customer's events up to the one handled. A writer that was quicker than its
stream has actions that are stored above causes still to be handled; those whose causes are earlier are laid over the
base, so that a burst of two carts gets one offer. Pure: what was stored decides, and nothing else, so that live, after
a takeover, in time travel and in a backtest the state is the same.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from contextlib import suppress
from typing import Generic, NamedTuple, TypeVar

from sojourn.bus.errors import PermanentError
from sojourn.bus.processor import Recorded
from sojourn.state.journey import Journey, copied, evolved

J = TypeVar("J", bound=Journey)


class _Action(NamedTuple):
    sequence: int
    cause: int
    recorded: Recorded


class JourneyState(Generic[J]):
    """The state of one customer as one writer sees it. Sequences are of the customer's stream.

    Fed by `observe` with the customer's events in stream order, and by `acted` with the writer's own actions as they
    become durable; asked by `view`. What cannot be folded is left out, then as now: a fold works on a copy, which for
    a flat journey costs a dictionary, so one that fails leaves no trace.
    """

    __slots__ = ("_ahead", "_base", "_sequence", "failures")

    def __init__(self, journey: type[J]) -> None:
        self._base = journey()
        self._sequence = 0
        self._ahead: list[_Action] = []
        self.failures: list[PermanentError] = []
        """Own actions that could not be folded, for whoever keeps the log to report and clear."""

    @property
    def sequence(self) -> int:
        """The last sequence in the base."""
        return self._sequence

    def observe(self, recorded: Recorded) -> None:
        """Takes an event into the base, after the own actions stored before it; ignores one not above the base.

        Timers that fired and originals that were put back are not part of a customer's story and change nothing. Raises
        `PermanentError` where the fold fails.
        """
        if recorded.sequence <= self._sequence:
            return
        self._settle(recorded.sequence)
        if recorded.sequence > self._sequence:  # else it was an own action, known before
            self._sequence = recorded.sequence
            if not (recorded.due or recorded.redriven):
                self._base = evolved(self._base, recorded)

    def acted(self, recorded: Recorded, cause: int) -> None:
        """Takes note of an own action that answers the event at sequence ``cause``. Ignores one that is known."""
        sequence = recorded.sequence
        if sequence <= self._sequence or recorded.envelope.type not in self._base.__sojourn_journey__.evolvers:
            return
        place = bisect_left(self._ahead, sequence, key=lambda action: action.sequence)
        if place == len(self._ahead) or self._ahead[place].sequence != sequence:
            self._ahead.insert(place, _Action(sequence, cause, recorded))

    def view(self, sequence: int) -> J:
        """What a handler of the event at ``sequence`` sees: a copy of its own, that it cannot assign to.

        Everything up to ``sequence`` has been observed by then, and nothing above it. Raises `ValueError` where
        something above was.
        """
        if sequence < self._sequence:
            raise ValueError(
                f"the state has gone on to {self._sequence} and cannot go back to {sequence}: fold it anew"
            )
        self._settle(sequence)
        journey = copied(self._base)
        for action in self._ahead:
            if action.cause < sequence:
                with suppress(PermanentError):  # told when it is settled
                    journey = evolved(journey, action.recorded)
        return journey

    def _settle(self, sequence: int) -> None:
        """Moves own actions up to ``sequence`` into the base."""
        while self._ahead and self._ahead[0].sequence <= sequence:
            action = self._ahead.pop(0)
            self._sequence = action.sequence
            try:
                self._base = evolved(self._base, action.recorded)
            except PermanentError as error:
                # Not the fault of the event that is being handled, so it is not the one to fail.
                self.failures.append(error)


def fold(journey: type[J], story: Iterable[Recorded]) -> J:
    """The journey after a customer's story, given in stream order; what cannot be folded is left out."""
    state = journey()
    for recorded in story:
        if not (recorded.due or recorded.redriven):
            with suppress(PermanentError):
                state = evolved(state, recorded)
    return state
