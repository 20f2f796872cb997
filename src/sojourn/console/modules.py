"""What a command's MODULE names: agents, and event types."""

from __future__ import annotations

from difflib import get_close_matches
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

from sojourn.bus.errors import NotFoundError, UnknownTypeError

if TYPE_CHECKING:
    from sojourn.agents.processor import AgentProcessor
    from sojourn.bus.catalog import Catalog
    from sojourn.bus.event import Event

EXAMPLE = "examples.retail"
"""The agents that are used where none are named."""


class Loaded(NamedTuple):
    """A module's agents, and the event types that they and the module know."""

    module: ModuleType
    processors: list[AgentProcessor]
    catalog: Catalog


def load(reference: str) -> Loaded:
    """The agents of ``module`` or ``module:Class``. Raises what `sojourn.agents.loading` raises."""
    from sojourn.agents.loading import catalog_of, load_agents, load_module

    module = load_module(reference.partition(":")[0])
    processors = load_agents(reference)
    return Loaded(module, processors, catalog_of(processors, module))


def load_example() -> Loaded:
    """The example shop, which is in Sojourn's repository, not in the package. Raises `NotFoundError`."""
    try:
        return load(EXAMPLE)
    except NotFoundError as error:
        raise NotFoundError(
            f"the example agents ({EXAMPLE}) are not in this folder: name a MODULE, or go to Sojourn's repository"
        ) from error


def load_events(path: str) -> Catalog:
    """The event types of a module: those in its namespace, imported ones too, and those that its agents handle, fold or
    publish.

    Raises `NotFoundError` where there are none, and what `sojourn.agents.loading` raises.
    """
    from sojourn.agents.loading import catalog_of, load_agents, load_module

    module = load_module(path)
    try:
        catalog = catalog_of(load_agents(path), module)
    except NotFoundError:  # events only
        catalog = catalog_of([], module)
    if not len(catalog):
        raise NotFoundError(f"{path} has no event types: classes that derive from Event, or agents that handle some")
    return catalog


def load_event_type(path: str, name: str) -> type[Event]:
    """An event class by its name: of the module, or one that its agents handle or publish.

    Raises `UnknownTypeError` with names that are close, or all there are, and what `load_events` raises.
    """
    catalog = load_events(path)
    found = catalog.get(name)
    if found is not None:
        return found
    names = [cls.__name__ for cls in catalog]
    near = [n for n in names if n.lower() == name.lower()] or get_close_matches(name, names, 3, 0.5)
    if near:
        hint = f"did you mean {' or '.join(near)}?"
    else:
        hint = f"it has {', '.join(names[:12])}{' …' if len(names) > 12 else ''}"
    raise UnknownTypeError(f"{path} has no event type {name!r}: {hint}", type=name)
