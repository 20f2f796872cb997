"""Moments as people write them: ``2h`` ago, ``2026-11-01``, ``2026-11-01T09:30``."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import click

BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)

_UNITS = {"w": "weeks", "d": "days", "h": "hours", "m": "minutes", "s": "seconds"}
_AGO = re.compile(r"(?:\d+[wdhms])+")


def parse_moment(text: str, now: datetime) -> datetime:
    """The moment that a text means: a duration before ``now``, an ISO date or time, or ``beginning``.

    Times without a zone are those of this machine's zone. Raises `ValueError`.
    """
    if text == "beginning":
        return BEGINNING
    try:
        if _AGO.fullmatch(text):
            parts = re.findall(r"(\d+)([wdhms])", text)
            return now - sum((timedelta(**{_UNITS[unit]: int(count)}) for count, unit in parts), timedelta())
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo is not None else moment.astimezone()).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise ValueError(
            f"{text!r} is no moment: write 30m, 2h or 3d (ago), 2026-11-01, 2026-11-01T09:30, or beginning"
        ) from error


class Moment(click.ParamType[datetime]):
    """An option's value that is a moment; ``past`` refuses one that is still to come."""

    name = "when"

    def __init__(self, *, past: bool = False) -> None:
        self._past = past

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        if isinstance(value, datetime):
            return value
        now = datetime.now(UTC)
        try:
            moment = parse_moment(str(value), now)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        if self._past and moment > now:
            self.fail(f"{value!r} is still to come", param, ctx)
        return moment
