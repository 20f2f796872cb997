"""Where a class or function was written, for messages that point there."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

_FRAMEWORK = frozenset({"sojourn", "pydantic", "pydantic_core", "typing", "abc", "functools"})


def calling_line() -> str:
    """``file:line`` of the nearest caller outside Sojourn and pydantic: for a class under construction, its
    statement."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").split(".", 1)[0] in _FRAMEWORK:
        frame = frame.f_back
    return f"{_short(frame.f_code.co_filename)}:{frame.f_lineno}"


def line_of(thing: type | Callable[..., Any]) -> str:
    """``file:line`` at which a class or function begins; its module where the source cannot be read."""
    try:
        lines, number = inspect.getsourcelines(thing)
        skipped = next(
            (i for i, line in enumerate(lines) if line.lstrip().startswith(("def ", "async def ", "class "))), 0
        )
        return f"{_short(inspect.getsourcefile(thing) or thing.__module__)}:{number + skipped}"
    except (OSError, TypeError):
        return thing.__module__


def _short(path: str) -> str:
    try:
        return str(Path(path).relative_to(Path.cwd()))
    except ValueError:
        return path
