"""Whether what is personal in a model is sealed when it is written: no serialiser may take the seal's place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from sojourn.bus.errors import DefinitionError
from sojourn.bus.personal.field import open_value, seal_value

_IN_ITS_PLACE = frozenset({"function-plain", "format", "to-string"})
"""Serialisers that do not call what they stand around, in pydantic_core's words."""

Node = Mapping[str, Any]


def check_written(cls: type[BaseModel]) -> None:
    """Raises `DefinitionError` where a personal value would be written in plain: by a serialiser that replaces the one
    that seals, or as a field that the class does not name. The class is complete, as `check_personal` sees to."""
    schema = _Schema(cls.__pydantic_core_schema__)
    for node, path in schema.nodes():
        serialiser = node.get("serialization", {})
        if (
            serialiser.get("type") in _IN_ITS_PLACE or (_is_mark(node) and serialiser.get("function") is not seal_value)
        ) and schema.holds(node):
            raise DefinitionError(
                f"class {cls.__name__}: {f'the field {path}' if path else 'the class'} is or has something Personal, "
                "and a serializer would write it in plain: put it inside, Personal[Annotated[T, PlainSerializer(…)]], "
                "or let it call the next one (field_serializer and model_serializer of mode='wrap')"
            )
        if any(schema.holds(node[extra]) for extra in ("extras_schema", "extras_keys_schema") if extra in node):
            raise DefinitionError(
                f"class {cls.__name__}: {path or 'the class'} takes further fields that are Personal, of which nobody "
                "knows the names: give them fields, or one that is a dictionary: dict[str, Personal[T] | None]"
            )


def personal_names(cls: type[BaseModel]) -> list[str]:
    """The names of the fields that are personal or have something personal in them, computed fields included."""
    schema = _Schema(cls.__pydantic_core_schema__)
    computed = [name for name in cls.model_computed_fields if schema.holds(schema.computed.get(name, {}))]
    return [*(name for name in cls.model_fields if schema.holds(schema.fields.get(name, {}))), *computed]


class _Schema:
    """One core schema. ``fields`` and ``computed`` are those of the model that it is of."""

    def __init__(self, root: Node) -> None:
        self._root = root
        self._definitions: dict[str, Node] = {}
        self.fields: dict[str, Node] = {}
        self.computed: dict[str, Node] = {}
        if root["type"] == "definitions":
            self._definitions = {definition["ref"]: definition for definition in root["definitions"]}
        for node, path in self.nodes():
            if node["type"] == "model-fields" and not path:
                self.fields = node["fields"]
                self.computed = {one["property_name"]: one["return_schema"] for one in node.get("computed_fields", ())}
                break

    def holds(self, node: Node) -> bool:
        """Whether something in the node is personal."""
        return any(_is_mark(inner) for inner, _ in self.nodes(node))

    def nodes(self, start: Node | None = None) -> Iterator[tuple[Node, str]]:
        """Every node that validation meets, each definition once, with the path of the field that it is in."""
        pending: list[tuple[Any, str]] = [(self._root if start is None else start, "")]
        met: set[str] = set()
        while pending:
            part, path = pending.pop(0)
            match part:
                case {"type": "definition-ref", "schema_ref": str() as ref} as node:
                    yield node, path
                    if ref not in met:
                        met.add(ref)
                        pending.insert(0, (self._definitions[ref], path))
                case {"type": "definitions"} as node:
                    pending.insert(0, (node["schema"], path))
                case {"type": str()} as node:
                    yield node, path
                    pending[:0] = [(inner, f"{path}.{name}".strip(".")) for name, inner in _parts(node)]
                case dict() as labelled:
                    pending[:0] = [(inner, path) for inner in labelled.values()]
                case list() | tuple() as several:
                    pending[:0] = [(inner, path) for inner in several]


def _parts(node: Node) -> Iterator[tuple[str, Any]]:
    """What stands in a node: of what has fields, each by its name."""
    for keyword, part in node.items():
        if keyword in {"serialization", "metadata", "config"}:
            continue
        if keyword == "fields":
            # Of a dataclass they are only the names.
            named = part if isinstance(part, dict) else {one["name"]: one for one in part if isinstance(one, dict)}
            yield from named.items()
        elif keyword == "computed_fields":
            yield from ((one["property_name"], one) for one in part)
        else:
            yield "", part


def _is_mark(node: Node) -> bool:
    return node.get("type") == "function-wrap" and node["function"].get("function") is open_value
