"""Builds ``.venv`` from the locked requirements: ``python3 tools/environment.py run|dev|replay``.

Needs Python 3.11 with `venv`, and a package registry that pip knows. It may be interrupted and repeated: the Makefile's
stamp ``.venv/.NAME`` is removed first and written last. uv installs in seconds; where it has no wheel, or cannot reach
the registry, pip does the same in half a minute. Why: docs/decisions/0002-locked-requirements.md.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = str(VENV / "bin" / "python")
UV = str(VENV / "bin" / "uv")
PIP = (PYTHON, "-m", "pip", "--quiet", "--disable-pip-version-check")


def main(name: str) -> None:
    """Installs ``requirements/NAME.txt`` and the checkout itself, creating the environment where it is missing."""
    stamps = [VENV / f".{stamp}" for stamp in {"dev": ("run", "dev")}.get(name, (name,))]
    for stamp in stamps:
        stamp.unlink(missing_ok=True)
    create()
    if not works(UV, "--version") and not works(*PIP, "install", "--require-hashes", "-r", "requirements/uv.txt"):
        say("there is no uv for this machine")
    alone = ["--no-deps"] if name == "replay" else []  # lifetimes is wanted for its data, not for pandas and scipy
    install("--require-hashes", *alone, "-r", f"requirements/{name}.txt")
    if not alone:
        install("--no-deps", "--editable", ".")
    for stamp in stamps:
        stamp.touch()


def create() -> None:
    """Makes ``.venv`` with pip in it, unless a working one is there."""
    if works(*PIP, "--version"):
        return
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    say(f"creating .venv with Python {version}")
    shutil.rmtree(VENV, ignore_errors=True)  # half of one, or one whose Python has gone
    if not works(sys.executable, "-m", "venv", str(VENV)):
        raise SystemExit(
            f"{sys.executable} cannot make a virtual environment: its modules venv and ensurepip do not work.\n"
            f"Debian and Ubuntu: apt-get install python{version}-venv. Elsewhere: install a complete Python."
        )


def install(*what: str) -> None:
    """Installs into ``.venv`` by uv, or by pip where uv is missing or fails."""
    say(f"installing {what[-1]}")
    uv = (UV, "pip", "install", "--quiet", "--python", PYTHON, *what)
    if works(UV, "--version") and run(*uv, **index_for_uv()).returncode == 0:
        return
    say("by pip, which takes a little longer")
    if run(*PIP, "install", *what).returncode != 0:
        raise SystemExit("The installation failed, see above. Does pip reach a package registry (pip config list)?")


def index_for_uv() -> dict[str, str]:
    """The registry that pip is configured for, in uv's words: uv does not read pip's configuration."""
    if {"UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_CONFIG_FILE"} & os.environ.keys():
        return {}
    settings = subprocess.run([*PIP, "config", "list"], capture_output=True, text=True, check=False).stdout.splitlines()
    urls = [line.partition("=")[2].strip("'\"") for line in settings if line.partition("=")[0].endswith(".index-url")]
    return {"UV_DEFAULT_INDEX": urls[-1]} if urls else {}


def run(*command: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, check=False)


def works(*command: str) -> bool:
    try:
        return subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in {"run", "dev", "replay"}:
        raise SystemExit("usage: python3 tools/environment.py run|dev|replay")
    main(sys.argv[1])
