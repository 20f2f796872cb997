"""What tests of the schema registry share: versions of one event, and buckets."""

from __future__ import annotations

from typing import Any

from pydantic import create_model

from sojourn.bus.event import Event, Key
from sojourn.bus.upcasting import upcast


def cart(
    version: int = 1, *, event: str = "CartAbandoned", upcasts: tuple[int, ...] = (), doc: str = "", **rest: Any
) -> type[Event]:
    """A class of that name and version. ``rest``: the class's arguments (owner, compatibility), and its fields as
    `create_model` takes them, besides the key."""
    arguments: dict[str, Any] = {said: rest.pop(said) for said in ("owner", "compatibility", "fact") if said in rest}
    fields: dict[str, Any] = {"customer_id": (Key, ...), **rest}
    cls: type[Event] = create_model(
        event,
        __base__=Event,
        __module__="shop",
        __doc__=doc or None,
        __cls_kwargs__={"version": version, **arguments},
        **fields,
    )
    for number in upcasts:
        upcast(cls, from_version=number)(_as_it_is)
    return cls


def _as_it_is(data: dict[str, Any]) -> dict[str, Any]:
    return data
