"""Makes JSON Schemas of pydantic's models, in forms of our own where pydantic's say too little or change with releases.

pydantic shows AwareDatetime as any date and time, a Decimal of five digits as any text, and other things in 2.14 than
in 2.12. A schema that is compared with those of years ago has to say what decides whether a document is read, and to
say it the same way for ever. What is said here beyond JSON Schema are the ``x-sojourn-`` keywords of `keywords`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import CONFORM, KEEP, Flag
from functools import reduce
from operator import or_
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import core_schema

from sojourn.bus.schemas import keywords as own
from sojourn.bus.schemas.contract import Schema

_Core = Any
"""A part of a core schema, one of pydantic's many typed dicts, or its configuration."""
_Bound = Any
"""What a date, time or duration may be compared with."""

_NUMERIC = {
    "multiple_of": "multipleOf",
    "ge": "minimum",
    "le": "maximum",
    "gt": "exclusiveMinimum",
    "lt": "exclusiveMaximum",
}
_TEMPORAL = {"ge": own.LOWEST, "le": own.HIGHEST, "gt": own.ABOVE, "lt": own.BELOW}
_OWN_BOUNDS = {_NUMERIC[word]: name for word, name in _TEMPORAL.items()}
_BYTES = {"utf8": "binary", "base64": "base64url", "hex": "hex"}


def model_schema(cls: type[BaseModel]) -> Schema:
    """The JSON Schema of a model's documents as they are stored and read, by alias."""
    found = cls.model_json_schema(by_alias=True, mode="validation", schema_generator=_Generate)
    return {**found, own.COMPLETE: True}


