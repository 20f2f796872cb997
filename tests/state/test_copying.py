from __future__ import annotations

import copy
from collections import deque
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any, Literal, NamedTuple, NewType

import pytest
from pydantic import BaseModel, ConfigDict, Field

from sojourn.state.copying import copier
from tests.ids import told


class Colour(StrEnum):
    RED = "red"


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)
    amount: Decimal
    parts: tuple[int, ...] = ()


class FrozenWithList(BaseModel):
    model_config = ConfigDict(frozen=True)
    parts: list[int] = []


class Open(BaseModel):
    amount: int = 0


@dataclass(frozen=True)
class FrozenPoint:
    x: int


@dataclass
class Point:
    x: int


class Pair(NamedTuple):
    left: int
    right: Frozen


class Loop(BaseModel):
    model_config = ConfigDict(frozen=True)
    inner: Loop | None = None


Amount = NewType("Amount", int)


SHARED: list[Any] = [
    int, str, bool, Decimal, datetime | None, Colour, Literal["a", 1], Amount, Annotated[int, Field(gt=0)], Frozen,
    FrozenPoint, Pair, Loop, tuple[Frozen, ...], frozenset[str], tuple[int, str] | None,
]  # fmt: skip
SHALLOW: list[Any] = [
    list[int], dict[str, Frozen], set[Colour] | None, deque[Pair], Annotated[list[str], "x"],
]  # fmt: skip
DEEP: list[Any] = [
    Any, object, list, list[Open], Open, Point, FrozenWithList, dict[str, list[int]], tuple[list[int], ...],
    list[int] | Open,
]  # fmt: skip


@pytest.mark.parametrize("annotation", SHARED, ids=told)
def test_what_cannot_be_changed_is_shared(annotation: Any) -> None:
    assert copier(annotation) is None


@pytest.mark.parametrize("annotation", SHALLOW, ids=told)
def test_containers_of_it_are_copied_one_level_deep(annotation: Any) -> None:
    assert copier(annotation) is copy.copy


@pytest.mark.parametrize("annotation", DEEP, ids=told)
def test_anything_else_is_copied_deeply(annotation: Any) -> None:
    assert copier(annotation) is copy.deepcopy
