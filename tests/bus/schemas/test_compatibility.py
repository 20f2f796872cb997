"""The rules, one row each: two schemas, what every level makes of them, and why."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum, Flag, IntFlag
from typing import Annotated, Any, Literal, NamedTuple
from uuid import UUID

import pytest
from pydantic import (
    UUID4,
    UUID5,
    AliasChoices,
    AliasPath,
    AnyUrl,
    AwareDatetime,
    Base64Bytes,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    FutureDatetime,
    HttpUrl,
    Json,
    NaiveDatetime,
    PastDate,
    PastDatetime,
    RootModel,
    StrictInt,
    StringConstraints,
    Tag,
    UrlConstraints,
    create_model,
)

from sojourn.bus.event import Event, Key
from sojourn.bus.schemas.compatibility import Change, Level, Schema, Version, breaking, changes, check, render
from sojourn.bus.schemas.generation import model_schema
from sojourn.bus.schemas.schema import schema_of

B, F = "backward", "forward"
BACKWARDS = {Level.BACKWARD, Level.BACKWARD_TRANSITIVE, Level.FULL, Level.FULL_TRANSITIVE}
FORWARDS = {Level.FORWARD, Level.FORWARD_TRANSITIVE, Level.FULL, Level.FULL_TRANSITIVE}
FINE: set[Level] = set()
OLD_DATA = BACKWARDS
OLD_READERS = FORWARDS
BOTH = BACKWARDS | FORWARDS

CLOSED = ConfigDict(extra="forbid")
OPEN = ConfigDict(extra="allow")


def of(model: type[BaseModel]) -> Schema:
    return model_schema(model)


def m(_config: ConfigDict | None = None, /, **fields: Any) -> Schema:
    """The schema of a model: ``a=int`` is required, ``a=(int, 3)`` has a default."""
    made: dict[str, Any] = {name: value if isinstance(value, tuple) else (value, ...) for name, value in fields.items()}
    return of(create_model("Placed", __config__=_config, **made))


def raw(**schema: Any) -> Schema:
    """A schema that somebody else wrote, as the only field of an event."""
    return {"type": "object", "properties": {"a": schema}, "required": ["a"]}


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int = 9


class Dog(BaseModel):
    kind: Literal["dog"]
    bark: str


class Fox(BaseModel):
    kind: Literal["fox"]


class Tame(BaseModel):
    """Its tag has a default, so a document may come without."""

    kind: Literal["cat"] = "cat"


class Tree(BaseModel):
    value: int
    children: list[Tree] = []
    above: Tree | None = None


def _tree() -> type[BaseModel]:
    class Tree(BaseModel):
        value: float
        children: list[Tree] = []
        above: Tree | None = None

    Tree.model_rebuild(_types_namespace={"Tree": Tree})
    return Tree


def _needy_tree() -> type[BaseModel]:
    class Tree(BaseModel):
        value: int
        weight: int
        children: list[Tree] = []
        above: Tree | None = None

    Tree.model_rebuild(_types_namespace={"Tree": Tree})
    return Tree


class Item(BaseModel):
    sku: str
    price: int


class ClosedItem(Item):
    model_config = CLOSED


class Article(BaseModel):
    """Another name for an Item."""

    sku: str
    price: int


class Dear(BaseModel):
    sku: str
    price: int
    currency: str


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Hue(Enum):
    RED = "red"
    BLUE = "blue"
    GREEN = "green"


class Rights(Flag):
    READ = 1
    WRITE = 2


class MoreRights(Flag):
    READ = 1
    WRITE = 2
    GRANT = 4


class IntRights(IntFlag):
    READ = 1
    WRITE = 2


class Place(NamedTuple):
    x: int
    y: int


class Spot(NamedTuple):
    x: int
    y: int
    z: int = 0


class Prices(RootModel[dict[str, int]]):
    pass


def _kind(value: Any) -> str:
    return str(value["kind"] if isinstance(value, dict) else value.kind)


NEW_YEAR = datetime(2030, 1, 1, tzinfo=UTC).replace(tzinfo=None)
NULLABLE = Literal["x", None]  # noqa: PYI061 - pydantic shows it otherwise than Literal["x"] | None
Pet = Annotated[Cat | Dog, Discriminator("kind")]
Pets = Annotated[Cat | Dog | Fox, Discriminator("kind")]


def text(**limits: Any) -> Any:
    return Annotated[str, Field(**limits)]


def mapping(names: Any, values: Any) -> Any:
    kind: Any = dict
    return kind[names, values]


def number(kind: type[Any] = int, **limits: Any) -> Any:
    return Annotated[kind, Field(**limits)]


def personal(schema: Schema, name: str = "a") -> Schema:
    inner = {**schema["properties"][name], "x-sojourn-personal": True}
    return {**schema, "properties": {**schema["properties"], name: inner}}


def keyed(schema: Schema, name: str) -> Schema:
    inner = {**schema["properties"][name], "x-sojourn-key": True}
    return {**schema, "properties": {**schema["properties"], name: inner}}


class Case(NamedTuple):
    reason: str
    old: Schema
    new: Schema
    refused: set[Level]
    """The levels that refuse it; all others accept."""
    says: str = ""
    """Part of ``path: what`` of one of the changes."""


CASES = [
    # Fields: the four rows of the content model, open and closed.
    Case("nothing changed", m(a=int), m(a=int), FINE),
    Case(
        "an optional field may come: old data lacks it, old readers ignore it",
        m(a=int),
        m(a=int, b=(int | None, None)),
        FINE,
        "b: optional field added",
    ),
    Case(
        "the same in a closed model: lenient readers ignore",
        m(CLOSED, a=int),
        m(CLOSED, a=int, b=(int | None, None)),
        FINE,
        "b: optional field added",
    ),
    Case(
        "the same in a model that keeps what it does not know",
        m(OPEN, a=int),
        m(OPEN, a=int, b=(int | None, None)),
        FINE,
        "b: optional field added",
    ),
    Case(
        "a field with a default fills itself in",
        m(a=int),
        m(a=int, b=(int, 3)),
        FINE,
        "b: optional field added: integer (default 3)",
    ),
    Case(
        "the same in a closed model: with a default",
        m(CLOSED, a=int),
        m(CLOSED, a=int, b=(int, 3)),
        FINE,
        "b: optional field added",
    ),
    Case(
        "a default made by a function shows in no schema, but the field is optional",
        m(a=int),
        m(a=int, b=(list[int], Field(default_factory=list))),
        FINE,
        "b: optional field added: list of integers",
    ),
    Case("old data lacks a required field", m(a=int), m(a=int, b=int), OLD_DATA, "b: required field added: integer"),
    Case(
        "the same in a closed model: required and new",
        m(CLOSED, a=int),
        m(CLOSED, a=int, b=int),
        OLD_DATA,
        "b: required field added",
    ),
    Case(
        "`X | None` without a default is required",
        m(a=int),
        m(a=int, b=int | None),
        OLD_DATA,
        "b: required field added: integer or null",
    ),
    Case(
        "an optional field may go: nobody needs it", m(a=int, b=(int, 3)), m(a=int), FINE, "b: optional field removed"
    ),
    Case(
        "the same in a closed model: lenient readers ignore what is left of it",
        m(CLOSED, a=int, b=(int, 3)),
        m(CLOSED, a=int),
        FINE,
        "b: optional field removed",
    ),
    Case(
        "old readers need a required field that is no longer written",
        m(a=int, b=int),
        m(a=int),
        OLD_READERS,
        "b: required field removed: integer",
    ),
    Case(
        "the same in a closed model: optional and gone",
        m(CLOSED, a=int, b=int),
        m(CLOSED, a=int),
        OLD_READERS,
        "b: required field removed",
    ),
    Case(
        "a required field that gets a default may be missing, which old readers refuse",
        m(a=int),
        m(a=(int, 3)),
        OLD_READERS,
        "a: optional now (default 3), was required",
    ),
    Case(
        "a field that loses its default is missing in old data",
        m(a=(int, 3)),
        m(a=int),
        OLD_DATA,
        "a: required now, was optional",
    ),
    Case(
        "another default is no break: the reader fills in its own",
        m(a=(int, 3)),
        m(a=(int, 4)),
        FINE,
        "a: default changed from 3 to 4",
    ),
    Case(
        "1 and True are different defaults, and neither breaks",
        m(a=(Any, 1)),
        m(a=(Any, True)),
        FINE,
        "a: default changed from 1 to true",
    ),
    Case("a renamed field is one gone and one new", m(total=int), m(amount=int), BOTH, "amount: required field added"),
    Case(
        "an optional field renamed loses its old values, and says so",
        m(a=int, total=(int, 0)),
        m(a=int, amount=(int, 0)),
        FINE,
        "total: optional field removed",
    ),
    Case(
        "an alias is the name on the wire: with it a rename changes nothing",
        m(total=int),
        m(amount=(int, Field(alias="total"))),
        FINE,
    ),
    Case(
        "an alias that changes is a rename",
        m(a=(int, Field(alias="x"))),
        m(a=(int, Field(alias="y"))),
        BOTH,
        "y: required field added",
    ),
    Case(
        "old data is read under its old name, old readers look for it there in vain",
        m(total=int),
        m(amount=(int, Field(validation_alias=AliasChoices("amount", "total")))),
        OLD_READERS,
        "total: required field removed: integer",
    ),
    Case(
        "the same, told of what comes",
        m(total=int),
        m(amount=(int, Field(validation_alias=AliasChoices("amount", "total")))),
        OLD_READERS,
        "amount: required field added: integer",
    ),
    Case(
        "what is read under the old name has to be of its type",
        m(total=str),
        m(amount=(int, Field(validation_alias=AliasChoices("amount", "total")))),
        BOTH,
        "amount: type changed from string to integer",
    ),
    Case(
        "a name that is read besides says nothing of what is stored",
        m(total=int),
        m(total=(int, Field(validation_alias=AliasChoices("total", "sum")))),
        FINE,
    ),
    Case(
        "a name that is read first and means another thing",
        m(total=int, sum=(str, "")),
        m(total=(int, Field(validation_alias=AliasChoices("sum", "total"), serialization_alias="total"))),
        OLD_DATA,
        "total: type changed from string to integer",
    ),
    Case(
        "a place in another field is looked at too, whatever is there",
        m(a=(int, 0), list=(dict[str, str], {})),
        m(a=(int, Field(0, validation_alias=AliasChoices("a", AliasPath("list", "a"))))),
        OLD_DATA,
        "a: looked for at list.a too, where something else may be",
    ),
    Case(
        "a closed model refuses further fields of its own version only, and ignores those of a later, open one",
        m(CLOSED, a=int),
        m(a=int),
        FINE,
        "opened",
    ),
    Case(
        "the same with a field more: it ignores that, too",
        m(CLOSED, a=int),
        m(a=int, b=(int | None, None)),
        FINE,
        "b: optional field added",
    ),
    Case(
        "in the same way it ignores what an earlier, open one may hold",
        m(a=int),
        m(CLOSED, a=int),
        FINE,
        "closed",
    ),
    Case(
        "a closed model in the event ignores them, too",
        m(a=ClosedItem),
        m(a=Item),
        FINE,
        "a: opened",
    ),
    Case("absent and true both mean open", m(a=int), m(OPEN, a=int), FINE),
    # Types.
    Case("integers are numbers", m(a=int), m(a=float), OLD_READERS, "a: widened from integer to number"),
    Case("not every number is an integer", m(a=float), m(a=int), OLD_DATA, "a: narrowed from number to integer"),
    Case("a text is no integer", m(a=str), m(a=int), BOTH, "a: type changed from string to integer"),
    Case("a bool is no integer in JSON", m(a=bool), m(a=int), BOTH, "a: type changed from boolean to integer"),
    Case(
        "None may come: old data has none, old readers refuse it",
        m(a=int),
        m(a=int | None),
        OLD_READERS,
        "a: null is allowed now",
    ),
    Case(
        "None may no longer come, but is in old data",
        m(a=int | None),
        m(a=int),
        OLD_DATA,
        "a: null is no longer allowed",
    ),
    Case("a type without restriction reads all", m(a=int), m(a=Any), OLD_READERS, "a: was integer, now anything"),
    Case("whatever it was, it need not be a text", m(a=Any), m(a=str), OLD_DATA, "a: was anything, now string"),
    Case("a member joins a union", m(a=int), m(a=int | str), OLD_READERS, "a: string is allowed now"),
    Case("a member leaves a union", m(a=int | str), m(a=str), OLD_DATA, "a: integer is no longer allowed"),
    Case("a union has no order", m(a=int | str), m(a=str | int), FINE),
    Case("integer beside number adds nothing", m(a=float), m(a=int | float), FINE),
    Case(
        "a union of types in the short form is the same union",
        raw(type=["integer", "string"]),
        raw(anyOf=[{"type": "string"}, {"type": "integer"}]),
        FINE,
    ),
    Case(
        "no type at all means any type, within the limits of each",
        raw(minLength=3),
        raw(type="string", minLength=3),
        OLD_DATA,
        "a: ",
    ),
    Case(
        "false admits nothing: no old data to read, nothing old readers take",
        raw(**{"not": {}}),
        raw(type="string"),
        BOTH,
        "keyword 'not'",
    ),
    # Decimals.
    Case("integers are read as decimals; old readers refuse texts", m(a=int), m(a=Decimal), OLD_READERS, "a: "),
    Case("decimals are written as texts, which a float's schema lacks", m(a=Decimal), m(a=float), OLD_DATA, "a: "),
    Case(
        "not every text is a decimal, though its schema says string",
        m(a=str),
        m(a=Decimal),
        BOTH,
        "a: format decimal number added",
    ),
    Case("a decimal's numbers are no text", m(a=Decimal), m(a=str), BOTH, "a: number is no longer allowed"),
    Case("a decimal gets a lower limit", m(a=Decimal), m(a=number(Decimal, ge=0)), OLD_DATA, "a: minimum 0 added"),
    Case("a decimal may be None", m(a=Decimal), m(a=Decimal | None), OLD_READERS, "a: null is allowed now"),
    Case(
        "a decimal's digits are limited, which JSON Schema has no word for",
        m(a=Decimal),
        m(a=number(Decimal, max_digits=5)),
        OLD_DATA,
        "a: at most 5 digits now",
    ),
    Case(
        "more digits are more numbers",
        m(a=number(Decimal, max_digits=5)),
        m(a=number(Decimal, max_digits=7)),
        OLD_READERS,
        "a: at most 7 digits, was 5",
    ),
    Case(
        "fewer decimal places are fewer numbers",
        m(a=number(Decimal, decimal_places=3)),
        m(a=number(Decimal, decimal_places=2)),
        OLD_DATA,
        "a: at most 2 decimal places, was 3",
    ),
    Case(
        "of as many digits, more behind the point leave fewer before it",
        m(a=number(Decimal, max_digits=5, decimal_places=2)),
        m(a=number(Decimal, max_digits=5, decimal_places=3)),
        BOTH,
        "a: at most 2 digits before the point, was 3",
    ),
    Case(
        "cents of any amount had no limit before the point",
        m(a=number(Decimal, decimal_places=2)),
        m(a=number(Decimal, max_digits=9, decimal_places=2)),
        OLD_DATA,
        "a: at most 9 digits now",
    ),
    Case(
        "a decimal that may be infinite",
        m(a=Decimal),
        m(a=number(Decimal, allow_inf_nan=True)),
        OLD_READERS,
        "a: NaN and infinity are allowed now",
    ),
    Case("a text beside a decimal need not be a number", m(a=Decimal), m(a=Decimal | str), OLD_READERS, "a: string"),
    Case("a float or a text is no decimal", m(a=float | str), m(a=Decimal), OLD_DATA, "a: "),
    # Limits of numbers.
    Case("1.0 is an integer, but not to a strict one", m(a=int), m(a=StrictInt), OLD_DATA, "a: strict now"),
    Case(
        "flags are combined: two make four values",
        m(a=Rights),
        m(a=MoreRights),
        OLD_READERS,
        "a: flags 1, 2, 4, was flags 1, 2",
    ),
    Case("a flag goes", m(a=MoreRights), m(a=Rights), OLD_DATA, "a: flags 1, 2, was flags 1, 2, 4"),
    Case("flags become any integer", m(a=Rights), m(a=int), OLD_READERS, "a: any integer, was flags 1, 2"),
    Case("an IntFlag keeps what it does not know", m(a=IntRights), m(a=int), FINE),
    Case("a limit comes", m(a=int), m(a=number(ge=1)), OLD_DATA, "a: minimum 1 added"),
    Case("a limit goes", m(a=number(ge=1)), m(a=int), OLD_READERS, "a: minimum 1 removed"),
    Case("a lower limit is raised", m(a=number(ge=1)), m(a=number(ge=2)), OLD_DATA, "a: minimum changed from 1 to 2"),
    Case(
        "an upper limit is raised", m(a=number(le=1)), m(a=number(le=2)), OLD_READERS, "a: maximum changed from 1 to 2"
    ),
    Case(
        "both limits move the same way",
        m(a=number(ge=1, le=5)),
        m(a=number(ge=2, le=6)),
        BOTH,
        "a: maximum changed from 5 to 6",
    ),
    Case("above 0 and from 1 are the same for integers", m(a=number(gt=0)), m(a=number(ge=1)), FINE),
    Case(
        "above 0 and from 0 are not",
        m(a=number(float, ge=0)),
        m(a=number(float, gt=0)),
        OLD_DATA,
        "a: minimum changed from 0 to 0 (exclusive)",
    ),
    Case(
        "multiples of 6 are multiples of 3",
        m(a=number(multiple_of=6)),
        m(a=number(multiple_of=3)),
        OLD_READERS,
        "a: multipleOf changed from 6 to 3",
    ),
    Case("every integer is a multiple of 1", m(a=int), m(a=number(multiple_of=1)), FINE),
    Case(
        "multiples of 2 are none of 3",
        m(a=number(multiple_of=2)),
        m(a=number(multiple_of=3)),
        BOTH,
        "a: multipleOf changed",
    ),
    # Texts.
    Case("a length is limited", m(a=str), m(a=text(max_length=10)), OLD_DATA, "a: maxLength 10 added"),
    Case(
        "a limit of length is widened",
        m(a=text(max_length=10)),
        m(a=text(max_length=20)),
        OLD_READERS,
        "a: maxLength changed from 10 to 20",
    ),
    Case("a least length of 0 is none", raw(type="string", minLength=0), raw(type="string"), FINE),
    Case("a pattern comes", m(a=str), m(a=text(pattern="^a")), OLD_DATA, "a: pattern '^a' added"),
    Case("a pattern goes", m(a=text(pattern="^a")), m(a=str), OLD_READERS, "a: pattern '^a' removed"),
    Case(
        "two patterns are not compared",
        m(a=text(pattern="^a")),
        m(a=text(pattern="^ab")),
        BOTH,
        "a: pattern changed from '^a' to '^ab'",
    ),
    Case("a format is enforced by pydantic", m(a=str), m(a=datetime), OLD_DATA, "a: format 'date-time' added"),
    Case("a date and time is a text", m(a=datetime), m(a=str), OLD_READERS, "a: format 'date-time' removed"),
    Case(
        "a date's format is not a duration's",
        m(a=date),
        m(a=timedelta),
        BOTH,
        "a: format changed from 'date' to 'duration'",
    ),
    Case("every UUID4 is a UUID", m(a=UUID4), m(a=UUID), OLD_READERS, "a: format changed from 'uuid4' to 'uuid'"),
    Case("no UUID4 is a UUID5", m(a=UUID4), m(a=UUID5), BOTH, "a: format changed"),
    Case("an URL for the web has a greatest length", m(a=AnyUrl), m(a=HttpUrl), OLD_DATA, "a: maxLength 2083 added"),
    Case(
        "an URL of the web is an URL", m(a=HttpUrl), m(a=AnyUrl), OLD_READERS, "a: any scheme, was the schemes 'http'"
    ),
    Case(
        "of two schemes one is left",
        m(a=Annotated[AnyUrl, UrlConstraints(allowed_schemes=["http", "https"])]),
        m(a=Annotated[AnyUrl, UrlConstraints(allowed_schemes=["https"])]),
        OLD_DATA,
        "a: the schemes 'https', was the schemes 'http', 'https'",
    ),
    Case(
        "an URL needs a host",
        m(a=AnyUrl),
        m(a=Annotated[AnyUrl, UrlConstraints(host_required=True)]),
        OLD_DATA,
        "a: a host is required now",
    ),
    # Dates and times.
    Case(
        "a time without a zone is no moment",
        m(a=datetime),
        m(a=AwareDatetime),
        OLD_DATA,
        "a: only with a time zone now",
    ),
    Case(
        "a zone need not be said any more",
        m(a=AwareDatetime),
        m(a=datetime),
        OLD_READERS,
        "a: no longer only with a time zone",
    ),
    Case(
        "with a zone or without one are two kinds of times",
        m(a=AwareDatetime),
        m(a=NaiveDatetime),
        BOTH,
        "a: only without a time zone, was only with a time zone",
    ),
    Case("every day is not yet past", m(a=date), m(a=PastDate), OLD_DATA, "a: only in the past now"),
    Case(
        "the past is not the future",
        m(a=PastDatetime),
        m(a=FutureDatetime),
        BOTH,
        "a: only in the future, was only in the past",
    ),
    Case(
        "days before the first are refused",
        m(a=date),
        m(a=number(date, ge=date(2020, 1, 1))),
        OLD_DATA,
        "a: not before 2020-01-01 now",
    ),
    Case(
        "the first day moves back",
        m(a=number(date, ge=date(2020, 1, 1))),
        m(a=number(date, ge=date(2019, 12, 31))),
        OLD_READERS,
        "a: not before 2019-12-31, was not before 2020-01-01",
    ),
    Case(
        "the last moment itself is out",
        m(a=number(datetime, le=NEW_YEAR)),
        m(a=number(datetime, lt=NEW_YEAR)),
        OLD_DATA,
        "a: before 2030-01-01T00:00:00, was not after 2030-01-01T00:00:00",
    ),
    Case(
        "the same moment in two zones",
        m(a=number(datetime, ge=datetime(2030, 1, 1, tzinfo=UTC))),
        m(a=number(datetime, ge=datetime(2030, 1, 1, 1, tzinfo=timezone(timedelta(hours=1))))),
        FINE,
        "a: not before",
    ),
    Case(
        "moments with a zone and without cannot be compared",
        m(a=number(datetime, ge=NEW_YEAR)),
        m(a=number(datetime, ge=datetime(2031, 1, 1, tzinfo=UTC))),
        BOTH,
        "a: not before",
    ),
    Case(
        "a span gets a limit",
        m(a=timedelta),
        m(a=number(timedelta, le=timedelta(hours=1))),
        OLD_DATA,
        "a: at most 3600 seconds now",
    ),
    Case(
        "a span gets a wider limit",
        m(a=number(timedelta, lt=timedelta(seconds=1.5))),
        m(a=number(timedelta, lt=timedelta(seconds=2))),
        OLD_READERS,
        "a: less than 2 seconds, was less than 1.5 seconds",
    ),
    # Texts again.
    Case(
        "a text of spaces is empty once they are cut off",
        m(a=text(min_length=1)),
        m(a=Annotated[str, StringConstraints(min_length=1, strip_whitespace=True)]),
        OLD_DATA,
        "a: spaces around it do not count",
    ),
    Case(
        "spaces cut off refuse nothing by themselves",
        m(a=str),
        m(a=Annotated[str, StringConstraints(strip_whitespace=True)]),
        FINE,
    ),
    Case(
        "only ASCII",
        m(a=str),
        m(a=Annotated[str, StringConstraints(ascii_only=True)]),
        OLD_DATA,
        "a: only ASCII characters are allowed now",
    ),
    Case(
        "a pattern that ignores case is another one",
        m(a=text(pattern=re.compile("^a"))),
        m(a=text(pattern=re.compile("^a", re.IGNORECASE))),
        BOTH,
        "a: the pattern has other flags now",
    ),
    Case("text is not base64", m(a=str), m(a=Base64Bytes), OLD_DATA, "a: format 'base64' added"),
    Case(
        "bytes in hex are no bytes in base64",
        m(ConfigDict(val_json_bytes="hex"), a=bytes),
        m(ConfigDict(val_json_bytes="base64"), a=bytes),
        BOTH,
        "a: format changed from 'hex' to 'base64url'",
    ),
    Case("JSON in a text is no longer read", m(a=Json[int]), m(a=str), OLD_READERS, "a: contentMediaType"),
    Case(
        "bytes are read from texts, and counted otherwise",
        m(a=Annotated[bytes, Field(max_length=3)]),
        m(a=text(max_length=3)),
        BOTH,
        "a: format 'binary' removed",
    ),
    Case(
        "an encoding comes",
        raw(type="string"),
        raw(type="string", contentEncoding="base64"),
        OLD_DATA,
        "a: contentEncoding 'base64' added",
    ),
    Case("JSON in a text is compared as well", m(a=Json[int]), m(a=Json[float]), OLD_READERS, "a(json): widened"),
    Case("not every text is JSON", m(a=str), m(a=Json[int]), OLD_DATA, "a: contentMediaType 'application/json' added"),
    # Values.
    Case("a value joins", m(a=Colour), m(a=Hue), OLD_READERS, "a: now allowed as well: 'green'"),
    Case("a value leaves", m(a=Hue), m(a=Colour), OLD_DATA, "a: no longer allowed: 'green'"),
    Case("an Enum and a Literal of the same values are the same", m(a=Colour), m(a=Literal["blue", "red"]), FINE),
    Case(
        "a constant becomes one of two", m(a=Literal["red"]), m(a=Colour), OLD_READERS, "a: now allowed as well: 'blue'"
    ),
    Case("one constant for another", m(a=Literal["a"]), m(a=Literal["b"]), BOTH, "a: no longer allowed: 'a'"),
    Case("values become free text", m(a=Colour), m(a=str), OLD_READERS, "a: was one of 'red', 'blue', now string"),
    Case("free text becomes values", m(a=str), m(a=Colour), OLD_DATA, "a: was string, now one of 'red', 'blue'"),
    Case("free text that is too short for a value", m(a=Colour), m(a=text(max_length=3)), BOTH, "a: was one of"),
    Case("both truths are a bool", m(a=bool), m(a=Literal[True, False]), FINE),
    Case("1 is not True", m(a=Literal[1]), m(a=Literal[True]), BOTH, "a: no longer allowed: 1"),
    Case("None among the values is null", m(a=NULLABLE), m(a=Literal["x"] | None), FINE),
    Case(
        "values spread over a union are found there", m(a=Literal["x", 1]), m(a=Literal["x"] | int), OLD_READERS, "a: "
    ),
    # Lists, sets, tuples, mappings.
    Case(
        "a list's items are compared",
        m(a=list[int]),
        m(a=list[float]),
        OLD_READERS,
        "a[]: widened from integer to number",
    ),
    Case(
        "items of items, too",
        m(a=list[list[int | None]]),
        m(a=list[list[int]]),
        OLD_DATA,
        "a[][]: null is no longer allowed",
    ),
    Case(
        "a list must no longer be empty",
        m(a=list[int]),
        m(a=Annotated[list[int], Field(min_length=1)]),
        OLD_DATA,
        "a: minItems 1 added",
    ),
    Case(
        "a set refuses nothing that it would lose: doubles may have meant something",
        m(a=list[int]),
        m(a=set[int]),
        OLD_DATA,
        "a: items have to be unique now",
    ),
    Case("a pair is a list", m(a=tuple[int, int]), m(a=list[int]), OLD_READERS, "a: minItems 2 removed"),
    Case(
        "a list that always has two is a pair",
        m(a=Annotated[list[int], Field(min_length=2, max_length=2)]),
        m(a=tuple[int, int]),
        FINE,
    ),
    Case("a tuple's places are compared", m(a=tuple[int, str]), m(a=tuple[float, str]), OLD_READERS, "a[0]: widened"),
    Case(
        "a tuple gets longer", m(a=tuple[int, int]), m(a=tuple[int, int, int]), BOTH, "a: minItems changed from 2 to 3"
    ),
    Case(
        "a named tuple's last place with a default may be missing",
        m(a=Place),
        m(a=Spot),
        OLD_READERS,
        "a: maxItems changed from 2 to 3",
    ),
    Case("a mapping's values are compared", m(a=dict[str, int]), m(a=dict[str, float]), OLD_READERS, "a.*: widened"),
    Case(
        "the names of a mapping are limited",
        m(a=dict[str, int]),
        m(a=dict[Colour, int]),
        OLD_DATA,
        "a.(names): was string, now one of",
    ),
    Case(
        "the lengths of names, too",
        m(a=mapping(text(max_length=9), int)),
        m(a=mapping(text(max_length=3), int)),
        OLD_DATA,
        "a.(names): maxLength changed from 9 to 3",
    ),
    Case(
        "names are texts, and have to be read as numbers",
        m(a=dict[str, int]),
        m(a=dict[int, int]),
        OLD_DATA,
        "a.(names): was string, now integer as text",
    ),
    Case(
        "what names are read as may be limited",
        m(a=dict[int, int]),
        m(a=mapping(number(ge=0), int)),
        OLD_DATA,
        "a.(names): minimum 0 added",
    ),
    Case(
        "names of days become any",
        m(a=dict[date, int]),
        m(a=dict[str, int]),
        OLD_READERS,
        "a.(names): format 'date' removed",
    ),
    Case(
        "names by pattern: values are compared",
        m(a=mapping(text(pattern="^a"), int)),
        m(a=mapping(text(pattern="^a"), float)),
        OLD_READERS,
        "a./^a/: widened",
    ),
    Case(
        "a mapping gets a pattern for its names",
        m(a=dict[str, int]),
        m(a=mapping(text(pattern="^a"), int)),
        BOTH,
        "a./^a/: pattern of names added",
    ),
    Case(
        "a mapping must not be empty",
        m(a=dict[str, int]),
        m(a=Annotated[dict[str, int], Field(min_length=1)]),
        OLD_DATA,
        "a: minProperties changed from 0 to 1",
    ),
    Case(
        "a mapping may hold more",
        m(a=Annotated[dict[str, int], Field(max_length=1)]),
        m(a=Annotated[dict[str, int], Field(max_length=2)]),
        OLD_READERS,
        "a: maxProperties changed from 1 to 2",
    ),
    Case(
        "a mapping may hold what a model's optional field refuses",
        m(a=dict[str, int]),
        m(a=create_model("X", b=(str, ""))),
        BOTH,
        "a.b: type changed from integer to string",
    ),
    Case("a root model is what it holds", m(a=Prices), m(a=dict[str, int]), FINE),
    # Models in models.
    Case(
        "a nested model is compared where it is used",
        m(a=list[Item]),
        m(a=list[Dear]),
        OLD_DATA,
        "a[].currency: required field added",
    ),
    Case("the name of a nested model is not on the wire", m(a=Item), m(a=Article), FINE),
    Case("a model may be None", m(a=Item), m(a=Item | None), OLD_READERS, "a: null is allowed now"),
    Case("a recursive model is equal to itself", m(a=Tree), m(a=Tree), FINE),
    Case("a recursive model widens at every depth", m(a=Tree), m(a=_tree()), OLD_READERS, "a.value: widened"),
    Case(
        "a recursive model needs more at every depth",
        m(a=Tree),
        m(a=_needy_tree()),
        OLD_DATA,
        "a.weight: required field added",
    ),
    Case("a recursive event, too", of(Tree), of(_needy_tree()), OLD_DATA, "weight: required field added"),
    Case("a model is no text", m(a=Item), m(a=str), BOTH, "a: type changed from Item to string"),
    # Unions of models.
    Case("a model joins a tagged union", m(a=Pet), m(a=Pets), OLD_READERS, "a: Fox is allowed now"),
    Case("a model leaves a tagged union", m(a=Pets), m(a=Pet), OLD_DATA, "a: Fox is no longer allowed"),
    Case("a model becomes one of a tagged union", m(a=Cat), m(a=Pet), OLD_READERS, "a: Dog is allowed now"),
    Case(
        "a tag with a default may be missing, and then nobody knows which",
        m(a=Tame),
        m(a=Annotated[Tame | Dog, Discriminator("kind")]),
        BOTH,
        "a",
    ),
    Case(
        "a function that chooses may refuse",
        m(a=Cat | Dog),
        m(a=Annotated[Annotated[Cat, Tag("cat")] | Annotated[Dog, Tag("dog")], Discriminator(_kind)]),
        OLD_DATA,
        "a(Cat): a function chooses among the members now",
    ),
    Case("with a tag or without, the same documents are read", m(a=Pet), m(a=Cat | Dog), FINE),
    Case("tagged unions in lists", m(a=list[Pet]), m(a=list[Pets]), OLD_READERS, "a[]: Fox is allowed now"),
    Case("a tagged union may be None", m(a=Pet), m(a=(Pet | None, None)), OLD_READERS, "a: null is allowed now"),
    # allOf, references, true and false.
    Case(
        "a member of allOf goes",
        raw(allOf=[{"type": "integer"}, {"minimum": 1}]),
        raw(allOf=[{"type": "integer"}]),
        OLD_READERS,
        "a: minimum 1 removed",
    ),
    Case(
        "a member of allOf comes",
        raw(allOf=[{"type": "integer"}]),
        raw(allOf=[{"type": "integer"}, {"minimum": 1}]),
        OLD_DATA,
        "a: minimum 1 added",
    ),
    Case(
        "what stands beside a reference counts",
        {**raw(**{"$ref": "#/$defs/N", "minimum": 1}), "$defs": {"N": {"type": "integer"}}},
        raw(type="integer", minimum=1),
        FINE,
    ),
    Case(
        "true is any value",
        {"type": "object", "properties": {"a": True}},
        {"type": "object", "properties": {"a": {}}},
        FINE,
    ),
    Case(
        "a reference that leads nowhere is a keyword that nobody knows",
        raw(type="integer"),
        raw(**{"$ref": "#/$defs/Gone"}),
        BOTH,
        "a",
    ),
    Case(
        "an unknown keyword comes",
        raw(type="integer"),
        raw(type="integer", contains={}),
        BOTH,
        "a: keyword 'contains' {} added",
    ),
    Case(
        "an unknown keyword changes",
        raw(type="integer", contains=1),
        raw(type="integer", contains=2),
        BOTH,
        "a: keyword 'contains' changed from 1 to 2",
    ),
    Case(
        "an unknown keyword that stays is fine", raw(type="integer", contains=1), raw(type="integer", contains=1), FINE
    ),
    # What is no contract.
    Case(
        "titles, descriptions, examples and deprecation are for people",
        m(a=int),
        m(a=(int, Field(title="T", description="D", examples=[1], deprecated=True))),
        FINE,
    ),
    Case("others' own keywords are for others", raw(type="integer"), raw(type="integer", **{"x-shown": 1}), FINE),
    Case("but a field may be called title", m(title=int), m(title=str), BOTH, "title: type changed"),
    # Sojourn's marks.
    Case(
        "old readers would take sealed text for the value",
        m(a=str),
        personal(m(a=str)),
        OLD_READERS,
        "a: marked Personal",
    ),
    Case("what is stored stays sealed", personal(m(a=str)), m(a=str), OLD_DATA, "a: no longer marked Personal"),
    Case(
        "personal and optional, it stays personal",
        personal(m(a=(str | None, None))),
        personal(m(a=(str | None, None))),
        FINE,
    ),
    Case(
        "events are filed by their key",
        keyed(m(a=str, b=str), "a"),
        keyed(m(a=str, b=str), "b"),
        BOTH,
        "b: the key moved from a to b",
    ),
    Case(
        "a key that is renamed is another key",
        keyed(m(a=str), "a"),
        keyed(m(b=str), "b"),
        BOTH,
        "b: the key moved from a to b",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.reason)
def test_every_level_is_as_the_rule_says(case: Case) -> None:
    found = changes(case.old, case.new)
    for level in Level:
        verdict = check([Version(1, case.old)], case.new, level)
        assert verdict.ok == (level not in case.refused), f"{level}\n{render(found)}"
        assert verdict.level == level
    assert all(change.fix for change in found if change.breaks)
    said = [f"{change.path}: {change.what}" for change in found]
    assert any(case.says in line for line in said) or not case.says, said
    # A row without a word is one where nobody has to be told of a change in meaning.
    assert case.says or not any(change.breaks for change in found)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.reason)
def test_the_way_back_breaks_the_other_way(case: Case) -> None:
    swapped = {"backward": F, "forward": B}
    there = {direction for change in changes(case.old, case.new) for direction in change.breaks}
    back = {direction for change in changes(case.new, case.old) for direction in change.breaks}
    assert {swapped[direction] for direction in there} == back


def test_the_table_covers_every_level() -> None:
    assert len(CASES) >= 80
    for level in set(Level) - {Level.NONE}:
        assert {level in case.refused for case in CASES} == {True, False}, level


def test_changes_come_in_document_order_and_once() -> None:
    old = m(a=int, shop=Item, cart=list[Item], z=str)
    new = m(a=float, shop=Dear, cart=list[Dear], z=int)
    found = changes(old, new)
    # Dear is listed where it is first used: what helps there helps everywhere.
    assert [(change.path, change.what) for change in found] == [
        ("a", "widened from integer to number"),
        ("shop.currency", "required field added: string"),
        ("z", "type changed from string to integer"),
    ]


def test_members_of_a_union_are_told_apart_by_what_they_hold() -> None:
    """Mappings have no name, so two of them are one another's only by their values."""
    both, more = dict[str, int] | dict[str, str], dict[str, str] | dict[str, int] | Item
    assert changes(m(a=both), m(a=both)) == []
    assert [change.what for change in changes(m(a=both), m(a=more))] == ["Item is allowed now"]


