from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from sojourn.console.cells import cut, fit, pad

text = st.text(st.characters(exclude_categories=("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")), max_size=80)


@given(text, st.integers(1, 40), st.booleans())
def test_what_is_fitted_takes_exactly_its_cells(text: str, width: int, middle: bool) -> None:
    assert cell_len(fit(text, width, middle=middle)) == width


@given(text)
def test_what_fits_is_not_cut(text: str) -> None:
    assert cut(text, len(text) * 2 + 1) == text


@pytest.mark.parametrize(
    ("text", "width", "middle", "shown"),
    [
        ("customer-000042", 9, True, "cust…0042"),
        ("customer-000042", 9, False, "customer…"),
        ("日本語の顧客さま", 9, False, "日本語の…"),
        ("short", 9, False, "short"),
        ("long", 1, False, "…"),
    ],
)
def test_cut(text: str, width: int, middle: bool, shown: str) -> None:
    assert cut(text, width, middle=middle) == shown


def test_a_heap_of_accents_is_bounded() -> None:
    assert len(cut("a" + "\u0301" * 10_000, 10)) <= 21


def test_pad_leaves_what_is_too_wide() -> None:
    assert pad("abc", 2) == "abc"
    assert pad("日", 4) == "日  "
