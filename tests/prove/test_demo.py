"""The demo of the README, as a newcomer types it."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.prove
def test_the_demo_tells_that_nothing_was_lost(tmp_path: Path) -> None:
    environment = os.environ | {"SOJOURN_STORE": str(tmp_path / "store"), "COLUMNS": "100", "NO_COLOR": "1"}
    ran = subprocess.run(
        ["make", "demo"], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    for fact in (r"duplicates +0\b", r"lost +0\b", r"events in +1\d,\d{3}", r"cart-recovery +DiscountOffered +\d+"):
        assert re.search(fact, ran.stdout), ran.stdout
