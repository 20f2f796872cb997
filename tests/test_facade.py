from __future__ import annotations

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import sojourn


def imported_for_type_checkers() -> dict[str, str]:
    """The names under ``if TYPE_CHECKING`` in the façade, and the module of each."""
    tree = ast.parse(Path(sojourn.__file__).read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If) and isinstance(node.test, ast.Name))
    return {
        alias.name: statement.module or ""
        for statement in block.body
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
    }


def modules_after(statement: str) -> set[str]:
    script = f"{statement}\nimport sys\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("name", sojourn.__all__)
def test_every_public_name_resolves_to_the_object_in_its_module(name: str) -> None:
    home = import_module(imported_for_type_checkers()[name])
    assert getattr(sojourn, name) is getattr(home, name)


def test_type_checkers_and_the_run_time_see_the_same_names_in_the_same_modules() -> None:
    assert imported_for_type_checkers() == sojourn._HOMES
    assert list(sojourn._HOMES) == sojourn.__all__


def test_public_names_are_sorted_and_listed_by_dir() -> None:
    assert sojourn.__all__ == sorted(sojourn.__all__)
    assert set(sojourn.__all__) <= set(dir(sojourn))


def test_an_unknown_name_is_an_attribute_error_that_says_so() -> None:
    with pytest.raises(AttributeError, match="module 'sojourn' has no attribute 'Agnet'"):
        _ = sojourn.Agnet  # type: ignore[attr-defined]  # the point of the test


def test_importing_sojourn_loads_no_library_and_none_of_its_own_modules() -> None:
    loaded = modules_after("import sojourn")
    assert not loaded & {"pydantic", "nats", "langgraph", "structlog", "httpx", "click", "rich"}
    assert {name for name in loaded if name.startswith("sojourn.")} == set()


def test_a_name_loads_its_own_module_only() -> None:
    loaded = modules_after("from sojourn import days, TransientError")
    assert {"sojourn.bus.durations", "sojourn.bus.errors"} <= loaded
    assert not loaded & {"pydantic", "nats", "sojourn.bus.event"}
