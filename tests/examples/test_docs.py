"""The code in these pages runs."""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
import re
import sys
from decimal import Decimal
from pathlib import Path
from types import ModuleType

import pytest

from sojourn.agents.processor import AgentProcessor
from sojourn.testing import Scenario

DOCS = Path(__file__).parents[2] / "docs"


def run(page: str, folder: Path) -> ModuleType:
    """A page's Python blocks, one after the other, as a module."""
    source = "\n\n".join(re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL))
    assert source
    name = f"docs_{page.removesuffix('.md')}"
    path = folder / f"{name}.py"
    path.write_text(source, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def test_the_tests_in_testing_md_pass(tmp_path: Path) -> None:
    module = run("testing.md", tmp_path)
    tests = [thing for name, thing in vars(module).items() if name.startswith("test_")]
    assert tests
    for test in tests:
        assert inspect.iscoroutinefunction(test)
        asyncio.run(test())


async def test_the_agent_in_agents_md_works(tmp_path: Path) -> None:
    module = run("agents.md", tmp_path)
    assert AgentProcessor(module.WinBack).retry.attempts == 3
    async with Scenario(module.WinBack) as s:
        await s.when(module.CartAbandoned(customer_id="ann", cart_value=120))
        s.then(module.DiscountOffered(customer_id="ann", percent=15))
        await s.advance(module.days(3))
        s.then_nothing()


async def test_the_journey_in_journeys_md_folds(tmp_path: Path) -> None:
    module = run("journeys.md", tmp_path)
    async with Scenario() as s:
        await s.given(
            module.CartUpdated(customer_id="ann", value=70), module.DiscountOffered(customer_id="ann", percent=5)
        )
        cart = s.journey(module.Cart, "ann")
        assert (cart.value, cart.offers, cart.last_offer) == (70, (5,), s.now)


def test_the_difference_in_testing_md_is_the_one_that_is_told() -> None:
    from examples.retail import CartAbandoned, CartRecovery, DiscountOffered, OrderPlaced
    from sojourn import hours

    value = Decimal(80)

    async def scenario() -> None:
        async with Scenario(CartRecovery) as s:
            await s.given(OrderPlaced(customer_id="ann", order_id="1", total=Decimal(20), currency="EUR", items=1))
            await s.when(CartAbandoned(customer_id="ann", cart_value=value))
            await s.advance(hours(1))
            s.then(DiscountOffered(customer_id="ann", percent=10, reason="returning", cart_value=value))

    [told] = re.findall(r"```text\n(.*?)\n```", (DOCS / "testing.md").read_text(encoding="utf-8"), re.DOTALL)
    with pytest.raises(AssertionError) as caught:
        asyncio.run(scenario())
    assert str(caught.value) == told
