from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sojourn.agents.loading import catalog_of, load_agents, load_module
from sojourn.bus.errors import ConfigurationError, DefinitionError, NotFoundError

EVENTS = """
from sojourn import Agent, Event, Journey, Key, agent, evolve, on

class CartAbandoned(Event):
    customer_id: Key

class CartUpdated(Event):
    customer_id: Key

class CouponSent(Event):
    customer_id: Key

class StoreClosed(Event):
    customer_id: Key
"""
AGENTS = """
class Cart(Journey):
    updates: int = 0
    @evolve(CartUpdated)
    def updated(self, event: CartUpdated) -> None:
        self.updates += 1

@agent("second")
class B(Agent[Cart]):
    @on(CartAbandoned)
    def offer(self, event: CartAbandoned) -> CouponSent | None: ...

@agent("first")
class A(Agent):
    @on(CartAbandoned)
    def offer(self, event: CartAbandoned) -> None: ...

Alias = A
"""

Module = Callable[[str], str]
_numbers = itertools.count()


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Module]:
    """Writes a module into the current folder, which is a temporary one, and returns its name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    written = []

    def write(source: str) -> str:
        name = f"made_up_module_{next(_numbers)}"
        Path(f"{name}.py").write_text(source, encoding="utf-8")
        written.append(name)
        return name

    yield write
    for name in written:
        sys.modules.pop(name, None)


def test_all_agents_of_a_module_in_the_order_written(module: Module) -> None:
    name = module(EVENTS + AGENTS)
    processors = load_agents(name)
    assert [processor.writer for processor in processors] == ["second", "first"]
    catalog = catalog_of(processors)
    assert [event.__name__ for event in catalog] == ["CartAbandoned", "CartUpdated", "CouponSent"]
    everything = catalog_of(processors, load_module(name))
    assert [event.__name__ for event in everything] == ["CartAbandoned", "CartUpdated", "CouponSent", "StoreClosed"]


def test_one_agent_of_a_module(module: Module) -> None:
    name = module(EVENTS + AGENTS)
    assert [processor.writer for processor in load_agents(f"{name}:A")] == ["first"]


def test_imported_agents_count(module: Module) -> None:
    other = module(EVENTS + AGENTS)
    assert len(load_agents(module(f"from {other} import *"))) == 2


@pytest.mark.parametrize(
    "reference, message",
    [
        ("nowhere_at_all", "there is no module 'nowhere_at_all': neither in .* nor installed here"),
        ("nowhere_at_all.agents", "there is no module 'nowhere_at_all'"),
        ("json.agents", "there is no module 'json.agents'"),
        ("shop/agents.py", "'shop/agents.py' is a file, not an import path: write shop.agents"),
        ("./shop/agents.py:WinBack", "'./shop/agents.py' is a file, not an import path: write shop.agents"),
        ("", "'' is no import path: write it like examples.quickstart"),
        (".agents", "'.agents' is no import path"),
    ],
)
def test_modules_that_are_not_there(reference: str, message: str, module: Module) -> None:
    with pytest.raises(NotFoundError, match=message):
        load_agents(reference)


@pytest.mark.parametrize(
    "source, message",
    [
        ("import nowhere_at_all", r"{name} cannot be imported: .*{name}.py:1: ModuleNotFoundError: No module named"),
        ("\n\nx = 1 / 0", r"{name} cannot be imported: .*{name}.py:3: ZeroDivisionError: division by zero"),
        ("x = int('a')", r"{name} cannot be imported: .*{name}.py:1: ValueError: invalid literal"),
        ("def f(:\n  pass", r"{name} cannot be imported: .*{name}.py:1: SyntaxError: "),
        ("import sys; sys.exit('bye')", r"{name} cannot be imported: .*{name}.py:1: SystemExit: bye"),
    ],
)
def test_modules_that_fail(source: str, message: str, module: Module) -> None:
    name = module(source)
    with pytest.raises(ConfigurationError, match=message.format(name=name)) as caught:
        load_agents(name)
    assert caught.value.__cause__ is not None
    assert "\n" not in str(caught.value)


def test_what_is_said_of_a_class_passes_through(module: Module) -> None:
    name = module(EVENTS + "@agent('empty')\nclass Empty(Agent): ...")
    with pytest.raises(DefinitionError, match=rf"{name}.py:\d+: class Empty: handles nothing"):
        load_agents(name)


def test_modules_without_agents(module: Module) -> None:
    with pytest.raises(
        NotFoundError, match=r"has no agents: a class that derives from Agent and has @agent\(...\) above it$"
    ):
        load_agents(module(EVENTS))
    name = module(EVENTS + "class Bare(Agent): ...")
    with pytest.raises(NotFoundError, match=rf'; Bare \(.*{name}.py:\d+\) lacks @agent\("a-name"\)$'):
        load_agents(name)


def test_classes_that_are_not_there_or_no_agents(module: Module) -> None:
    name = module(EVENTS + AGENTS)
    with pytest.raises(NotFoundError, match=rf"{name} has no C \(agents there: B, A\)"):
        load_agents(f"{name}:C")
    with pytest.raises(ConfigurationError, match=f"{name}:CartAbandoned is no agent class: derive it from Agent"):
        load_agents(f"{name}:CartAbandoned")


def test_two_agents_of_one_name(module: Module) -> None:
    source = EVENTS + AGENTS + '@agent("first")\nclass C(A): ...\n'
    name = module(source)
    with pytest.raises(
        ConfigurationError, match=rf"two agents are named 'first': {name}.py:\d+ and {name}.py:\d+; .*rename"
    ):
        load_agents(name)


def test_the_example_shop_loads() -> None:
    assert [processor.writer for processor in load_agents("examples.retail")] == [
        "cart-recovery",
        "lapse-watch",
        "loyalty",
    ]
    assert [processor.writer for processor in load_agents("examples.quickstart")] == ["win-back"]