def test_one_direction_alone() -> None:
    old, new = m(a=int, b=int), m(a=float, c=str)
    assert [change.path for change in breaking(old, new, "backward")] == ["c"]
    assert [change.path for change in breaking(old, new, "forward")] == ["a", "b"]


V1, V2, V3 = m(a=str), m(b=(int, 0)), m(b=(int, 0), a=(int, 3))


@pytest.mark.parametrize(
    ("level", "against"),
    [
        (Level.NONE, []),
        (Level.BACKWARD, []),
        (Level.FORWARD, []),
        (Level.FULL, []),
        (Level.BACKWARD_TRANSITIVE, [(1, B)]),
        (Level.FORWARD_TRANSITIVE, [(1, F), (1, F)]),
        (Level.FULL_TRANSITIVE, [(1, B), (1, F), (1, F)]),
    ],
)
def test_only_transitive_levels_remember(level: Level, against: list[tuple[int, str]]) -> None:
    """A field went, and came back as another: fine between neighbours, but not for who still reads the first."""
    earlier = [Version(2, V2), Version(1, V1)]
    verdict = check(earlier, V3, level)
    assert [(violation.against, violation.direction) for violation in verdict.violations] == against
    assert check([], V3, level).ok


def test_an_upcaster_mends_what_is_read_and_nothing_else() -> None:
    old, new = m(a=int), m(a=str)
    earlier = [Version(1, old)]
    assert check(earlier, new, Level.BACKWARD, bridged=lambda version: version == 1).ok
    assert not check(earlier, new, Level.BACKWARD, bridged=lambda version: version == 2).ok
    left = check(earlier, new, Level.FULL, bridged=lambda version: True).violations
    assert [violation.direction for violation in left] == ["forward"]


