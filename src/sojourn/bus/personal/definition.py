"""Which fields of a model are personal, and whether they are declared so that they can be erased."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from sojourn.bus.errors import DefinitionError
from sojourn.bus.personal.field import open_value

_IN_JSON = frozenset({"str", "int", "float", "bool", "literal", "enum", "uuid", "url", "any", "none"})
"""Types that strict validation takes as JSON has them, in pydantic_core's words."""


class _Found(NamedTuple):
    """A personal value in a model. ``path``: the names of the fields that lead to it; ``field``: the innermost one that
    is a model's; ``erasable``: it can be None where it stands; ``strict``: it is validated strictly, and of a type that
    JSON has not; ``preceded``: a validator runs before it is opened."""

    path: str
    field: FieldInfo | None
    erasable: bool
    strict: bool
    preceded: bool


def personal_fields(cls: type[BaseModel]) -> dict[str, FieldInfo]:
    """The fields that are personal or have something personal in them, by their path (``address.street``), in order.

    Those of models within models, lists and dictionaries are told once. Raises `DefinitionError` where the model is not
    complete, since a name in its annotations is unknown.
    """
    return {found.path: found.field for found in _personal(cls) if found.field is not None}


def has_personal(cls: type[BaseModel]) -> bool:
    """Whether anything in a model is personal. Raises `DefinitionError` as `personal_fields` does."""
    return next(_personal(cls), None) is not None


def check_personal(cls: type[BaseModel], *, key: str | None = None) -> None:
    """Raises `DefinitionError` where a personal value cannot read None, or is the ``key`` field."""
    for path, _, erasable, strict, preceded in _personal(cls):
        if path == key:
            raise DefinitionError(
                f"class {cls.__name__}: the field {path} is the Key, which is part of subjects and never sealed: it "
                "cannot be Personal. Take an id that says nothing about the person, and keep what does in a field of "
                "its own"
            )
        if not erasable:
            raise DefinitionError(
                f"class {cls.__name__}: the field {path} is Personal and reads None once its customer is erased, so "
                f"None stands beside it: {path.rpartition('.')[2]}: Personal[T] | None. Constraints and further types "
                "go inside (Personal[Annotated[str, Field(max_length=9)]] | None), and lists are personal as a whole "
                "(Personal[list[T]] | None) or in each item (list[Personal[T] | None])"
            )
        if strict:
            raise DefinitionError(
                f"class {cls.__name__}: the field {path} is Personal and strict, but JSON has no such type, so a value "
                "that was sealed could not be read again: leave it lax, Personal[Annotated[T, Field(strict=False)]]"
            )
        if preceded:
            raise DefinitionError(
                f"class {cls.__name__}: the field {path} is Personal, and a validator of mode before or wrap gets its "
                "sealed text, which no longer opens once it is changed: such validators go inside, "
                "Personal[Annotated[T, BeforeValidator(…)]]; those of mode after may stay"
            )


def _personal(cls: type[BaseModel]) -> Iterator[_Found]:
    """Everything personal in a model. Found in its core schema, which also knows what an annotation only names."""
    if not cls.__pydantic_complete__ and not cls.model_rebuild(raise_errors=False):
        raise DefinitionError(
            f"class {cls.__name__}: an annotation names something that is not defined yet, so nobody can tell what is "
            "personal: define it before the class"
        )
    told: set[str] = set()
    for found in _Walk().walk(cls.__pydantic_core_schema__, "", None, nullable=False):
        if found.path not in told or not found.erasable or found.strict or found.preceded:
            told.add(found.path)
            yield found


class _Walk:
    """A walk through one core schema. Source: pydantic_core.core_schema, whose nodes are dictionaries with a type."""

    def __init__(self) -> None:
        self._definitions: dict[str, Any] = {}
        self._open: set[str] = set()
        self._strict = False
        self._preceded = False
        self._known: Mapping[str, FieldInfo] = {}

    def walk(self, node: Mapping[str, Any], path: str, field: FieldInfo | None, *, nullable: bool) -> Iterator[_Found]:
        match node.get("type"):
            case "definitions":
                self._definitions |= {definition["ref"]: definition for definition in node["definitions"]}
                yield from self.walk(node["schema"], path, field, nullable=nullable)
            case "definition-ref":
                yield from self._refer(node["schema_ref"], path, field, nullable=nullable)
            case "nullable" | "default" as kind:
                yield from self.walk(node["schema"], path, field, nullable=nullable or kind == "nullable")
            case "function-wrap" if node["function"]["function"] is open_value:
                inner = node["schema"]
                named = self._definitions[inner["schema_ref"]] if inner["type"] == "definition-ref" else inner
                strict = named.get("strict", self._strict) and named["type"] not in _IN_JSON
                yield _Found(
                    path, field, nullable or named["type"] in {"nullable", "none", "any"}, strict, self._preceded
                )
                yield from self.walk(inner, path, field, nullable=False)
            case "function-before" | "function-wrap" | "function-plain":
                before, self._preceded = self._preceded, True
                yield from self._parts(node, path, field)
                self._preceded = before
            case "model" | "dataclass":
                outer = self._strict, self._known
                self._strict = node.get("config", {}).get("strict", self._strict)
                self._known = getattr(node["cls"], "__pydantic_fields__", {})
                # Not its fields at once: validators of the whole model may stand before them.
                yield from self.walk(node["schema"], path, field, nullable=nullable)
                self._strict, self._known = outer
            case "model-fields" | "dataclass-args":
                yield from self._fields(node["fields"], path, field, self._known)
            case "typed-dict":
                yield from self._fields(node["fields"], path, field, {})
            case _:
                yield from self._parts(node, path, field)

    def _refer(self, ref: str, path: str, field: FieldInfo | None, *, nullable: bool) -> Iterator[_Found]:
        # A model within itself holds nothing that its first appearance does not.
        if ref not in self._open:
            self._open.add(ref)
            yield from self.walk(self._definitions[ref], path, field, nullable=nullable)
            self._open.remove(ref)

    def _fields(
        self,
        fields: dict[str, Any] | list[dict[str, Any]],
        path: str,
        field: FieldInfo | None,
        known: Mapping[str, FieldInfo],
    ) -> Iterator[_Found]:
        for name, one in fields.items() if isinstance(fields, dict) else [(one["name"], one) for one in fields]:
            inner = f"{path}.{name}" if path else name
            # Validators of a whole model get its fields sealed, and have no business with their values.
            before, self._preceded = self._preceded, False
            yield from self.walk(one["schema"], inner, known.get(name, field), nullable=False)
            self._preceded = before

    def _parts(self, node: Mapping[str, Any], path: str, field: FieldInfo | None) -> Iterator[_Found]:
        """What is personal in any other node: in an item, a choice of a union, an argument …"""
        pending: list[Any] = [part for name, part in node.items() if name not in {"serialization", "metadata"}]
        while pending:
            match pending.pop(0):
                case {"type": str()} as inner:
                    yield from self.walk(inner, path, field, nullable=False)
                case dict() as labelled:
                    pending[:0] = labelled.values()
                case list() | tuple() as several:
                    pending[:0] = several
