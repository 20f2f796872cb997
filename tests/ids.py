"""Names of parametrized cases that are the same in every process: parallel runs compare them."""

from __future__ import annotations

import re


def told(value: object) -> str:
    """Its text without addresses in memory."""
    return re.sub(r" at 0x[0-9a-f]+", "", str(value))
