"""Finds agents by import path: ``module``, or ``module:Class`` for one of several."""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

from sojourn.agents.agent import Agent
from sojourn.agents.processor import AgentProcessor
from sojourn.agents.spec import AgentSpec
from sojourn.bus.catalog import Catalog
from sojourn.bus.errors import ConfigurationError, NotFoundError, SojournError
from sojourn.bus.origin import line_of


def load_module(path: str) -> ModuleType:
    """Imports a module by its dotted path; the current folder is importable.

    Raises `NotFoundError` where there is no such module, and `ConfigurationError` (with the error in the module as its
    cause, and its line in the message) where the module itself fails. What Sojourn says about the module's classes
    passes through unchanged.
    """
    if path.endswith(".py") or "/" in path or "\\" in path:
        dotted = path.removesuffix(".py").strip("./\\").replace("/", ".").replace("\\", ".")
        raise NotFoundError(f"{path!r} is a file, not an import path: write {dotted}")
    if not all(part.isidentifier() for part in path.split(".")):
        raise NotFoundError(f"{path!r} is no import path: write it like examples.quickstart")
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        return importlib.import_module(path)
    except SojournError:
        raise
    except ModuleNotFoundError as error:
        if error.name is not None and (path == error.name or path.startswith(f"{error.name}.")):
            raise NotFoundError(f"there is no module {error.name!r}: neither in {here} nor installed here") from error
        raise ConfigurationError(f"{path} cannot be imported: {_told(error)}") from error
    except (Exception, SystemExit) as error:
        raise ConfigurationError(f"{path} cannot be imported: {_told(error)}") from error


def load_agents(reference: str) -> list[AgentProcessor]:
    """The agents of ``module`` (all in its namespace, imported ones too), or the one of ``module:Class``, in the
    order written.

    Raises `NotFoundError` where there is no such module or no agent in it, `ConfigurationError` where the module fails
    or two agents have one name, and `DefinitionError` for a class that cannot work.
    """
    path, _, name = reference.partition(":")
    module = load_module(path)
    if name:
        cls = getattr(module, name, None)
        if cls is None:
            found = ", ".join(agent.__name__ for agent in _agents(module)) or "none"
            raise NotFoundError(f"{path} has no {name} (agents there: {found})")
        if not isinstance(cls, type) or not issubclass(cls, Agent):
            raise ConfigurationError(f"{reference} is no agent class: derive it from Agent")
        return [AgentProcessor(cls)]
    classes = _agents(module)
    if not classes:
        bare = [
            thing
            for thing in vars(module).values()
            if isinstance(thing, type) and issubclass(thing, Agent) and thing is not Agent
        ]
        hint = f'; {bare[0].__name__} ({line_of(bare[0])}) lacks @agent("a-name")' if bare else ""
        raise NotFoundError(f"{path} has no agents: a class that derives from Agent and has @agent(...) above it{hint}")
    by_name: dict[str, type[Agent]] = {}
    for cls in classes:
        other = by_name.setdefault(cls.__sojourn_agent__.name, cls)
        if other is not cls:
            raise ConfigurationError(
                f"two agents are named {cls.__sojourn_agent__.name!r}: {line_of(other)} and {line_of(cls)}; "
                "an agent's name is that of its lanes, so rename one of them"
            )
    return [AgentProcessor(cls) for cls in by_name.values()]


def catalog_of(processors: Iterable[AgentProcessor], *modules: ModuleType) -> Catalog:
    """The event types that agents handle, fold and publish, and those in the namespaces of ``modules``. Raises
    `DefinitionError`."""
    catalog = Catalog()
    for processor in processors:
        for types in (processor.handles, processor.folds, processor.publishes):
            for event in types.values():
                catalog.add(event)
    for module in modules:
        for event in Catalog.of_module(module):
            catalog.add(event)
    return catalog


def _agents(module: ModuleType) -> list[type[Agent]]:
    found = {
        id(thing): thing
        for thing in vars(module).values()
        if isinstance(thing, type)
        and issubclass(thing, Agent)
        and isinstance(vars(thing).get("__sojourn_agent__"), AgentSpec)
    }
    return list(found.values())


def _told(error: BaseException) -> str:
    """What an error says, and the line of the user's that raised it: the last one outside the import system."""
    if isinstance(error, SyntaxError):
        return f"{error.filename}:{error.lineno}: {type(error).__name__}: {error.msg}"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith("<frozen")]
    mine = [frame for frame in frames if frame.filename not in (__file__, importlib.__file__)]
    place = f"{mine[-1].filename}:{mine[-1].lineno}: " if mine else ""
    return f"{place}{type(error).__name__}: {error}"
