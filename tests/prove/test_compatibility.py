"""Schema compatibility over ten times as many generated models as in every test run."""

from __future__ import annotations

import pytest

from tests.bus.schemas.test_compatibility_properties import assert_not_vacuous, check_families


@pytest.mark.prove
def test_what_is_accepted_is_read_over_many_models() -> None:
    count = check_families(1_200)
    assert count["pairs"] > 10_000
    assert_not_vacuous(count)
