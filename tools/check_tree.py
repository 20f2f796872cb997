"""Checks what no linter knows of: lengths of modules, dependencies without a reason, traces of one machine.

Run by ``make check``. Looks at tracked files only; exits with 1 and one line per finding.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

MOST_LINES = 400
# Written so that this file does not match itself.
HOST = re.compile(r"pypi[.]org|python[h]osted|registry[.]npmjs|deb[.]debian", re.IGNORECASE)
MACHINE_PATH = re.compile(r"(?<![\w.~}/-])/(?:home|root|work|opt|Users)/\w")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def long_modules(root: Path, tracked: list[str]) -> list[str]:
    """Modules of the package beyond 400 lines."""
    modules = [name for name in tracked if name.startswith("src/") and name.endswith(".py")]
    lengths = {name: len((root / name).read_text().splitlines()) for name in modules}
    return [f"{name}: {n} lines, {MOST_LINES} at most: split it" for name, n in lengths.items() if n > MOST_LINES]


def traces(root: Path, tracked: list[str]) -> list[str]:
    """Lines that name a package registry's host or a path of somebody's machine."""
    found = []
    for name in tracked:
        path = root / name
        if path.is_symlink() or not path.is_file():
            continue
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), start=1):
            if HOST.search(line) or (name.startswith("requirements/") and "://" in line):
                found.append(f"{name}:{number}: names the host of a package registry")
            if MACHINE_PATH.search(line):
                found.append(f"{name}:{number}: names a path of one machine")
    return found


def unexplained_dependencies(root: Path) -> list[str]:
    """Dependencies of pyproject.toml without a row in docs/dependencies.md, and rows without a dependency."""
    project = tomllib.loads((root / "pyproject.toml").read_text())
    declared = [*project["project"]["dependencies"], *project["dependency-groups"]["dev"]]
    declared += project["build-system"]["requires"]
    names = {match[0].lower() for text in declared if (match := NAME.match(text))}
    rows = set(re.findall(r"^\| `([^`]+)` \|", (root / "docs/dependencies.md").read_text(), re.MULTILINE))
    missing = [f"docs/dependencies.md: no row says what `{name}` does for us" for name in sorted(names - rows)]
    return missing + [f"docs/dependencies.md: `{name}` is no dependency (any more)" for name in sorted(rows - names)]


def unlocked_dependencies(root: Path) -> list[str]:
    """Dependencies of pyproject.toml that the locked requirements do not hold."""
    project = tomllib.loads((root / "pyproject.toml").read_text())
    groups = {"run": project["project"]["dependencies"], "dev": project["dependency-groups"]["dev"]}
    found = []
    for name, declared in groups.items():
        locked = set(re.findall(r"^([a-z0-9-]+)==", (root / f"requirements/{name}.txt").read_text(), re.MULTILINE))
        names = {match[0].lower() for text in declared if (match := NAME.match(text))}
        found += [f"requirements/{name}.txt: {missing} is not locked: make lock" for missing in sorted(names - locked)]
    return found


def main() -> int:
    root = Path(__file__).resolve().parent.parent
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, text=True, check=True).stdout
    tracked = [name for name in listed.split("\0") if (root / name).exists()]
    findings = [
        *long_modules(root, tracked),
        *traces(root, tracked),
        *unexplained_dependencies(root),
        *unlocked_dependencies(root),
    ]
    print("\n".join(findings) or f"{len(tracked)} files: lengths, dependencies and traces in order")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
