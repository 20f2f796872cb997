"""Families of pydantic models that differ by a few changes, and JSON instances of each."""

from __future__ import annotations

import enum
import json
import math
import string
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from random import Random
from typing import Annotated, Any, ForwardRef, Literal, Union
from uuid import UUID

from pydantic import (
    AliasChoices,
    AnyUrl,
    AwareDatetime,
    Base64Bytes,
    BaseModel,
    ConfigDict,
    Field,
    Json,
    NaiveDatetime,
    StrictInt,
    UrlConstraints,
    create_model,
)

WORDS = ["red", "green", "blue", "x", "", "12", "1.50", "true"]
NAMES = ["a", "b", "c", "d", "e"]
PATTERNS = {"^[a-z]+$": ["a", "zebra"], "^a": ["a", "abc", "a1"], r"\d": ["1", "a1"]}
_MISSING: Any = object()
# As values: which types they are made of is known at run time only.
_LITERAL: Any = Literal
_UNION: Any = Union
_TUPLE: Any = tuple
_LIST: Any = list
_SET: Any = set
_DICT: Any = dict
_JSON: Any = Json


@dataclass(frozen=True)
class Shape:
    """One annotation. ``kind`` names it; what else counts depends on that."""

    kind: str
    low: int | None = None
    high: int | None = None
    tight: bool = False
    digits: int | None = None
    places: int | None = None
    pattern: str | None = None
    values: tuple[Any, ...] = ()
    parts: tuple[Shape, ...] = ()
    model: Model | None = None


@dataclass(frozen=True)
class Slot:
    """One field of a model; without a default it is required. ``also``: the names it is looked for besides its own,
    before that where ``first`` says so."""

    shape: Shape
    default: Any = _MISSING
    also: tuple[str, ...] = ()
    first: bool = False


@dataclass(frozen=True)
class Model:
    name: str
    slots: dict[str, Slot] = field(hash=False)
    extra: Literal["ignore", "forbid", "allow"] = "ignore"
    tag: str | None = None


SCALARS = [
    "int",
    "int",
    "float",
    "str",
    "str",
    "bool",
    "decimal",
    "literal",
    "enum",
    "date",
    "datetime",
    "uuid",
    "bytes",
    "strict",
    "aware",
    "naive",
    "span",
    "url",
    "json",
    "base64",
    "flag",
]
DAY, NIGHT = date(2020, 1, 1), datetime(2020, 1, 1, tzinfo=UTC)
SCHEMES = ["http", "https", "ftp"]


def scalar(rng: Random) -> Shape:
    kind = rng.choice(SCALARS)
    if kind in {"literal", "enum"}:
        pool: list[Any] = list(WORDS) if rng.random() < 0.7 else [1, 2, 3]
        return Shape(kind, values=tuple(rng.sample(pool, rng.randint(1, 3))))
    if kind == "flag":
        return Shape(kind, values=tuple(rng.sample([1, 2, 4], rng.randint(1, 3))))
    if kind == "json":
        return Shape(kind, parts=(Shape(rng.choice(["int", "str", "decimal", "aware", "date"])),))
    shape = Shape(kind)
    return limited(rng, shape) if rng.random() < 0.4 else shape


def limited(rng: Random, shape: Shape) -> Shape:
    """With other limits, whatever fits the kind."""
    match shape.kind:
        case "decimal" if rng.random() < (0.5 if shape.places is None else 0.9):
            return Shape("decimal", digits=rng.choice([None, None, 3, 5]), places=rng.choice([None, 0, 1, 2]))
        case "flag":
            return replace(shape, values=tuple(rng.sample([1, 2, 4], rng.randint(1, 3))))
        case "url":
            return Shape("url", values=tuple(rng.sample(SCHEMES, rng.randint(0, 3))))
        case "int" | "float" | "decimal" | "strict" | "date" | "aware" | "naive" | "span":
            low = rng.choice([None, 0, 1, 5])
            high = rng.choice([None, 8, 9, 100])
            return replace(shape, low=low, high=high, tight=rng.random() < 0.3, digits=None, places=None)
        case "str":
            if rng.random() < 0.3:
                return Shape("str", pattern=rng.choice(list(PATTERNS)))
            return Shape("str", low=rng.choice([None, 0, 1, 2]), high=rng.choice([None, 2, 5]))
        case "list" | "set" | "mapping":
            return replace(shape, low=rng.choice([None, 0, 1, 2]), high=rng.choice([None, 2, 3]))
        case _:
            return shape


