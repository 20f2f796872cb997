"""Looks over event types for what is legal and unwise. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from sojourn.bus.event import Event, spec_of
from sojourn.bus.naming import is_fact, suggest_fact
from sojourn.bus.schemas.personal_names import is_person, likely_personal, person_of
from sojourn.bus.schemas.records import SchemaRecord
from sojourn.bus.schemas.schema import KEY, Schema, resolve, schema_of

PERSONAL = "x-sojourn-personal"


class Finding(NamedTuple):
    """One thing to look at. ``code``: ``imperative``, ``undescribed``, ``personal``, ``personal-key`` or ``owners``;
    ``path`` leads to a field, ``cart.items[].email``, and is empty for the type itself."""

    code: str
    type: str
    path: str
    message: str


def lint(classes: Iterable[type[Event]], records: Mapping[str, SchemaRecord] | None = None) -> list[Finding]:
    """What should be looked at in event classes, and in the newest versions of registered types whose class is not
    among them; by type, in the order of the schema.

    ``records``: what is registered, by type name. A class's own name needs no look: the class was only made because it
    reads as a fact, or because ``fact=True`` vouches for it.
    """
    records = records or {}
    by_type: dict[str, list[type[Event]]] = {}
    for cls in classes:
        by_type.setdefault(spec_of(cls).type, []).append(cls)
    found: list[Finding] = []
    for type in sorted(by_type.keys() | records.keys()):
        mine, record = by_type.get(type, []), records.get(type)
        found += _owners(type, mine, record)
        for cls in mine:
            if not (cls.__dict__.get("__doc__") or "").strip():
                found.append(_undescribed(type, f"class {cls.__module__}:{cls.__qualname__} has no docstring"))
            found += _personal(type, schema_of(cls))
        if not mine and record is not None:
            found += _registered(record)
    return list(dict.fromkeys(found))


def _registered(record: SchemaRecord) -> Iterator[Finding]:
    if not is_fact(record.type):
        yield Finding(
            "imperative",
            record.type,
            "",
            f"does not read as a fact about the past: say what happened ({suggest_fact(record.type)}?), "
            "unless its class vouches for the name with fact=True",
        )
    if not record.description:
        yield _undescribed(record.type, "is registered without a description")
    if record.latest is not None:
        yield from _personal(record.type, record.latest.schema_)


def _undescribed(type: str, what: str) -> Finding:
    return Finding("undescribed", type, "", f"{what}: say in a sentence what happened")


def _owners(type: str, classes: list[type[Event]], record: SchemaRecord | None) -> Iterator[Finding]:
    claims: dict[str, list[str]] = {}
    for cls in classes:
        if (owner := spec_of(cls).owner) is not None:
            claims.setdefault(owner, []).append(f"{cls.__module__}:{cls.__qualname__}")
    if record is not None and record.owner is not None:
        claims.setdefault(record.owner, []).append("the registry")
    if len(claims) > 1:
        said = ", ".join(f"{owner!r} ({', '.join(places)})" for owner, places in sorted(claims.items()))
        yield Finding("owners", type, "", f"has {len(claims)} owners: {said}; agree on one, or rename one event")


def _personal(type: str, schema: Schema) -> Iterator[Finding]:
    body = resolve(schema, schema)
    for name, part in body.get("properties", {}).items():
        if isinstance(part, dict) and part.get(KEY) and likely_personal([name]):
            yield Finding(
                "personal-key",
                type,
                name,
                "the key is likely personal, stands in every subject, and stays after an erasure: use an id that means "
                "nothing elsewhere",
            )
    # What a CustomerRegistered tells is told of a customer.
    subject = person_of(type)
    for path in _fields(body, schema, (), (subject,) if subject else (), frozenset()):
        yield Finding(
            "personal",
            type,
            path,
            "is likely personal and stays readable for ever: mark it Personal[…] | None, or, where it is not, "
            f"Field(json_schema_extra={{{PERSONAL!r}: False}})",
        )


def _fields(
    part: Schema, schema: Schema, path: tuple[str, ...], context: tuple[str, ...], seen: frozenset[int]
) -> Iterator[str]:
    """Paths of the fields below ``part`` that are likely personal and not marked. ``context``: the names around."""
    for name, inner in part.get("properties", {}).items():
        if isinstance(inner, dict) and not inner.get(KEY):
            yield from _field(inner, schema, (*path, name), (*context, name), seen)


def _field(
    part: Schema, schema: Schema, path: tuple[str, ...], context: tuple[str, ...], seen: frozenset[int]
) -> Iterator[str]:
    shapes = list(_shapes(part, schema, ""))
    if likely_personal(context, formats={str(shape.get("format", "")) for shape, _ in shapes}) and any(
        _holds_text(shape, context) for shape, _ in shapes
    ):
        yield ".".join(path)
        return
    for shape, suffix in shapes:
        if id(shape) not in seen:
            inside = (*path[:-1], path[-1] + suffix)
            title = str(shape.get("title", ""))
            around = (*context, title) if is_person(title) else context
            yield from _fields(shape, schema, inside, around, seen | {id(shape)})


def _shapes(
    part: object, schema: Schema, suffix: str, seen: frozenset[int] = frozenset()
) -> Iterator[tuple[Schema, str]]:
    """The forms that a value may have, without those that are marked, or marked as not personal; in lists and mappings
    those of what is in them. With them what leads there: ``[]`` or ``.*``."""
    if not isinstance(part, dict) or PERSONAL in part or id(part) in seen:
        return
    seen |= {id(part)}
    target = resolve(part, schema)
    if target is not part:
        yield from _shapes(target, schema, suffix, seen)
        return
    branches = [*part.get("anyOf", ()), *part.get("oneOf", ()), *part.get("allOf", ())]
    for branch in branches:
        yield from _shapes(branch, schema, suffix, seen)
    if "items" in part:
        yield from _shapes(part["items"], schema, f"{suffix}[]", seen)
    elif isinstance(part.get("additionalProperties"), dict):
        yield from _shapes(part["additionalProperties"], schema, f"{suffix}.*", seen)
    elif not branches:
        yield part, suffix


def _holds_text(shape: Schema, context: tuple[str, ...]) -> bool:
    """Whether the form can hold a personal value: free text, or for an address or a name an object. What is chosen
    from a list, a flag or a number names nobody."""
    if "enum" in shape or "const" in shape:
        return False
    kind = shape.get("type")
    return kind == "string" or (kind == "object" and likely_personal(context, whole=True))
