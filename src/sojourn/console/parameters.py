"""Kinds of values on the command line, checked before anything is asked of a server."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import click

from sojourn.bus.errors import ConfigurationError
from sojourn.bus.naming import check_token
from sojourn.bus.subjects import check_key

T = TypeVar("T", str, Path, None)

INGRESS = "ingress"
"""Who writes the dead letters of foreign documents: a reserved name, so no agent's."""


class AgentName(click.ParamType[str]):
    """The name of an agent; with ``ingress=True`` also that of the ingress."""

    name = "name"

    def __init__(self, *, ingress: bool = False) -> None:
        self._ingress = ingress

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if self._ingress and value == INGRESS:
            return value
        try:
            return check_token("agent", value)
        except ConfigurationError as error:
            self.fail(str(error), param, ctx)


class CustomerKey(click.ParamType[str]):
    """The key of a customer."""

    name = "key"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return check_key(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class TypeName(click.ParamType[str]):
    """The name of an event type."""

    name = "type"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not (value.isascii() and value.isidentifier()):
            self.fail(f"{value!r} is not the name of an event class, such as DiscountOffered", param, ctx)
        return value


def require_name(ctx: click.Context, parameter: click.Parameter, value: T) -> T:
    """Refuses an empty text where a file is to be named: as a path it would be the current folder."""
    if value == "" or value == Path():
        raise click.BadParameter("an empty name; a variable that is not set?", ctx, parameter)
    return value