class _Generate(GenerateJsonSchema):
    # A default that has no JSON is told when it is published, by name; here it would be a warning without one.
    ignored_warning_kinds = {"skipped-choice", "non-serializable-default"}  # noqa: RUF012 - as in the base

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._configurations: list[_Core] = [{}]

    @property
    def _configuration(self) -> _Core:
        """That of the model at hand, as the validator is given it: what a model in a model does not say is the default,
        not what the outer one says."""
        return self._configurations[-1]

    def generate_inner(self, schema: _Core) -> Schema:
        configuration = schema.get("config")
        if not isinstance(configuration, dict):
            return _settled(super().generate_inner(schema))
        self._configurations.append(configuration)
        try:
            return _settled(super().generate_inner(schema))
        finally:
            self._configurations.pop()

    # Numbers.

    def int_schema(self, schema: core_schema.IntSchema) -> Schema:
        found = super().int_schema(schema)
        return {**found, own.STRICT: True} if _said("strict", schema, self._configuration) else found

    def decimal_schema(self, schema: core_schema.DecimalSchema) -> Schema:
        limits: Schema = _numbers(schema)
        if "max_digits" in schema:
            limits[own.DIGITS] = schema["max_digits"]
        if "decimal_places" in schema:
            limits[own.PLACES] = schema["decimal_places"]
        text: Schema = {"type": "string", "format": own.DECIMAL, **limits}
        if _said("allow_inf_nan", schema, self._configuration):
            text[own.NAN] = True
        return {"anyOf": [{"type": "number", **limits}, text]}

    def fraction_schema(self, schema: _Core) -> Schema:
        return {"type": "string", "format": "fraction", **_numbers(schema)}

    def complex_schema(self, schema: core_schema.ComplexSchema) -> Schema:
        return {"type": "string", "format": "complex"}

    def enum_schema(self, schema: core_schema.EnumSchema) -> Schema:
        found = super().enum_schema(schema)
        cls = schema["cls"]
        if not issubclass(cls, Flag):
            return found
        # Flags are combined, and a combination is none of the members.
        flags: Schema = {word: value for word, value in found.items() if word not in {"enum", "type"}}
        flags[own.MEMBERS] = found["enum"]
        if vars(cls)["_boundary_"] in {KEEP, CONFORM}:
            return {**flags, "type": "integer"}
        bits = reduce(or_, (int(member.value) for member in schema["members"]), 0)
        return {**flags, "type": "integer", "minimum": 0, "maximum": bits, own.BITS: bits}

    # Texts.

    def str_schema(self, schema: core_schema.StringSchema) -> Schema:
        found: Schema = {"type": "string"}
        for limit, word in (("min_length", "minLength"), ("max_length", "maxLength")):
            length = schema.get(limit, self._configuration.get(f"str_{limit}"))
            if length is not None and (length or limit in schema or word == "maxLength"):
                found[word] = length
        pattern = schema.get("pattern")
        if isinstance(pattern, re.Pattern):
            found["pattern"] = pattern.pattern
            if flags := pattern.flags & ~re.UNICODE:
                found[own.FLAGS] = flags
        elif pattern is not None:
            found["pattern"] = pattern
        if schema.get("ascii_only"):
            found[own.ASCII] = True
        stripped = schema.get("strip_whitespace", self._configuration.get("str_strip_whitespace"))
        if stripped and (found.get("minLength") or pattern is not None):
            found[own.STRIP] = True
        return found

    def bytes_schema(self, schema: core_schema.BytesSchema) -> Schema:
        found: Schema = {"type": "string", "format": _BYTES[self._configuration.get("val_json_bytes", "utf8")]}
        self.update_with_validations(found, schema, self.ValidationsMapping.bytes)
        return found

    def url_schema(self, schema: core_schema.UrlSchema) -> Schema:
        return {**super().url_schema(schema), **_url(schema)}

    def multi_host_url_schema(self, schema: core_schema.MultiHostUrlSchema) -> Schema:
        return {**super().multi_host_url_schema(schema), **_url(schema)}

    # Dates and times.

    def date_schema(self, schema: core_schema.DateSchema) -> Schema:
        return self._temporal("date", schema)

    def time_schema(self, schema: core_schema.TimeSchema) -> Schema:
        return self._temporal("time", schema)

    def datetime_schema(self, schema: core_schema.DatetimeSchema) -> Schema:
        return self._temporal("date-time", schema)

    def timedelta_schema(self, schema: core_schema.TimedeltaSchema) -> Schema:
        return self._temporal("duration", schema)

    def _temporal(self, form: str, schema: _Core) -> Schema:
        unit = self._configuration.get("ser_json_temporal", "iso8601")
        if form == "duration" and "ser_json_temporal" not in self._configuration:
            unit = {"float": "seconds"}.get(self._configuration.get("ser_json_timedelta", ""), unit)
        # What is read in either form is stored in this one.
        written = {"type": "string", "format": form}
        found: Schema = written if unit == "iso8601" else {"type": "number", "format": f"{form}-{unit}"}
        if (zone := schema.get("tz_constraint")) is not None:
            found[own.ZONE] = {"aware": "required", "naive": "none"}.get(zone, zone)
        if (now := schema.get("now_op")) is not None:
            found[own.NOW] = now
        for word, keyword in _TEMPORAL.items():
            if (bound := schema.get(word)) is not None:
                found[keyword] = _written(bound)
        return found

    # Mappings.

    def dict_schema(self, schema: core_schema.DictSchema) -> Schema:
        found: Schema = {"type": "object"}
        values = self._untitled(schema.get("values_schema"))
        names = self._untitled(schema.get("keys_schema"))
        pattern = None if "$ref" in names else names.pop("pattern", None)
        if pattern is not None:
            found["patternProperties"] = {pattern: values}
        else:
            found["additionalProperties"] = values or True
        return self._named(self._sized(found, schema), names)

    def ordered_dict_schema(self, schema: _Core) -> Schema:
        return self.dict_schema(schema)

    def frozendict_schema(self, schema: _Core) -> Schema:
        return self.dict_schema(schema)

    def counter_schema(self, schema: _Core) -> Schema:
        found: Schema = {"type": "object", "additionalProperties": {"type": "integer"}}
        return self._named(self._sized(found, schema), self._untitled(schema.get("keys_schema")))

    def _untitled(self, schema: _Core) -> Schema:
        found = {} if schema is None else self.generate_inner(schema)
        return {word: value for word, value in found.items() if word != "title"}

    def _sized(self, found: Schema, schema: _Core) -> Schema:
        self.update_with_validations(found, schema, self.ValidationsMapping.object)
        return found

    def _named(self, found: Schema, names: Schema) -> Schema:
        text = self._as_text(names)
        if set(text) == {"type"}:
            return found
        return {**found, "propertyNames": {word: value for word, value in text.items() if word != "type"}}

    def _as_text(self, names: Schema) -> Schema:
        """The schema of names: texts, of which values are read."""
        for word in ("anyOf", "oneOf"):
            if word in names:
                return {word: [self._as_text(part) for part in names[word]]}
        shown = self.resolve_ref_schema(names)
        values = shown.get("enum", [shown["const"]] if "const" in shown else None)
        if shown.get("type") == "string" or (values and all(isinstance(value, str) for value in values)):
            return names
        return {"type": "string", own.TEXT_OF: names} if shown else {"type": "string"}

    # Models.

    def model_fields_schema(self, schema: core_schema.ModelFieldsSchema) -> Schema:
        fields: Any = {name: self._renamed(name, field) for name, field in schema["fields"].items()}
        return self._read_as(super().model_fields_schema({**schema, "fields": fields}), schema["fields"])

    def typed_dict_schema(self, schema: core_schema.TypedDictSchema) -> Schema:
        fields: Any = {name: self._renamed(name, field) for name, field in schema["fields"].items()}
        return self._read_as(super().typed_dict_schema({**schema, "fields": fields}), schema["fields"])

    def dataclass_args_schema(self, schema: core_schema.DataclassArgsSchema) -> Schema:
        fields: Any = [self._renamed(field["name"], field) for field in schema["fields"]]
        named = {field["name"]: field for field in schema["fields"]}
        return self._read_as(super().dataclass_args_schema({**schema, "fields": fields}), named)

    def _names(self, name: str, field: _Core) -> list[list[str | int]]:
        """The paths under which a field is found in a document, in the order in which they are tried."""
        alias = field.get("validation_alias") or []
        paths: list[list[str | int]] = [[alias]] if isinstance(alias, str) else []
        if isinstance(alias, list) and alias:  # one path, or several
            paths = [[*path] for path in alias] if isinstance(alias[0], list) else [[*alias]]
        if not self._configuration.get("validate_by_alias", True):
            paths = []
        if not paths or self._configuration.get("validate_by_name", False):
            paths.append([name])
        return paths

    def _renamed(self, name: str, field: _Core) -> Schema:
        """The field under the one name that its schema shows: the one it is stored under, if it is read as that."""
        single = [path[0] for path in self._names(name, field) if len(path) == 1]
        stored = field.get("serialization_alias") or name
        return {**field, "validation_alias": stored if stored in single or not single else single[0]}

    def _read_as(self, found: Schema, fields: Mapping[str, Any]) -> Schema:
        others: dict[str, list[Any]] = {}
        for name, field in fields.items():
            shown = self._renamed(name, field)["validation_alias"]
            paths = self._names(name, field)
            if paths != [[shown]] and shown in found.get("properties", {}):
                others[shown] = [path[0] if len(path) == 1 else path for path in paths]
        return {**found, own.READ_AS: others} if others else found

    def tagged_union_schema(self, schema: core_schema.TaggedUnionSchema) -> Schema:
        found = super().tagged_union_schema(schema)
        return {**found, own.CHOSEN: True} if callable(schema["discriminator"]) else found


