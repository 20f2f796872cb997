"""The master key beside an embedded server: made with its store, and kept there."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from sojourn.bus.ids import uuid7
from sojourn.bus.personal.master import MasterKeys


def kept_in(path: Path) -> MasterKeys:
    """The master keys in a file, which is made where it is missing. Whoever makes it at the same moment gets the same.

    Raises `ConfigurationError` as `MasterKeys.from_file` does.
    """
    if not path.exists():
        # A link appears with its content, and only where nothing is.
        draft = path.with_name(f".{path.name}-{uuid7()}")
        MasterKeys.new().write_new(draft)
        try:
            with contextlib.suppress(FileExistsError):
                os.link(draft, path)
        finally:
            draft.unlink()
    return MasterKeys.from_file(path)