def shape(rng: Random, depth: int, inside: str | None = None) -> Shape:
    if depth == 0 or rng.random() < 0.35:
        return scalar(rng)
    match rng.choice(
        ["optional", "optional", "union", "list", "set", "tuple", "mapping", "model", "tagged", "self", "any"]
    ):
        case "optional":
            return Shape("union", parts=(shape(rng, depth - 1, inside), Shape("none")))
        case "union":
            return Shape("union", parts=tuple(shape(rng, depth - 1, inside) for _ in range(rng.randint(2, 3))))
        case "list":
            return limited(rng, Shape("list", parts=(shape(rng, depth - 1, inside),)))
        case "set":
            return limited(rng, Shape("set", parts=(Shape(rng.choice(["int", "str"])),)))
        case "tuple":
            return Shape("tuple", parts=tuple(shape(rng, depth - 1, inside) for _ in range(rng.randint(0, 3))))
        case "mapping":
            return limited(rng, Shape("mapping", parts=(names(rng), shape(rng, depth - 1, inside))))
        case "model":
            return Shape("model", model=model(rng, depth - 1))
        case "tagged":
            return Shape("tagged", parts=tuple(member(rng, depth - 1, tag) for tag in ("cat", "dog")))
        case "self" if inside is not None:
            # Always behind something that ends: a list may be empty, an optional may be None.
            inner = Shape("self", values=(inside,))
            return Shape("list", parts=(inner,)) if rng.random() < 0.5 else Shape("union", parts=(inner, Shape("none")))
        case _:
            return Shape("any")


def names(rng: Random) -> Shape:
    """What a mapping's keys may be."""
    limits = [Shape("str"), Shape("str", high=3), Shape("literal", values=("x", "red")), Shape("str", pattern="^a")]
    limits += [Shape("int"), Shape("int", low=5), Shape("date")]
    return rng.choice([Shape("str"), *limits])


def member(rng: Random, depth: int, tag: str) -> Shape:
    made = model(rng, depth)
    slots = {"kind": Slot(Shape("literal", values=(tag,)), tag if rng.random() < 0.3 else _MISSING), **made.slots}
    return Shape("model", model=replace(made, slots=slots, tag="kind"))


def model(rng: Random, depth: int, name: str | None = None) -> Model:
    name = name or f"M{rng.getrandbits(40)}"
    slots = {key: slot(rng, depth, name) for key in rng.sample(NAMES, rng.randint(1, 3))}
    return Model(name, slots, rng.choice(["ignore", "ignore", "forbid", "allow"]))


def slot(rng: Random, depth: int, inside: str) -> Slot:
    made = shape(rng, depth, inside)
    return Slot(made, default_of(made) if rng.random() < 0.4 else _MISSING)


def default_of(shape: Shape) -> Any:
    """Defaults are not validated, so None will do for whatever has no plainer one."""
    return {"int": 5, "str": "ab", "bool": True}.get(shape.kind)


def mutated(rng: Random, whole: Model, depth: int) -> Model:
    slots = dict(whole.slots)
    for _ in range(rng.choice([1, 1, 2])):
        free = [name for name in NAMES if name not in slots]
        own = [name for name in slots if name != whole.tag]
        change = rng.choice(["add", "remove", "need", "alter", "alter", "alter", "extra", "rename", "also"])
        if change == "add" and free:
            slots[rng.choice(free)] = slot(rng, depth, whole.name)
        elif change == "remove" and own:
            del slots[rng.choice(own)]
        elif change == "need" and slots:
            name = rng.choice(list(slots))
            now = slots[name]
            slots[name] = replace(now, default=default_of(now.shape) if now.default is _MISSING else _MISSING)
        elif change == "alter" and own:
            name = rng.choice(own)
            slots[name] = replace(slots[name], shape=altered(rng, slots[name].shape, depth, whole.name))
        elif change == "rename" and own and free:
            name = rng.choice(own)
            slots[rng.choice(free)] = replace(slots.pop(name), also=(name,), first=rng.random() < 0.3)
        elif change == "also" and own:
            name = rng.choice(own)
            others = rng.sample(NAMES, rng.randint(0, 2))
            also = tuple(other for other in others if other != name)
            slots[name] = replace(slots[name], also=also, first=rng.random() < 0.3)
        elif change == "extra":
            whole = replace(whole, extra=rng.choice(["ignore", "forbid", "allow"]))
    return replace(whole, slots=slots)


