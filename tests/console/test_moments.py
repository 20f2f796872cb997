from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from sojourn.console.moments import BEGINNING, parse_moment

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2h", NOW - timedelta(hours=2)),
        ("1h30m", NOW - timedelta(minutes=90)),
        ("3d", NOW - timedelta(days=3)),
        ("2w", NOW - timedelta(weeks=2)),
        ("45s", NOW - timedelta(seconds=45)),
        ("beginning", BEGINNING),
        ("2026-11-01T09:30Z", datetime(2026, 11, 1, 9, 30, tzinfo=UTC)),
        ("2026-11-01T09:30:15+02:00", datetime(2026, 11, 1, 7, 30, 15, tzinfo=UTC)),
        ("2026-11-01", datetime(2026, 11, 1).astimezone()),
        ("2026-11-01T09:30", datetime(2026, 11, 1, 9, 30).astimezone()),
    ],
)
def test_moments(text: str, moment: datetime) -> None:
    assert parse_moment(text, NOW) == moment


@pytest.mark.parametrize("text", ["", "2", "h", "2 h", "yesterday", "2026-13-01", "999999999w", "-2h"])
def test_what_is_no_moment_says_what_would_be(text: str) -> None:
    with pytest.raises(ValueError, match="write 30m, 2h or 3d"):
        parse_moment(text, NOW)
