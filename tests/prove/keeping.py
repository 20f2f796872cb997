"""Keeps what a proof found, with the commit that it was found on."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
SERVER = "nats-server, one node, file storage, sync_interval: always"


def _git(*arguments: str) -> str:
    return subprocess.run(("git", *arguments), cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


# Asked when the code is imported: a proof takes minutes, and somebody may commit meanwhile.
_FOLDER = os.environ.get("SOJOURN_PROOF")
_COMMIT = _git("rev-parse", "HEAD") if _FOLDER else ""
_CHANGED = bool(_FOLDER and _git("status", "--short", "--", "src", "tests/prove", "examples"))


def keep(name: str, facts: Mapping[str, object]) -> None:
    """Writes the facts to the folder that SOJOURN_PROOF names; without it (in a test) they are not kept."""
    if not _FOLDER:
        return
    document = {"proof": name, "commit": _COMMIT, "uncommitted": _CHANGED}
    (ROOT / _FOLDER / f"{name}.json").write_text(json.dumps(document | dict(facts), indent=2) + "\n")