WIDER = {
    "int": ["float", "decimal", "strict"],
    "float": ["int", "decimal"],
    "decimal": ["float", "str"],
    "literal": ["str", "enum"],
}
WIDER |= {
    "enum": ["literal", "str"],
    "uuid": ["str"],
    "date": ["str", "datetime"],
    "datetime": ["aware", "naive", "str"],
    "aware": ["datetime", "naive"],
    "naive": ["datetime", "aware"],
    "strict": ["int", "float"],
    "span": ["str"],
    "url": ["str"],
    "json": ["str"],
    "base64": ["bytes", "str"],
    "flag": ["int", "strict"],
    "str": ["decimal", "bytes"],
    "set": ["list"],
}
WIDER |= {"list": ["set"], "bytes": ["str"]}


def altered(rng: Random, now: Shape, depth: int, inside: str) -> Shape:
    way = rng.random()
    if any(part.kind == "self" for part in now.parts):
        return now if way < 0.7 else shape(rng, depth, inside)  # what ends the recursion stays
    if way > 0.85 and (reshaped := turned(rng, now)) is not None:
        return reshaped
    if now.kind in {"union", "tuple", "tagged"} and now.parts and way < 0.8:
        if way < 0.15 and len(now.parts) > 1:
            return replace(now, parts=now.parts[:-1] if rng.random() < 0.5 else now.parts[::-1])
        if way < 0.3:
            extra = member(rng, depth - 1 if depth else 0, "fox") if now.kind == "tagged" else shape(rng, 0, inside)
            if now.kind == "tagged" and len(now.parts) > 2:
                return now
            return replace(now, parts=(*now.parts, extra))
        place = rng.randrange(len(now.parts))
        part = altered(rng, now.parts[place], depth, inside)
        if now.kind == "tagged" and part.kind != "model":
            return now
        return replace(now, parts=(*now.parts[:place], part, *now.parts[place + 1 :]))
    if now.kind in {"list", "mapping"} and way < 0.5:
        return replace(now, parts=(*now.parts[:-1], altered(rng, now.parts[-1], depth, inside)))
    if now.kind == "model" and now.model is not None and way < 0.85:
        return replace(now, model=mutated(rng, now.model, max(depth - 1, 0)))
    if now.kind in {"literal", "enum"} and way < 0.5:
        return replace(now, values=(*now.values, "new") if way < 0.3 else now.values[:1])
    if now.kind in WIDER and way < 0.7:
        other = rng.choice(WIDER[now.kind])
        if other in {"literal", "enum"}:
            return replace(now, kind=other)
        if other in {"set", "list"}:
            simple = now.parts[0] in {Shape("int"), Shape("str")}
            return replace(now, kind=other) if other == "list" or simple else now
        return (
            Shape(other, low=now.low, high=now.high)
            if {other, now.kind} <= {"int", "float", "decimal", "strict"}
            else Shape(other)
        )
    if way < 0.8:
        return limited(rng, now)
    if way < 0.9 and now.kind != "self":
        return Shape("union", parts=(now, Shape("none")))
    return now if now.kind == "self" else shape(rng, depth, inside)


