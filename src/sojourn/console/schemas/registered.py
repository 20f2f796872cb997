"""A registered event type for people and for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

from sojourn.bus.schemas.records import SchemaRecord
from sojourn.console.output import Column, write, write_facts, write_table
from sojourn.console.terminal import is_terminal, plain


def facts(record: SchemaRecord) -> dict[str, Any]:
    """An event type for programs, each version with its schema."""
    return record.model_dump(mode="json", by_alias=True)


def first_line(record: SchemaRecord) -> str:
    """The first line of the description."""
    return record.description.strip().partition("\n")[0] or "–"


def first_seen(record: SchemaRecord) -> str:
    """The day on which the type was first registered, in this machine's zone."""
    moments = [one.registered for one in record.versions]
    return f"{min(moments).astimezone():%Y-%m-%d}" if moments else "–"


def tell_record(record: SchemaRecord, number: int | None) -> None:
    """Writes the facts of a type, its versions, and the schema of version ``number``, the newest by default."""
    shown = record.version(number) if number is not None else record.latest
    write_facts(
        [
            ("event", record.type),
            ("key", record.key_field),
            ("personal", ", ".join(_personal(shown.schema_, shown.schema_, "")) or "–" if shown is not None else "–"),
            ("level", str(record.compatibility)),
            ("owner", record.owner or "–"),
        ]
    )
    if record.description:
        write("\n" + "".join(f"{plain(line)}\n" for line in record.description.strip().splitlines()))
    if shown is None:
        return
    columns = [
        Column("version", right=True), Column("registered"), Column("by", "wraps"), Column("lifts"),
        Column("hash", "is cut"),
    ]  # fmt: skip
    rows = [
        (
            str(one.version), f"{one.registered.astimezone():%Y-%m-%d %H:%M}", one.reference,
            ", ".join(map(str, one.upcasts)) or "–", one.hash.removeprefix("sha256:")[:12],
        )
        for one in record.versions
    ]  # fmt: skip
    write("\n")
    write_table(columns, rows)
    # As everywhere: on a terminal nothing but ASCII comes from what others wrote into a schema.
    text = json.dumps(shown.schema_, indent=2, ensure_ascii=is_terminal(sys.stdout))
    write(f"\nversion {shown.version}:\n{text}\n")


def _personal(part: Any, schema: dict[str, Any], path: str, above: tuple[int, ...] = ()) -> Iterator[str]:  # noqa: ANN401 - any part of a schema
    """Paths of the personal values in a schema, in its order."""
    from sojourn.bus.schemas.schema import resolve

    if not isinstance(part, dict) or id(part) in above:
        return
    if part.get("x-sojourn-personal") is True:
        yield path
        return
    above = (*above, id(part))
    target = resolve(part, schema)
    if target is not part:
        yield from _personal(target, schema, path, above)
        return
    inner = [(f"{path}.{name}" if path else name, value) for name, value in part.get("properties", {}).items()]
    inner += [(f"{path}[]", part.get("items")), (f"{path}.*", part.get("additionalProperties"))]
    inner += [(path, branch) for word in ("anyOf", "oneOf", "allOf") for branch in part.get(word, ())]
    told: set[str] = set()
    for at, value in inner:
        for found in _personal(value, schema, at, above):
            if found not in told:
                told.add(found)
                yield found
