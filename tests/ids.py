"""Names of parametrized cases that are the same in every process: parallel runs compare them."""

from __future__ import annotations

import re


def told(value: object) -> str:
    """Its text without addresses in memory, and a set's members in an order that depends on none."""
    if isinstance(value, set | frozenset):
        return f"{{{', '.join(sorted(map(told, value)))}}}"
    return re.sub(r" at 0x[0-9a-f]+", "", str(value))