def turned(rng: Random, now: Shape) -> Shape | None:
    """A model for a mapping and the other way round, other keys, a union for its member and the other way round."""
    match now.kind:
        case "mapping" if rng.random() < 0.5:
            return replace(now, parts=(names(rng), now.parts[1]))
        case "mapping" if not any_self(now.parts[1]):
            default = None if rng.random() < 0.7 else _MISSING
            return Shape("model", model=Model(f"M{rng.getrandbits(40)}", {"a": Slot(now.parts[1], default)}))
        case "tagged":
            return now.parts[0]
        case "model" if now.model is not None and now.model.tag is not None:
            (tag,) = now.model.slots[now.model.tag].shape.values
            return Shape("tagged", parts=(now, member(rng, 0, "cat" if tag != "cat" else "dog")))
        case "model" if now.model is not None and now.model.slots:
            first = next(iter(now.model.slots.values())).shape
            return Shape("mapping", parts=(Shape("str"), first)) if not any_self(first) else None
        case _:
            return None


def any_self(shape: Shape) -> bool:
    return shape.kind == "self" or any(any_self(part) for part in shape.parts)


def family(rng: Random, size: int) -> list[Model]:
    """Models that came from one another: each is some change away from one before it."""
    members = [model(rng, 2, "Whole")]
    while len(members) < size:
        members.append(mutated(rng, rng.choice(members), 1))
    return members


def values(rng: Random, size: int) -> list[Model]:
    """Models of one field, of a single value or a mapping's names: each is some change away from the one before."""
    shapes = [limited(rng, scalar(rng)) if rng.random() < 0.8 else Shape("mapping", parts=(names(rng), Shape("int")))]
    while len(shapes) < size:
        now = shapes[-1]
        shapes.append(limited(rng, now) if rng.random() < 0.4 else altered(rng, now, 0, "Whole"))
    return [Model("Whole", {"a": Slot(shape)}) for shape in shapes]


class Built:
    """A model as a pydantic class."""

    def __init__(self, whole: Model) -> None:
        self.whole = whole
        self._classes: dict[Model, type[BaseModel]] = {}
        self._enums: dict[tuple[str, ...], Any] = {}
        self.cls = self._class(whole)

    def _class(self, made: Model) -> type[BaseModel]:
        if made not in self._classes:
            fields: dict[str, Any] = {
                name: (self.annotation(slot.shape), self._field(name, slot, made)) for name, slot in made.slots.items()
            }
            config = ConfigDict(extra=made.extra, allow_inf_nan=False)
            self._classes[made] = create_model(made.name, __config__=config, __module__=__name__, **fields)
        return self._classes[made]

    def _field(self, name: str, slot: Slot, made: Model) -> Any:
        default = ... if slot.default is _MISSING else slot.default
        # One that is a field of its own would give this one another's values in the model's own documents.
        also = [other for other in slot.also if other not in made.slots]
        if not also:
            return default
        names = (*also, name) if slot.first else (name, *also)
        return Field(default, validation_alias=AliasChoices(*names), serialization_alias=name)

    def annotation(self, shape: Shape) -> Any:
        inner = [self.annotation(part) for part in shape.parts]
        match shape.kind:
            case "none":
                return None
            case "any":
                return Any
            case "literal":
                return _LITERAL[shape.values]
            case "enum":
                key = tuple(map(repr, shape.values))
                members = [(f"V{place}", value) for place, value in enumerate(shape.values)]
                return self._enums.setdefault(key, enum.Enum(f"E{len(self._enums)}", members))
            case "union":
                # A Decimal shows as `number or string`: beside a bare str nobody could tell whether that is its own.
                parts = [replace(part, low=0) if part == Shape("str") else part for part in shape.parts]
                return _UNION[tuple(self.annotation(part) for part in parts)]
            case "tuple":
                return _TUPLE[tuple(inner)]
            case "list":
                return Annotated[_LIST[inner[0]], Field(min_length=shape.low, max_length=shape.high)]
            case "set":
                return Annotated[_SET[inner[0]], Field(min_length=shape.low, max_length=shape.high)]
            case "mapping":
                return Annotated[_DICT[inner[0], inner[1]], Field(min_length=shape.low, max_length=shape.high)]
            case "model":
                assert shape.model is not None
                return self._class(shape.model)
            case "tagged":
                return Annotated[_UNION[tuple(inner)], Field(discriminator="kind")]
            case "self":
                return ForwardRef(shape.values[0])
            case "str":
                return Annotated[str, Field(min_length=shape.low, max_length=shape.high, pattern=shape.pattern)]
            case "flag":
                members = [(f"F{value}", value) for value in shape.values]
                return self._enums.setdefault(("flag", *map(str, shape.values)), enum.Flag("Flags", members))
            case "json":
                return _JSON[inner[0]]
            case "url":
                return Annotated[AnyUrl, UrlConstraints(allowed_schemes=list(shape.values) or None)]
            case "base64":
                return Base64Bytes
            case "int" | "float" | "decimal" | "strict" | "date" | "aware" | "naive" | "span":
                plain: Any = PLAIN[shape.kind]
                low, high = ("gt", "lt") if shape.tight else ("ge", "le")
                limits: dict[str, Any] = {low: bound(shape.kind, shape.low), high: bound(shape.kind, shape.high)}
                if shape.kind == "decimal":
                    limits |= {"max_digits": shape.digits, "decimal_places": shape.places}
                return Annotated[plain, Field(**limits)]
            case kind:
                return {"bool": bool, "datetime": datetime, "uuid": UUID, "bytes": bytes}[kind]


