"""Personal data in documents without a class: opened for upcasters, sealed for foreign ones as their schema says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pydantic_core import to_json

from sojourn.bus.errors import DecodeError, SchemaError
from sojourn.bus.personal.field import ERASED, MARK, Unsealing
from sojourn.bus.personal.key import SEALED, CustomerKey, sealed_by
from sojourn.bus.schemas.dialect import dialect, matches
from sojourn.bus.schemas.keywords import READ_AS

if TYPE_CHECKING:
    from jsonschema.protocols import Validator

_NULL = {"type": "null"}


def unseal_tree(data: Any, unsealing: Unsealing) -> Any:  # noqa: ANN401 - what JSON holds
    """A copy of a document with every sealed text in it opened; those that were erased are None.

    ``unsealing.erased`` gets their names as the document has them, of items that of their list. Raises
    `UnknownKeyError` and `DecodeError` as `Unsealing` does; a text that only begins like a sealed one is left alone.
    """
    return _open(data, unsealing, "")


def _open(data: Any, unsealing: Unsealing, name: str) -> Any:  # noqa: ANN401
    match data:
        case dict():
            return {key: _open(value, unsealing, key) for key, value in data.items()}
        case list():
            return [_open(value, unsealing, name) for value in data]
        case str() if data.startswith(SEALED) and _is_sealed(data):
            opened = unsealing.open(data, name)
            if opened is ERASED:
                return None
            # A personal model may have personal fields of its own, but a personal text that looks sealed is a text.
            return opened if isinstance(opened, str) else _open(opened, unsealing, name)
    return data


def _is_sealed(text: str) -> bool:
    try:
        sealed_by(text)
    except DecodeError:
        return False
    return True


def seal_document(data: dict[str, Any], schema: Mapping[str, Any], key: CustomerKey) -> dict[str, Any]:
    """A copy of a document with each value sealed that its JSON Schema marks as personal.

    The document is expected to be valid. Where several members of an ``anyOf`` or ``oneOf`` could apply, those that
    the value is valid by do, and all of them where none is. A null that is allowed beside the personal value stays.
    Raises `SchemaError` for a reference that leads nowhere.
    """
    sealed = _Sealer(schema, key).seal(data, [schema])
    if not isinstance(sealed, dict):
        raise SchemaError(f"the schema marks the whole document as {MARK}: mark its fields instead")
    return sealed


class _Sealer:
    def __init__(self, root: Mapping[str, Any], key: CustomerKey) -> None:
        self._root = root
        self._key = key
        self._validator: Validator | None = None

    def seal(self, value: Any, schemas: list[Any]) -> Any:  # noqa: ANN401 - what JSON holds
        """The value, which all of ``schemas`` apply to."""
        nodes = self._applying(value, schemas)
        if not nodes:
            return value
        match value:
            case dict():
                value = {
                    name: self.seal(part, [s for node in nodes for s in _of_property(node, name)])
                    for name, part in value.items()
                }
            case list():
                value = [
                    self.seal(part, [s for node in nodes for s in _of_item(node, place)])
                    for place, part in enumerate(value)
                ]
        if any(node.get(MARK) is True for node in nodes):
            return self._key.seal(to_json(value))
        return value

    def _applying(self, value: object, schemas: list[Any]) -> list[Mapping[str, Any]]:
        """The schemas and all that they refer to, as far as it applies to the value itself."""
        nodes: list[Mapping[str, Any]] = []
        pending = list(schemas)
        while pending:
            node = pending.pop()
            if not isinstance(node, dict) or any(node is known for known in nodes):
                continue
            nodes.append(node)
            if isinstance(reference := node.get("$ref"), str):
                pending.append(self._resolve(reference))
            pending += node.get("allOf", [])
            pending += [node[keyword] for keyword in ("if", "then", "else") if keyword in node]
            for keyword in ("anyOf", "oneOf"):
                pending += self._chosen(value, node.get(keyword, []))
        return nodes

    def _chosen(self, value: object, choices: list[Any]) -> list[Any]:
        if value is None and _NULL in choices:
            return []
        possible = [choice for choice in choices if choice != _NULL]
        if len(possible) < 2:
            return possible
        return [choice for choice in possible if self._fits(value, choice)] or possible

    def _fits(self, value: Any, schema: Any) -> bool:  # noqa: ANN401 - any value, and a schema may be a boolean
        if self._validator is None:
            self._validator = dialect()(dict(self._root))
        return self._validator.evolve(schema=schema).is_valid(value)

    def _resolve(self, reference: str) -> Any:  # noqa: ANN401
        node: Any = self._root
        start, *tokens = reference.split("/")
        try:
            if start != "#":
                raise KeyError(start)
            for token in tokens:
                name = token.replace("~1", "/").replace("~0", "~")
                node = node[int(name)] if isinstance(node, list) else node[name]
        except (KeyError, IndexError, ValueError, TypeError):
            raise SchemaError(f"the schema refers to {reference!r}, which it does not hold") from None
        return node


def _of_property(node: Mapping[str, Any], name: str) -> Iterator[Any]:
    known = False
    if name in node.get("properties", {}):
        known = True
        yield node["properties"][name]
    for pattern, schema in node.get("patternProperties", {}).items():
        if matches(pattern, name):
            known = True
            yield schema
    if not known:
        # Also under a name that the model looks at later, or not at all where it finds an earlier one.
        others = [*_read_as(node, name)]
        yield from others
        if not others and "additionalProperties" in node:
            yield node["additionalProperties"]


def _read_as(node: Mapping[str, Any], name: str) -> Iterator[Any]:
    for field, places in node.get(READ_AS, {}).items():
        schema = node.get("properties", {}).get(field, True)
        for place in places:
            path = [place] if isinstance(place, str) else place
            if path[0] == name:
                for step in reversed(path[1:]):
                    schema = {"properties": {step: schema}} if isinstance(step, str) else _item(step, schema)
                yield schema


def _item(place: int, schema: Any) -> dict[str, Any]:  # noqa: ANN401 - a schema may be a boolean
    # From the end it could be any of them.
    return {"prefixItems": [*[True] * place, schema]} if place >= 0 else {"items": schema}


def _of_item(node: Mapping[str, Any], place: int) -> Iterator[Any]:
    first = node.get("prefixItems", [])
    if place < len(first):
        yield first[place]
    elif "items" in node:
        yield node["items"]
