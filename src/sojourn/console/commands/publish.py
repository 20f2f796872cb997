"""``sojourn publish``: one event, or one for each line of standard input."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import datetime
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from sojourn.bus.errors import PublishError, SojournError
from sojourn.console.failures import Problems, note
from sojourn.console.moments import Moment
from sojourn.console.options import Form, Settings, connection, example, form, frozen
from sojourn.console.session import with_bus

if TYPE_CHECKING:
    from sojourn.bus.client import Bus
    from sojourn.bus.event import Event
    from sojourn.bus.publisher import Published

_STDIN = 0


@click.command(
    short_help="Publishes an event, or one for each line of input.",
    epilog=example(
        """sojourn publish CartAbandoned '{"customer_id": "c1", "cart_value": "80"}' --module examples.retail""",
        "sojourn publish CartAbandoned - --module examples.retail < carts.jsonl",
    ),
)
@click.argument("type_name", metavar="TYPE")
@click.argument("data", metavar="JSON")
@click.option("--module", metavar="MODULE", required=True, help="Where the event class is.")
@click.option(
    "--id", "event_id", metavar="ID", help="The event's own id: the same one within two minutes is stored once."
)
@click.option("--time", type=Moment(), help="When it happened: 2h (ago), 2026-11-01T09:30. Default: now.")
@click.option("--count", type=click.IntRange(min=1), default=1, help="Publish it so many times, each with its own id.")
@form
@frozen
@connection
def publish(
    settings: Settings,
    type_name: str,
    data: str,
    module: str,
    event_id: str | None,
    time: datetime | None,
    count: int,
    frozen: bool,
    output: Form,
) -> None:
    """Publishes an event of TYPE whose fields are JSON.

    With - for JSON, every line of standard input is an event. Lines that are refused are told of, with their number,
    and the others are published; the exit status is 1 then.
    """
    from sojourn.console.modules import load_event_type

    if event_id is not None and (count > 1 or data == "-"):
        raise click.UsageError("--id is that of one event: it goes neither with --count nor with JSON lines")
    if count > 1 and data == "-":
        raise click.UsageError("--count goes with one event; repeat the lines instead")
    settings = replace(settings, frozen=frozen)
    cls = load_event_type(module, type_name)
    if data == "-":
        done = with_bus(settings, lambda bus: _publish_lines(bus, cls, time), create=True)
        _tell_count(cls.__name__, done, output)
        return
    event = parse(cls, data)
    if count > 1:
        done = with_bus(settings, lambda bus: _publish_copies(bus, event, time, count), create=True)
        _tell_count(cls.__name__, done, output)
        return
    published = with_bus(settings, lambda bus: _publish_one(bus, event, event_id, time), create=True)
    _tell(event, published, output)


def parse(cls: type[Event], text: str) -> Event:
    """An event from JSON. Raises `click.UsageError` for what is no JSON, `Problems` for what does not fit the class."""
    from pydantic import ValidationError

    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise click.UsageError(f"JSON: {error}") from error
    if not isinstance(fields, dict):
        raise click.UsageError(f"JSON: an event is an object with fields, not {json.dumps(fields)[:40]}")
    unknown = _unknown_fields(cls, fields)
    try:
        event = cls.model_validate_json(text)
    except ValidationError as error:
        found = [
            f"{cls.__name__}.{'.'.join(map(str, item['loc']))}: {item['msg']}" if item["loc"] else item["msg"]
            for item in error.errors(include_url=False, include_input=False, include_context=False)
        ]
        raise Problems([*found, *unknown]) from error
    if unknown:
        raise Problems(unknown)
    return event


def _unknown_fields(cls: type[Event], fields: dict[str, Any]) -> list[str]:
    # Pydantic drops what it does not know: tolerance on the wire, an unnoticed typing error on the command line.
    if cls.model_config.get("extra", "ignore") != "ignore":
        return []
    known = {name for field, info in cls.model_fields.items() for name in (field, info.alias) if name is not None}
    lines = []
    for name in fields:
        if name not in known:
            near = get_close_matches(name, known, 1)
            lines.append(f"{cls.__name__}.{name}: no such field{f'; did you mean {near[0]}?' if near else ''}")
    return lines


class Done(NamedTuple):
    """How many events were stored, were there before, or were refused."""

    stored: int
    duplicates: int
    refused: int


async def _publish_one(bus: Bus, event: Event, event_id: str | None, time: datetime | None) -> Published:
    try:
        return await bus.publish(event, id=event_id, time=time)
    except ValueError as error:
        raise Problems([str(error)]) from error


async def _publish_copies(bus: Bus, event: Event, time: datetime | None, count: int) -> Done:
    async with bus.publisher() as publisher:
        for _ in range(count):
            await publisher.publish(event, time=time)
    return Done(publisher.stored, publisher.duplicates, 0)


async def _publish_lines(bus: Bus, cls: type[Event], time: datetime | None) -> Done:
    from sojourn.bus.publisher import Publisher

    refused = 0

    def failed(error: PublishError) -> None:
        nonlocal refused
        refused += 1
        note(str(error))

    # Once, before a thousand lines are refused for the same reason.
    await bus.schemas.admit(cls)
    async with Publisher(bus, on_error=failed) as publisher:
        number = 0
        async for line in _lines():
            number += 1
            if not line.strip():
                continue
            try:
                await publisher.publish(parse(cls, line.decode()), time=time)
            except (click.UsageError, SojournError, ValueError) as error:
                refused += 1
                problems = error.lines if isinstance(error, Problems) else [str(error)]
                for problem in problems:
                    note(f"line {number}: {problem}")
    return Done(publisher.stored, publisher.duplicates, refused)


async def _lines() -> AsyncIterator[bytes]:
    """The lines of standard input, as they come."""
    loop = asyncio.get_running_loop()
    chunks: asyncio.Queue[bytes] = asyncio.Queue(4)

    def read() -> None:
        # Not sys.stdin: its lock, held by a thread that waits for input, would break the interpreter's shutdown.
        chunk = b"-"
        while chunk:
            try:
                chunk = os.read(_STDIN, 65536)
            except OSError:
                chunk = b""
            try:
                asyncio.run_coroutine_threadsafe(chunks.put(chunk), loop).result()
            except (RuntimeError, asyncio.CancelledError):  # the loop has closed: the command was interrupted
                return

    threading.Thread(target=read, name="sojourn-stdin", daemon=True).start()
    rest = b""
    while chunk := await chunks.get():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line
    if rest:
        yield rest


def _tell(event: Event, published: Published, output: Form) -> None:
    from sojourn.bus.event import key_of
    from sojourn.console.output import write, write_json, write_json_lines
    from sojourn.console.terminal import plain

    facts = {"type": type(event).__name__, "key": key_of(event), **published._asdict()}
    if output == "json":
        write_json("published/1", facts)
    elif output == "jsonl":
        write_json_lines("published/1", [facts])
    else:
        before = " (it was there before)" if published.duplicate else ""
        write(
            f"{type(event).__name__} {plain(published.id)} → {published.stream} sequence {published.sequence}{before}\n"
        )


def _tell_count(name: str, done: Done, output: Form) -> None:
    from sojourn.console.output import write, write_json, write_json_lines

    facts = {"type": name, **done._asdict()}
    if output == "json":
        write_json("published-many/1", facts)
    elif output == "jsonl":
        write_json_lines("published-many/1", [facts])
    else:
        before = f", {done.duplicates:,} were there before" if done.duplicates else ""
        write(f"{done.stored:,} {name} published{before}\n")
    if done.refused:
        raise Problems([f"{done.refused:,} lines were refused"])
    sys.stdout.flush()