PLAIN: dict[str, Any] = {
    "int": int,
    "float": float,
    "decimal": Decimal,
    "strict": StrictInt,
    "date": date,
    "aware": AwareDatetime,
    "naive": NaiveDatetime,
    "span": timedelta,
}


def bound(kind: str, limit: int | None) -> Any:
    """A limit as a value of the kind: of times as days after a first one, of spans in seconds."""
    if limit is None:
        return None
    match kind:
        case "date":
            return DAY + timedelta(days=limit)
        case "aware":
            return NIGHT + timedelta(days=limit)
        case "naive":
            return NIGHT.replace(tzinfo=None) + timedelta(days=limit)
        case "span":
            return timedelta(seconds=limit)
        case _:
            return limit


def instance(rng: Random, made: Model, depth: int = 4) -> dict[str, Any]:
    """A document of the model, with what may be left out left out now and then."""
    return {
        name: value(rng, slot.shape, made, depth)
        for name, slot in made.slots.items()
        if name == made.tag or slot.default is _MISSING or (depth > 0 and rng.random() < 0.6)
    }


def value(rng: Random, shape: Shape, made: Model, depth: int) -> Any:
    make = _MAKERS.get(shape.kind)
    if make is not None:
        return make(rng, shape)
    match shape.kind:
        case "union":
            ended = [part for part in shape.parts if part.kind == "none"]
            return value(rng, rng.choice(ended if depth <= 0 and ended else shape.parts), made, depth - 1)
        case "tagged":
            return value(rng, rng.choice(shape.parts), made, depth - 1)
        case "model":
            assert shape.model is not None
            return instance(rng, shape.model, depth - 1)
        case "self":
            return instance(rng, made, depth - 1)
        case "json":
            return json.dumps(value(rng, shape.parts[0], made, depth - 1))
        case "tuple":
            return [value(rng, part, made, depth - 1) for part in shape.parts]
        case "list":
            lowest = shape.low or 0
            number = lowest if depth <= 0 else rng.randint(lowest, max(lowest, 3 if shape.high is None else shape.high))
            return [value(rng, shape.parts[0], made, depth - 1) for _ in range(number)]
        case "set":
            number = rng.randint(shape.low or 0, 3 if shape.high is None else shape.high)
            pool = [-1, 0, 7, 8] if shape.parts[0].kind == "int" else ["", "a", "bb", "1"]
            return rng.sample(pool, number)
        case _:
            names = keys(shape.parts[0])
            most = min(len(names), 3 if shape.high is None else shape.high)
            number = rng.randint(min(shape.low or 0, most), most)
            return {name: value(rng, shape.parts[1], made, depth - 1) for name in rng.sample(names, number)}


def keys(shape: Shape) -> list[str]:
    if shape.values:
        return list(shape.values)
    if shape.kind == "int":
        return ["5", "7", "12"] if shape.low else ["0", "-1", "7"]
    if shape.kind == "date":
        return ["2020-01-01", "1999-12-31", "0001-01-01"]
    return (
        ["a", "ab", "abc"] if shape.pattern else ["a", "x", "red"] if shape.high else [*NAMES, "kind", "a long one", ""]
    )