def test_an_upcaster_does_not_file_events_anew() -> None:
    earlier = [Version(1, keyed(m(a=str, b=str), "a"))]
    left = check(earlier, keyed(m(a=str, b=str), "b"), Level.BACKWARD, bridged=lambda version: True).violations
    assert [violation.change.what for violation in left] == ["the key moved from a to b"]


def test_a_chain_has_to_lead_from_every_version_that_counts() -> None:
    earlier = [Version(1, m(a=int)), Version(2, m(a=list[int]))]
    verdict = check(earlier, m(a=str), Level.BACKWARD_TRANSITIVE, bridged=lambda version: version == 2)
    assert [violation.against for violation in verdict.violations] == [1]


class CartAbandoned(Event, version=2):
    customer_id: Key
    total: Decimal
    currency: str


def test_the_way_out_names_class_and_version() -> None:
    new = schema_of(CartAbandoned)
    old = {**new, "properties": {name: new["properties"][name] for name in ("customer_id", "total")}}
    old["required"] = ["customer_id", "total"]
    verdict = check([Version(1, old)], new, Level.FULL)
    assert [violation.change for violation in verdict.violations] == [
        Change(
            "currency",
            "required field added: string",
            frozenset({"backward"}),
            "give it a default, or make it `| None = None`; "
            "or raise version= and write @upcast(CartAbandoned, from_version=1) that fills it in",
        )
    ]


