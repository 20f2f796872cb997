from __future__ import annotations

import subprocess
import sys

import pytest

from sojourn.simulation.population import Population, chance


def test_chance_is_the_same_for_the_same_parts_and_differs_otherwise() -> None:
    assert chance(7, 1, "visit", 2).random() == chance(7, 1, "visit", 2).random()
    draws = [chance(*parts).random() for parts in ((7, 1, "visit", 2), (8, 1, "visit", 2), (7, 12, "visit"), (7, 1, 2))]
    assert len(set(draws)) == 4


def test_chance_is_the_same_in_every_process() -> None:
    code = "from sojourn.simulation.population import chance; print(chance(7, 'x').random())"
    shown = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": salt}, capture_output=True, text=True, check=True
        ).stdout
        for salt in ("1", "2")
    }
    assert shown == {f"{chance(7, 'x').random()}\n"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"buys": 1.5}, r"buys=1\.5: a chance is between 0 and 1"),
        ({"goes_silent": -0.1}, "goes_silent=-0.1"),
        ({"visits": 0}, "visits=0: give a number above 0"),
        ({"cart_sigma": float("nan")}, "cart_sigma=nan"),
        ({"pages": 0.5}, "one product at least"),
        ({"rhythm": (1.0,)}, "24 weights"),
        ({"rhythm": (0.0,) * 24}, "24 weights"),
    ],
)
def test_impossible_populations_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Population(**settings)  # type: ignore[arg-type]  # wrong on purpose
