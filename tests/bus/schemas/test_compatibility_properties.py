"""Over generated families of models: what a verdict accepts is read, in both directions."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from itertools import permutations
from random import Random
from typing import Any, NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError, create_model

from sojourn.bus.schemas.compatibility import Direction, Schema, breaking, changes, render
from sojourn.bus.schemas.generation import model_schema
from tests.bus.schemas.generated_models import Built, Model, family, instance, values

FAMILY = 5
DOCUMENTS = 6


class Relative(NamedTuple):
    cls: type[BaseModel]
    schema: Schema
    documents: list[str]


def relative(rng: Random, model: Model) -> Relative:
    """A model of the family, with documents that it reads itself: what the generator makes of it is what it says."""
    cls = Built(model).cls
    documents = [json.dumps(instance(rng, model)) for _ in range(DOCUMENTS)]
    for document in documents:
        cls.model_validate_json(document)
    return Relative(cls, json.loads(json.dumps(model_schema(cls))), documents)


def unread(reader: type[BaseModel], documents: list[str]) -> list[str]:
    """The documents that a reader refuses; it ignores what it does not know, as the lenient model has it."""
    refused = []
    for document in documents:
        try:
            reader.model_validate_json(document, extra="ignore")
        except ValidationError as error:
            refused.append(f"{document}\n{error}")
    return refused


def check_families(examples: int, make: Callable[[Random, int], list[Model]] = family) -> Counter[str]:
    """Every ordered pair of every family, in both directions; how often what was found."""
    count: Counter[str] = Counter()

    @settings(max_examples=examples, database=None, derandomize=True, deadline=None)
    @given(st.integers(0, 2**48))
    def run(seed: int) -> None:
        rng = Random(seed)
        relatives = [relative(rng, model) for model in make(rng, FAMILY)]
        for old, new in permutations(relatives, 2):
            found = changes(old.schema, new.schema)
            if old.schema == new.schema:
                count["equal"] += 1
                assert found == [] and not unread(new.cls, old.documents), new.schema
                continue
            count["pairs"] += 1
            ways: list[tuple[Direction, Relative, Relative]] = [("backward", old, new), ("forward", new, old)]
            for direction, writer, reader in ways:
                broken = [change for change in found if direction in change.breaks]
                refused = unread(reader.cls, writer.documents)
                assert not refused or broken, f"{direction}: {refused[0]}\n{old.schema}\n{new.schema}\n{render(found)}"
                assert all(change.fix for change in broken), render(broken)
                count[f"{direction} {'refused' if broken else 'accepted'}"] += 1
                # A refusal that even these few documents bear out is no mere caution.
                count[f"{direction} needed"] += bool(refused)

    run()
    return count


def assert_not_vacuous(count: Counter[str]) -> None:
    for direction in ("backward", "forward"):
        accepted, refused = count[f"{direction} accepted"], count[f"{direction} refused"]
        assert accepted + refused == count["pairs"]
        assert accepted > 0.2 * count["pairs"], count
        assert refused > 0.2 * count["pairs"], count
        assert count[f"{direction} needed"] > 0.6 * refused, count


def test_what_is_accepted_is_read() -> None:
    count = check_families(40)
    assert count["pairs"] > 400
    assert count["equal"] > 20
    assert_not_vacuous(count)


def test_what_is_accepted_of_single_values_is_read() -> None:
    count = check_families(80, values)
    assert count["pairs"] > 500
    assert_not_vacuous(count)


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 2**48))
def test_a_verdict_is_the_same_twice_and_mirrored(seed: int) -> None:
    rng = Random(seed)
    schemas = [relative(rng, model).schema for model in family(rng, 3)]
    for old, new in permutations(schemas, 2):
        assert changes(old, new) == changes(json.loads(json.dumps(old)), new)
        assert bool(breaking(old, new, "forward")) == bool(breaking(new, old, "backward"))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**48), st.integers(0, 2**48))
def test_strangers_never_raise(one: int, other: int) -> None:
    schemas = [relative(rng, family(rng, 1)[0]).schema for rng in (Random(one), Random(other))]
    changes(*schemas)


def test_deep_nesting_needs_no_stack() -> None:
    def nested(leaf: str, depth: int) -> Schema:
        schema: Schema = {"type": leaf}
        for _ in range(depth):
            schema = {"properties": {"a": {"items": schema, "type": "array"}}, "required": ["a"], "type": "object"}
        return schema

    found = changes(nested("integer", 150), nested("number", 150))
    assert [(change.path.count("a[]"), change.what) for change in found] == [(150, "widened from integer to number")]


def test_recursion_through_several_models_is_settled() -> None:
    def ring(leaf: type) -> Schema:
        names: dict[str, type[BaseModel]] = {}
        for place in range(4):
            fields: dict[str, Any] = {
                "after": (f"Ring{(place + 1) % 4} | None", None),
                "leaf": (leaf if place == 3 else str, ...),
            }
            names[f"Ring{place}"] = create_model(f"Ring{place}", **fields)
        for model in names.values():
            model.model_rebuild(_types_namespace=names)
        return model_schema(names["Ring0"])

    assert changes(ring(int), ring(int)) == []
    assert [change.path for change in changes(ring(int), ring(float))] == ["after.after.after.leaf"]
