from __future__ import annotations

from pathlib import Path

from tools.check_tree import long_modules, traces, unexplained_dependencies, unlocked_dependencies

PYPROJECT = """
[build-system]
requires = ["uv_build>=0.11"]
[project]
dependencies = ["httpx>=0.28", "uvloop>=0.21; sys_platform != 'win32'"]
[dependency-groups]
dev = ["pyright[nodejs]>=1.1"]
"""


def write(root: Path, **files: str) -> list[str]:
    """Writes the files, ``__`` in their names standing for ``/``, and returns their paths within ``root``."""
    names = [name.replace("__", "/") for name in files]
    for name, text in zip(names, files.values(), strict=True):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return names


def test_a_module_of_401_lines_is_too_long(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src/long.py").write_text("x = 1\n" * 401)
    (tmp_path / "src/fits.py").write_text("x = 1\n" * 400)
    (tmp_path / "notes.md").write_text("\n" * 500)
    found = long_modules(tmp_path, ["src/long.py", "src/fits.py", "notes.md"])
    assert found == ["src/long.py: 401 lines, 400 at most: split it"]


def test_a_path_of_one_machine_is_found_and_paths_within_the_project_are_not(tmp_path: Path) -> None:
    somebody = "/" + "home/ann/sojourn"
    tracked = write(tmp_path, bad=f"see\n{somebody}\n", good="docs/home/x, ~/work/x, example.com/work/x, /healthz")
    assert traces(tmp_path, tracked) == ["bad:2: names a path of one machine"]


def test_a_registry_is_found_by_name_and_in_locks_by_any_address(tmp_path: Path) -> None:
    registry = "pypi" + ".org"
    tracked = write(
        tmp_path, page=registry, requirements__run="--index-url https://mirror.example/simple", other="https://nats.io"
    )
    assert [line.partition(":")[0] for line in traces(tmp_path, tracked)] == ["page", "requirements/run"]


def test_a_link_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/" + "home/ann")
    assert traces(tmp_path, ["link"]) == []


def test_each_dependency_has_its_row_and_each_row_its_dependency(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(PYPROJECT)
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/dependencies.md").write_text("| `httpx` | calls |\n| `uv_build` | builds |\n| `flask` | ? |\n")
    assert unexplained_dependencies(tmp_path) == [
        "docs/dependencies.md: no row says what `pyright` does for us",
        "docs/dependencies.md: no row says what `uvloop` does for us",
        "docs/dependencies.md: `flask` is no dependency (any more)",
    ]


def test_a_dependency_that_is_not_locked_is_found(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(PYPROJECT)
    (tmp_path / "requirements").mkdir()
    (tmp_path / "requirements/run.txt").write_text("httpx==0.28.1 \\\n    --hash=sha256:00\n")
    (tmp_path / "requirements/dev.txt").write_text("pyright==1.1.414 \\\n    --hash=sha256:00\n")
    assert unlocked_dependencies(tmp_path) == ["requirements/run.txt: uvloop is not locked: make lock"]
