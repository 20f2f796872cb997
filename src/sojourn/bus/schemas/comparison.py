"""Compares two schemas, node by node."""

from __future__ import annotations

from typing import Any

from sojourn.bus.schemas.change import BOTH, UPCAST, Change


def compare(old: dict[str, Any], new: dict[str, Any]) -> list[Change]:
    """Every change between two schemas, in document order."""
    return [] if old == new else [Change("", "the schemas differ", BOTH, UPCAST)]


def keys_moved(old: dict[str, Any], new: dict[str, Any]) -> list[Change]:
    """The change of the key field, if it is another one."""
    return []