def number(rng: Random, shape: Shape) -> int:
    away = 1 if shape.tight else 0
    low = (-(2**53) if rng.random() < 0.2 else -3) if shape.low is None else shape.low + away
    high = max(low, 2**53 if rng.random() < 0.2 else 9) if shape.high is None else shape.high - away
    return rng.choice([low, high, rng.randint(low, high)])


def real(rng: Random, shape: Shape) -> float:
    whole = number(rng, shape)
    if not shape.tight and whole in {shape.low, shape.high}:
        return whole
    inner = [1e-9, 0.5]
    near = [whole + part for part in inner if shape.high is None or whole + part < shape.high]
    return rng.choice([whole, float(whole), *near, 1e300 if shape.high is None else whole])


def text(rng: Random, shape: Shape) -> str:
    if shape.pattern is not None:
        return rng.choice(PATTERNS[shape.pattern])
    lowest, highest = shape.low or 0, 12 if shape.high is None else shape.high
    fitting = [word for word in [*WORDS, "new", "2020-01-01", "é", "🦊🦊", "null"] if lowest <= len(word) <= highest]
    return rng.choice(fitting or ["z" * lowest])


def integral(rng: Random, shape: Shape) -> int | float:
    found = number(rng, shape)
    return float(found) if rng.random() < 0.2 else found


def decimal(rng: Random, shape: Shape) -> float | str:
    if shape.digits is not None or shape.places is not None:
        digits, places = shape.digits or 9, shape.places if shape.places is not None else rng.choice([0, 1, 2])
        places = min(places, digits)
        before = rng.choice(["", "-"]) + ("9" * (digits - places) or "0")
        most = f"{before}.{'9' * places}" if places else before
        # Without a digit before the point not even 0 is read.
        chosen = rng.choice([most, "1", "0"]) if digits > places else most
        return float(chosen) if rng.random() < 0.5 else chosen
    found = real(rng, shape)
    as_text = str(Decimal(repr(found)))
    return rng.choice([found if math.isfinite(found) else 0, as_text])


def moment(rng: Random, shape: Shape) -> str:
    found = datetime(2020, 2, 29, tzinfo=UTC) + timedelta(seconds=rng.randint(0, 10**9))
    return found.replace(tzinfo=rng.choice([UTC, None])).isoformat()


def near(rng: Random, shape: Shape) -> str:
    """A date or time of few days before or after the first."""
    found: date = bound(shape.kind, max(-1_000, min(1_000, number(rng, shape))))
    return found.isoformat()


def span(rng: Random, shape: Shape) -> str:
    seconds = max(-100_000, min(100_000, number(rng, shape)))
    return f"{'-' if seconds < 0 else ''}PT{abs(seconds)}S"


def address(rng: Random, shape: Shape) -> str:
    return f"{rng.choice(shape.values or [*SCHEMES, 'urn'])}://a/b"


def flags(rng: Random, shape: Shape) -> int:
    return sum(rng.sample(shape.values, rng.randint(0, len(shape.values))))


def anything(rng: Random, shape: Shape) -> Any:
    return rng.choice([None, True, 0, -1.5, "", "x", [], [1, "a"], {}, {"a": None}, {"kind": "cat"}])


_MAKERS: dict[str, Callable[[Random, Shape], Any]] = {
    "none": lambda rng, shape: None,
    "any": anything,
    "literal": lambda rng, shape: rng.choice(shape.values),
    "enum": lambda rng, shape: rng.choice(shape.values),
    "bool": lambda rng, shape: rng.random() < 0.5,
    "int": integral,
    "strict": number,
    "float": real,
    "decimal": decimal,
    "str": text,
    "bytes": lambda rng, shape: rng.choice(["", "a", "é", string.ascii_letters]),
    "date": near,
    "aware": near,
    "naive": near,
    "span": span,
    "url": address,
    "base64": lambda rng, shape: rng.choice(["", "YQ==", "AAAA"]),
    "flag": flags,
    "datetime": moment,
    "uuid": lambda rng, shape: str(UUID(int=rng.getrandbits(128), version=4)),
}
