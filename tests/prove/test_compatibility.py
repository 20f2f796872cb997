"""Schema compatibility over some thirty times as many generated models as in every test run."""

from __future__ import annotations

import pytest

from tests.bus.schemas.generated_models import values
from tests.bus.schemas.test_compatibility_properties import assert_not_vacuous, check_families


@pytest.mark.prove
def test_what_is_accepted_is_read_over_many_models() -> None:
    count = check_families(1_200)
    assert count["pairs"] > 10_000
    assert count["equal"] > 500
    assert_not_vacuous(count)


@pytest.mark.prove
def test_what_is_accepted_of_single_values_is_read_over_many() -> None:
    count = check_families(2_400, values)
    assert count["pairs"] > 10_000
    assert_not_vacuous(count)
