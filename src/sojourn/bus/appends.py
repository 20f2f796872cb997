"""What every transport adapter checks of appends, and what it says when somebody else wrote first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sojourn.bus.errors import ConcurrencyError, PermanentError
from sojourn.bus.grammar import check_subject
from sojourn.bus.ports import Append

MAX_BATCH = 1_000
"""Members of one atomic batch. Source: nats-server 2.12, `streamMaxAtomicBatchSize`."""


def check_append(append: Append) -> None:
    """Raises `PermanentError` or `TooLargeError` where nothing can be stored under the append's subjects."""
    check_subject(append.subject)
    if append.schedule is not None:
        check_subject(append.schedule.target)
    if append.unschedule is not None:
        check_subject(append.unschedule)


def check_batch(appends: Sequence[Append]) -> None:
    """Raises `PermanentError` or `TooLargeError` where the appends cannot be one atomic batch."""
    if not 1 <= len(appends) <= MAX_BATCH:
        raise PermanentError(f"a batch has 1 to {MAX_BATCH} messages, not {len(appends)}; split it")
    timers: set[str] = set()
    for append in appends:
        check_append(append)
        if append.schedule is not None:
            # nats-server 2.15.1 answers with error 10111, "batch rollup sub invalid".
            if append.subject in timers:
                raise PermanentError(f"the batch sets the timer {append.subject} twice; set it once")
            timers.add(append.subject)


def conflict(stream: str, appends: Iterable[Append], actual: int | None) -> ConcurrencyError:
    """The error for appends of which one found its lane at ``actual``.

    A refused batch names no member: ``expected`` and ``filter`` are known only where all expect the same."""
    expected = {append.expect for append in appends if append.expect is not None}
    only = expected.pop() if len(expected) == 1 else None
    lane = f"{only.filter} is not at {only.sequence} but" if only else "a lane is"
    return ConcurrencyError(
        f"{stream}: somebody else wrote first: {lane} at {'an unknown sequence' if actual is None else actual}",
        expected=only.sequence if only else None,
        actual=actual,
        filter=only.filter if only else None,
    )
