"""The state machine of worker, lease, lane and log, at length. What fails is printed with a line that repeats it, and
kept in ``.hypothesis``."""

from __future__ import annotations

import os
import time
from typing import Any

import pytest
from hypothesis import settings

from tests.bus.delivery.test_machine import Machine
from tests.prove.keeping import keep

EXAMPLES = int(os.environ.get("SOJOURN_MACHINE", "400"))
STEPS = 50


class LongMachine(Machine):
    """The same rules, more of them in a row."""


Long: Any = LongMachine.TestCase


@pytest.mark.prove
class TestLongMachine(Long):  # type: ignore[misc]  # made by hypothesis at run time
    settings = settings(Long.settings, max_examples=EXAMPLES, stateful_step_count=STEPS)

    def runTest(self) -> None:  # noqa: N802 - unittest's name
        begun = time.monotonic()
        super().runTest()
        # It would have ended above.
        facts = {"examples": EXAMPLES, "steps of each": STEPS, "clean": True}
        keep("machine", facts | {"seconds": round(time.monotonic() - begun, 1)})
