"""The event types that a process knows, by name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from types import ModuleType

from sojourn.bus.errors import DefinitionError
from sojourn.bus.event import Event, spec_of
from sojourn.bus.origin import line_of


class Catalog:
    """Event classes by type name. Raises `DefinitionError` where two different classes claim one name."""

    def __init__(self, types: Iterable[type[Event]] = ()) -> None:
        self._types: dict[str, type[Event]] = {}
        for cls in types:
            self.add(cls)

    @classmethod
    def of_module(cls, module: ModuleType) -> Catalog:
        """Every concrete event class in a module's namespace, imported ones included."""
        return cls(
            thing
            for thing in vars(module).values()
            if isinstance(thing, type) and issubclass(thing, Event) and thing.__sojourn__ is not None
        )

    def add(self, cls: type[Event]) -> None:
        """Adds a class; the same one twice is no matter."""
        name = spec_of(cls).type
        known = self._types.setdefault(name, cls)
        if known is not cls:
            raise DefinitionError(
                f"two event classes are named {name}: {line_of(known)} and {line_of(cls)}; "
                "the name is the type on the wire, so rename one of them"
            )

    def get(self, type: str) -> type[Event] | None:
        """The class of a type, or None."""
        return self._types.get(type)

    def __iter__(self) -> Iterator[type[Event]]:
        return iter([self._types[name] for name in sorted(self._types)])

    def __len__(self) -> int:
        return len(self._types)

    def __or__(self, other: Iterable[type[Event]]) -> Catalog:
        return Catalog([*self, *other])
