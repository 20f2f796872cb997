"""Checks what users install: sdist, the wheel built *from the sdist*, and that wheel in an empty environment.

Run by ``make check``. The wheel must hold exactly the files that git knows under ``src/sojourn``; installed outside the
checkout, its command and its lazy façade must work, and the links at the root must not have become packages.
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
UV = str(Path(sys.executable).with_name("uv"))
HEAVY = ("pydantic", "nats", "langgraph")

IMPORT_IS_LIGHT = f"""
import sys, sojourn
heavy = sorted(set(sys.modules) & set({HEAVY!r}))
assert not heavy, f"import sojourn loads {{heavy}}"
assert "site-packages" in sojourn.__file__, sojourn.__file__
"""
HELP_IS_LIGHT = f"""
import sys
from sojourn.console.main import main
sys.argv = ["sojourn", "--help"]
try:
    main()
except SystemExit as end:
    assert not end.code, f"sojourn --help ends with {{end.code}}"
heavy = sorted(set(sys.modules) & set({HEAVY!r}))
assert not heavy, f"sojourn --help loads {{heavy}}"
"""
LINKS_ARE_NO_PACKAGES = """
from importlib.util import find_spec
found = [name for name in ("agents", "bus", "orchestrator", "state") if find_spec(name)]
assert not found, f"the wheel brings top-level packages {found}"
"""
FACADE_RESOLVES = """
import sojourn
for name in sojourn.__all__:
    getattr(sojourn, name)
"""


def build(into: Path) -> Path:
    """Builds the sdist, unpacks it, builds the wheel from that, and returns the wheel's path."""
    run(UV, "build", "--quiet", "--sdist", "--out-dir", str(into), str(ROOT), cwd=into)
    (sdist,) = into.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(into, filter="data")
    source = into / sdist.name.removesuffix(".tar.gz")
    run(UV, "build", "--quiet", "--wheel", "--out-dir", str(into), str(source), cwd=into)
    (wheel,) = into.glob("*.whl")
    return wheel


def differences(wheel: Path) -> list[str]:
    """Files that only the wheel or only git has."""
    with zipfile.ZipFile(wheel) as archive:
        packed = [name for name in archive.namelist() if ".dist-info/" not in name and name[-1] != "/"]
    listed = subprocess.run(
        ["git", "ls-files", "-z", "src/sojourn"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\0")
    tracked = {name.removeprefix("src/") for name in listed if name}
    return [
        *(f"{name}: twice in the wheel" for name in sorted({name for name in packed if packed.count(name) > 1})),
        *(f"{name}: in the wheel, but git does not know it: add or remove it" for name in sorted({*packed} - tracked)),
        *(f"{name}: known to git, but not in the wheel" for name in sorted(tracked - {*packed})),
    ]


def smoke(wheel: Path, folder: Path) -> None:
    """Installs the wheel into a new environment and tries it, from a folder that is not the checkout."""
    environment = folder / "empty"
    python = environment / "bin" / "python"
    run(UV, "venv", "--quiet", "--python", sys.executable, str(environment), cwd=folder)
    locked = ["--require-hashes", "-r", str(ROOT / "requirements" / "run.txt")]
    run(UV, "pip", "install", "--quiet", "--python", str(python), *locked, cwd=folder)
    run(UV, "pip", "install", "--quiet", "--python", str(python), "--no-deps", str(wheel), cwd=folder)
    for script in (IMPORT_IS_LIGHT, LINKS_ARE_NO_PACKAGES, HELP_IS_LIGHT, FACADE_RESOLVES):
        run(str(python), "-c", script, cwd=folder)
    run(str(environment / "bin" / "sojourn"), "--help", cwd=folder)


def run(*command: str, cwd: Path) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        output = (done.stdout + done.stderr).strip()
        raise SystemExit(f"packaging: {' '.join(command)}\nended with {done.returncode}:\n{output}")


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="sojourn-package-") as name:
        folder = Path(name)
        wheel = build(folder)
        if found := differences(wheel):
            raise SystemExit("\n".join(found))
        smoke(wheel, folder)
        print(f"{wheel.name}: built from the sdist, holds what git holds, installs and runs by itself")


if __name__ == "__main__":
    main()
