"""The machine that runs pages would notice if one were wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.page import Session, blocks, masked, merged

MODULE = '''from typing import Any

LIMIT = 3


class First:
    """The first."""


def last() -> None: ...
'''


def test_what_has_the_same_name_is_replaced_where_it_stands() -> None:
    changed = merged(MODULE, "class First:\n    changed = True\n")
    assert changed == (
        "from typing import Any\n\n\nLIMIT = 3\n\n\nclass First:\n    changed = True\n\n\ndef last() -> None: ...\n"
    )


def test_what_is_new_stands_before_what_may_use_it_and_imports_stand_first() -> None:
    addition = "import json\nfrom typing import Any\n\nclass Base: ...\n\nclass First(Base): ...\n\ndef new(): ...\n"
    names = [line for line in merged(MODULE, addition).splitlines() if line]
    assert names == [
        "import json", "from typing import Any", "LIMIT = 3", "class Base: ...", "class First(Base): ...",
        "def last() -> None: ...", "def new(): ...",
    ]  # fmt: skip


def test_decorators_belong_to_what_they_decorate() -> None:
    source = "@decorated(\n    1\n)\ndef named(): ...\n"
    assert merged(source, "@decorated(2)\ndef named(): ...\n") == "@decorated(2)\ndef named(): ...\n"


def test_ids_times_and_sealed_values_are_masked_and_nothing_else() -> None:
    line = "OrderPlaced 01a207c3-2aaf-784f-8a74-7d7938c39695 → SOJOURN_0 sequence 17"
    assert masked(line) == masked(line.replace("01a207c3", "ffffffff").replace("17", "9"))
    assert masked(line) != masked(line.replace("SOJOURN_0", "SOJOURN_1"))
    assert masked("2026-11-23 09:35  total=80") == masked("2027-01-01 23:59  total=80")
    assert masked("09-35 total=80") != masked("09-35 total=81")
    assert masked("sealed:1:b5gK:aa_-b==.") == masked("sealed:1:zzzz:cc.") != masked("bob@example.com.")
    assert masked("number     time") == masked("number  time") != masked("number time")
    assert masked("  indented") != masked("indented")


def test_a_session_returns_what_its_commands_print_now(tmp_path: Path) -> None:
    session = Session(tmp_path)
    shown = "$ echo yes\nno\n$ echo out; \\\n    echo err >&2; exit 3\n$ echo $?\n$ export A=b\n$ echo $A\n"
    assert session.type(shown) == (
        "$ echo yes\nyes\n$ echo out; \\\n    echo err >&2; exit 3\nout\nerr\n$ echo $?\n3\n"
        "$ export A=b\n$ echo $A\nb\n"
    )


def test_what_comes_a_moment_later_is_waited_for(tmp_path: Path) -> None:
    session = Session(tmp_path)
    again = "$ cat count; echo x >> count\nx\nx\n"
    (tmp_path / "count").touch()
    assert session.type(again) == again


def test_code_says_which_file_it_belongs_to(tmp_path: Path) -> None:
    session = Session(tmp_path)
    session.write("# one.py\nA = 1\n")
    session.write("# one.py\nA = 2\n\nB = 3\n")
    assert (tmp_path / "one.py").read_text() == "A = 2\n\n\nB = 3\n"
    with pytest.raises(AssertionError, match="names its file"):
        session.write("A = 1\n")


def test_blocks_are_told_with_their_lines() -> None:
    page = "One\n\n```python\n# a.py\n```\n\ntwo\n```console\n$ ls\n```\n"
    assert blocks(page) == [("python", "# a.py\n", 4), ("console", "$ ls\n", 9)]