def _settled(found: Schema) -> Schema:
    """What pydantic wrote of limits that stand on a union, or, before 2.14, on a deque, in the right words."""
    turned = {
        word: name for word, name in _OWN_BOUNDS.items() if word in found and not isinstance(found[word], int | float)
    }
    if found.get("type") == "array":
        turned |= {word: f"{word[:3]}Items" for word in ("minLength", "maxLength") if word in found}
    return {turned.get(word, word): value for word, value in found.items()} if turned else found


def _said(word: str, schema: _Core, configuration: _Core) -> bool:
    said = schema.get(word)
    return bool(configuration.get(word) if said is None else said)


def _numbers(schema: _Core) -> Schema:
    """The limits of a Decimal or Fraction as JSON numbers."""
    found: Schema = {}
    for word, keyword in _NUMERIC.items():
        bound = schema.get(word)
        if bound is not None and math.isfinite(bound):
            found[keyword] = int(bound) if bound == int(bound) else float(bound)
    return found


def _url(schema: _Core) -> Schema:
    found: Schema = {}
    if schema.get("allowed_schemes"):
        found[own.SCHEMES] = sorted(schema["allowed_schemes"])
    if schema.get("host_required") and not schema.get("default_host"):
        found[own.HOST] = True
    return found


def _written(bound: _Bound) -> str:
    if isinstance(bound, timedelta):
        seconds = Decimal(bound // timedelta(microseconds=1)).scaleb(-6).normalize()
        return f"PT{seconds:f}S"
    if isinstance(bound, datetime | date) or hasattr(bound, "isoformat"):
        return str(bound.isoformat())
    return str(bound)
