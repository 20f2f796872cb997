"""The state machine of worker, lease, lane and log, at length. What fails is printed with a line that repeats it, and
kept in ``.hypothesis``."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

from tests.bus.delivery.test_machine import Machine

EXAMPLES = int(os.environ.get("SOJOURN_MACHINE", "400"))


class LongMachine(Machine):
    """The same rules, more of them in a row."""


TestLongMachine = pytest.mark.prove(LongMachine.TestCase)
TestLongMachine.settings = settings(LongMachine.TestCase.settings, max_examples=EXAMPLES, stateful_step_count=50)
