"""Deaths of workers on the twin: they die without their process, which all of them share."""

from __future__ import annotations

import pytest

from sojourn.bus.delivery import ownership


@pytest.fixture(autouse=True)
def mortal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is gone counts as dead, and not as frozen."""
    monkeypatch.setattr(ownership, "is_alive", lambda process: False)
