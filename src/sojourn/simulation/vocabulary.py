"""A module's own event types, found by name and filled by field: how made-up and recorded customers speak any
module's language."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import ValidationError

from sojourn.bus.catalog import Catalog
from sojourn.bus.envelope import problems
from sojourn.bus.errors import ConfigurationError
from sojourn.bus.event import Event, spec_of
from sojourn.bus.origin import line_of


class Vocabulary:
    """Makes events of a catalogue by type name from ``values`` by field name.

    ``offered`` says which types are made, and the names of the values that come with each. A type that the catalogue
    does not have is never made; a value for which a type has no field is left out. Raises `ConfigurationError` where
    the catalogue has none of the types, or where one of them needs a field that nothing is known for.
    """

    def __init__(self, catalog: Catalog, offered: Mapping[str, Iterable[str]], *, who: str) -> None:
        self._who = who
        self._types: dict[str, tuple[type[Event], str, frozenset[str]]] = {}
        for name, values in offered.items():
            cls = catalog.get(name)
            if cls is not None:
                self._types[name] = (cls, spec_of(cls).key_field, _usable(cls, frozenset(values), who))
        if not self._types:
            known = ", ".join(spec_of(cls).type for cls in catalog) or "none at all"
            raise ConfigurationError(
                f"{who} make events named {', '.join(offered)}, and the module has none of these (it has {known}): "
                "define or import at least one of them"
            )

    def __contains__(self, name: str) -> bool:
        return name in self._types

    def make(self, name: str, key: str, values: Mapping[str, Any]) -> Event:
        """An event of a type that the catalogue has. Raises `ConfigurationError` where a field refuses its value."""
        cls, key_field, fields = self._types[name]
        try:
            return cls(**{key_field: key}, **{field: values[field] for field in fields})
        except ValidationError as error:
            raise ConfigurationError(
                f"{self._who} cannot make a {name} of {line_of(cls)}: {problems(error)}; change the field's type"
            ) from error


def _usable(cls: type[Event], values: frozenset[str], who: str) -> frozenset[str]:
    spec = spec_of(cls)
    for field, info in cls.model_fields.items():
        if field != spec.key_field and field not in values and info.is_required():
            raise ConfigurationError(
                f"{line_of(cls)}: {spec.type}.{field} is required, and {who} know only "
                f"{', '.join(sorted(values)) or 'the customer'}: give the field a default"
            )
    return values & cls.model_fields.keys()
