"""Keeps what a proof found, with the commit that it was found on."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
SERVER = "nats-server, one node, file storage, sync_interval: always"


def keep(name: str, facts: Mapping[str, object]) -> None:
    """Writes the facts to the folder that SOJOURN_PROOF names; without it (in a test) they are not kept."""
    folder = os.environ.get("SOJOURN_PROOF")
    if folder is None:
        return
    document = {"proof": name, "commit": _git("rev-parse", "HEAD"), "uncommitted": bool(_git("status", "--short"))}
    (ROOT / folder / f"{name}.json").write_text(json.dumps(document | dict(facts), indent=2) + "\n")


def _git(*arguments: str) -> str:
    asked = (
        ("git", *arguments, "--", "src", "tests/prove", "examples") if arguments[0] == "status" else ("git", *arguments)
    )
    return subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