@pytest.mark.parametrize(
    ("old", "new", "fix"),
    [
        (m(a=int), m(a=int, b=int), "give it a default"),
        (m(a=int, b=int), m(a=int), "keep writing it"),
        (m(a=int), m(a=(int, 1)), "keep it required"),
        (m(a=(int, 1)), m(a=int), "keep its default"),
        (m(a=int), m(a=float), "widen in two steps"),
        (m(a=Hue), m(a=Colour), "keep it among the values"),
        (m(a=Colour), m(a=Hue), "older readers refuse it"),
        (m(a=int), m(a=str), "add an optional field beside it"),
        (m(a=str), personal(m(a=str)), "let all of them take this version first"),
        (personal(m(a=str)), m(a=str), "keep it Personal"),
        (keyed(m(a=str, b=str), "a"), keyed(m(a=str, b=str), "b"), "a name of its own"),
        (m(total=int), m(amount=int), 'renamed to amount? Field(alias="total") keeps the name'),
        (m(total=(int, 0)), m(amount=(int, 0)), 'renamed to amount? Field(alias="total") keeps the name'),
    ],
)
def test_every_fix_fits_its_change(old: Schema, new: Schema, fix: str) -> None:
    assert fix in changes(old, new)[0].fix


def test_no_rename_is_guessed_where_several_could_be_meant() -> None:
    assert not any("renamed" in change.fix for change in changes(m(a=int), m(b=int, c=int)))
    assert not any("renamed" in change.fix for change in changes(m(a=int), m(b=str)))


def test_equal_in_meaning_is_said_where_the_text_differs() -> None:
    assert changes(m(a=number(gt=0)), m(a=number(ge=1))) == [
        Change("", "written differently, read the same", frozenset(), "")
    ]


def test_lines_for_people_are_aligned() -> None:
    found = changes(m(a=int, b=(int, 1)), m(a=float, b=(int, 2), currency=str))
    assert render(found, indent="  ").splitlines() == [
        "  a         widened from integer to number  breaks FORWARD   fix: " + changes(m(a=int), m(a=float))[0].fix,
        "  b         default changed from 1 to 2     compatible       note: " + found[1].fix,
        "  currency  required field added: string    breaks BACKWARD  fix: " + found[-1].fix,
    ]
    assert render([]) == ""
    assert render([Change("", "closed", frozenset({"backward", "forward"}), "")]) == (
        "(event)  closed  breaks BACKWARD and FORWARD"
    )
