"""What the pages show is what happens: their code and commands run as they stand, and their tables are true."""

from __future__ import annotations

import re
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from sojourn import Event, Key
from sojourn.bus.schemas.compatibility import Level, changes
from sojourn.bus.schemas.schema import fingerprint, schema_of
from tests.docs.page import blocks, masked, played

DOCS = Path(__file__).parents[2] / "docs"
PAGES = ["changing-events.md", "personal-data.md"]
COMMANDS = ["schemas", "journeys", "keys"]


def read(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", PAGES)
def test_the_page_shows_what_happens(name: str, tmp_path: Path) -> None:
    page = read(name)
    assert masked(played(page, tmp_path)).splitlines() == masked(page).splitlines()


@pytest.mark.parametrize("name", PAGES)
def test_every_block_is_run(name: str) -> None:
    found = blocks(read(name))
    assert len(found) > 20
    assert {block.language for block in found} == {"python", "console"}
    assert read(name).count("```") == 2 * len(found)


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name: str) -> None:
    links = re.findall(r"\]\(([^)]+)\)", read(name))
    assert links
    for link in links:
        file, _, anchor = link.partition("#")
        target = DOCS / file if file else DOCS / name
        assert target.exists(), link
        if anchor:
            titles = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w\- ]", "", title).lower().replace(" ", "-") for title in titles}, link


def test_the_pages_name_every_command_there_is() -> None:
    from sojourn.console import commands

    text = "".join(map(read, PAGES))
    for group in COMMANDS:
        module = __import__(f"{commands.__name__}.{group}", fromlist=[group])
        for name in getattr(module, group).commands:
            assert f"sojourn {group} {name}" in text


def rows(page: str, first: str) -> list[list[str]]:
    """The rows of the table whose head begins with ``first``, without marks of code."""
    table = page[page.index(f"| {first} |") :].partition("\n\n")[0].splitlines()[2:]
    return [[cell.strip().replace("`", "") for cell in line.strip("|").split("|")] for line in table]


def test_the_table_of_levels_has_them_all() -> None:
    told = [name for level, *_ in rows(read(PAGES[0]), "Level") for name in re.findall(r"[A-Z_]{4,}", level)]
    assert sorted(told) == sorted(Level)


def event(**fields: Any) -> type[Event]:
    """An event of version 1 with these fields."""
    annotations = {name: part[0] if isinstance(part, tuple) else part for name, part in fields.items()}
    defaults = {name: part[1] for name, part in fields.items() if isinstance(part, tuple)}
    keys = {} if any(part is Key for part in annotations.values()) else {"customer_id": Key}
    return type("ThingHappened", (Event,), {"__annotations__": keys | annotations, "__module__": __name__, **defaults})


CHANGES: dict[str, list[tuple[type[Event], type[Event]]]] = {
    "add a field that is optional or has a default": [
        (event(), event(note=(str | None, None))),
        (event(), event(channel=(str, "web"))),
    ],
    "add a required field": [(event(), event(currency=str))],
    "remove an optional field": [(event(note=(str | None, None)), event())],
    "remove a required field": [(event(session=str), event())],
    "rename a field": [(event(amount=Decimal), event(total=Decimal))],
    "widen: a larger limit, one more member of an enum, int → float": [
        (event(n=Annotated[int, Field(le=3)]), event(n=Annotated[int, Field(le=4)])),
        (event(n=Literal["a"]), event(n=Literal["a", "b"])),
        (event(n=int), event(n=float)),
    ],
    "narrow: a smaller limit, one member less, float → int": [
        (event(n=Annotated[int, Field(le=4)]), event(n=Annotated[int, Field(le=3)])),
        (event(n=Literal["a", "b"]), event(n=Literal["a"])),
        (event(n=float), event(n=int)),
    ],
    "make optional what was required": [(event(n=int), event(n=(int | None, None)))],
    "make required what was optional": [(event(n=(int, 1)), event(n=int))],
    "another key field": [(event(customer_id=Key), event(account_id=Key))],
}


def test_the_table_of_changes_is_true() -> None:
    told = {
        change: [not cell.startswith(("no", "never")) for cell in cells]
        for change, *cells in rows(read(PAGES[0]), "Change")
    }
    found = {}
    for change, pairs in CHANGES.items():
        verdicts = []
        for old, new in pairs:
            broken = {way for one in changes(schema_of(old), schema_of(new)) for way in one.breaks}
            verdicts.append(["backward" not in broken, "forward" not in broken])
        assert all(verdict == verdicts[0] for verdict in verdicts), change
        found[change] = verdicts[0]
    assert told == found


def test_an_alias_keeps_the_contract() -> None:
    aliased = event(total=(Decimal, Field(alias="amount")))
    assert fingerprint(schema_of(aliased)) == fingerprint(schema_of(event(amount=Decimal)))
