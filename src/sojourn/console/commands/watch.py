"""``sojourn watch``: the stream of actions, live."""

from __future__ import annotations

import base64
import json
import sys
from datetime import UTC, datetime
from difflib import get_close_matches
from typing import TYPE_CHECKING

import click

from sojourn.console.failures import note
from sojourn.console.moments import BEGINNING, Moment
from sojourn.console.options import Form, Settings, connection, example, form
from sojourn.console.parameters import AgentName, CustomerKey, TypeName
from sojourn.console.session import with_bus

if TYPE_CHECKING:
    from sojourn.bus.catalog import Catalog
    from sojourn.bus.client import Bus
    from sojourn.bus.ports import Stored
    from sojourn.console.lens import Lens
    from sojourn.console.stream import Selection, Show


@click.command(
    short_help="Shows what agents do, while they do it.",
    epilog=example(
        "sojourn watch",
        "sojourn watch --agent win-back --since 2h",
        "sojourn watch --customer c-0042 --no-follow -o jsonl",
        "sojourn watch --module shop.agents --since 1w",
    ),
)
@click.option("--agent", "agents", multiple=True, type=AgentName(), help="Only what this agent does.")
@click.option("--customer", "customers", multiple=True, type=CustomerKey(), help="Only for this customer.")
@click.option("--type", "types", multiple=True, type=TypeName(), help="Only this type of action.")
@click.option(
    "--since", type=Moment(past=True), help="Begin with what was stored since: 2h (ago), 2026-11-01, beginning."
)
@click.option("--module", metavar="MODULE", help="Show actions in the version that this module's event classes have.")
@click.option("--follow/--no-follow", default=True, help="Go on with what comes (default), or end with what there is.")
@form
@connection
def watch(
    settings: Settings,
    agents: tuple[str, ...],
    customers: tuple[str, ...],
    types: tuple[str, ...],
    since: datetime | None,
    module: str | None,
    follow: bool,
    output: Form,
) -> None:
    """Shows the actions of agents, one a line, as they are stored.

    Options of one kind widen the choice (two agents: what either does), options of different kinds narrow it. History
    comes in the order in which it was stored; --no-follow without --since shows all of it. Times are those of this
    machine's zone. Personal values show as •••.

    With --module, older versions of actions are brought up to the one that the module's code has. With -o jsonl a line
    holds the CloudEvents document with its place: stream and sequence.
    """
    from sojourn.console.modules import load_events
    from sojourn.console.stream import Selection

    if output == "json" and follow:
        raise click.UsageError("a stream that goes on has no one JSON document: use -o jsonl, or --no-follow")
    if since is None and not follow:
        since = BEGINNING
    selection = Selection(frozenset(agents), frozenset(customers), frozenset(types))
    catalog = load_events(module) if module is not None else None
    with_bus(settings, lambda bus: _watch(bus, selection, since, catalog, output, follow=follow))


async def _watch(
    bus: Bus, selection: Selection, since: datetime | None, catalog: Catalog | None, output: Form, *, follow: bool
) -> None:
    from sojourn.console.output import write_json, write_json_lines
    from sojourn.console.stream import show_stream

    found: list[dict[str, object]] = []
    lens = await _lens(bus, catalog)
    show: Show
    if output == "json":
        show = lambda stream, stored: found.append(facts(stream, stored, lens))  # noqa: E731
    elif output == "jsonl":
        show = lambda stream, stored: write_json_lines("action/1", [facts(stream, stored, lens)])  # noqa: E731
    else:
        show = await _for_people(bus, selection, lens)
    await show_stream(bus.transport, bus.namespace, selection, show, since=since, follow=follow, registry=bus.registry)
    if output == "json":
        write_json("actions/1", {"namespace": bus.namespace.name, "actions": found})


def facts(stream: str, stored: Stored, lens: Lens) -> dict[str, object]:
    """An action for programs: its CloudEvents document, seen through ``lens``, with its place as further attributes.

    ``sourcekey`` is the customer whose handling put it out, where that is another one. Where there is no such document,
    what is there stands in base64 under ``unreadable``. One that its class cannot read is there as it is stored, with
    the reason under ``notread``.
    """
    from sojourn.bus.subjects import parse_log_subject, split_writer
    from sojourn.console.actions import customer_of

    place: dict[str, object] = {
        "stream": stream,
        "sequence": stored.sequence,
        "stored": datetime.fromtimestamp(stored.timestamp / 1e9, UTC).isoformat(timespec="microseconds"),
    }
    try:
        document = json.loads(stored.payload, parse_constant=_refuse)
        if not isinstance(document, dict):
            raise ValueError
    except (ValueError, RecursionError):
        return {**place, "natssubject": stored.subject, "unreadable": base64.b64encode(stored.payload).decode()}
    parsed = parse_log_subject(stored.subject)
    source = split_writer(parsed.writer or "")[1] if parsed is not None else None
    if source is not None:
        place["sourcekey"] = customer_of(source)
    shown, trouble = lens.show(parsed.name if parsed is not None else "", document, stored.payload)
    if trouble is not None:
        place["notread"] = trouble
    return {**place, **{name: value for name, value in shown.items() if name not in place}}


async def _lens(bus: Bus, catalog: Catalog | None) -> Lens:
    from sojourn.bus.event import spec_of
    from sojourn.bus.reading import Reader
    from sojourn.console.lens import AS_STORED, Lens

    if catalog is None:
        return AS_STORED
    for cls in catalog:
        # Known from now on, with the versions that are still to come: whether they can be read is asked of each line.
        await bus.schemas.record(spec_of(cls).type)
    return Lens(catalog, Reader(bus.schemas))


def _refuse(constant: str) -> object:
    # Python reads NaN and Infinity, and would write them again; JSON has neither.
    raise ValueError(constant)


async def _for_people(bus: Bus, selection: Selection, lens: Lens) -> Show:
    from sojourn.console.actions import action_of, grid
    from sojourn.console.output import write_spans
    from sojourn.console.terminal import columns, is_terminal

    registered = await bus.registry.agents()
    known = frozenset(agent.name for agent in registered)
    for name in sorted(selection.agents - known):
        near = get_close_matches(name, known, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        note(f"no agent named {name!r} is registered{hint} (watching all the same)")
    names = selection.agents or known
    causes = frozenset(type for agent in registered if agent.name in names for type in agent.handles)
    terminal = is_terminal(sys.stdout)
    if terminal:
        write_spans(grid(columns(), names, causes).header())

    def show(stream: str, stored: Stored) -> None:
        action = action_of(stored.subject, stored.payload, stored.timestamp, lens)
        if action is not None:
            # Asked for every line: a terminal is resized when it pleases.
            write_spans(grid(columns() if terminal else None, names, causes).line(action, datetime.now().astimezone()))

    return show
