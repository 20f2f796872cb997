"""``sojourn agents``: registers agents and tells of those registered."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from sojourn.console.options import Form, Settings, connection, example, form
from sojourn.console.session import with_bus

if TYPE_CHECKING:
    from sojourn.bus.client import Bus
    from sojourn.bus.registry import Registration


@click.group(
    short_help="Registers agents and tells of those registered.",
    epilog=example("sojourn agents ls", "sojourn agents show win-back"),
)
def agents() -> None:
    """Registers agents and tells of those registered."""


@agents.command(
    short_help="Registers a module's agents, or one, without running them.",
    epilog=example("sojourn agents register examples.retail", "sojourn agents register shop.agents:WinBack"),
)
@click.argument("target", metavar="MODULE[:CLASS]")
@click.option("--replace", is_flag=True, help="Take over a name that other code has registered.")
@form
@connection
def register(settings: Settings, target: str, replace: bool, output: Form) -> None:
    """Checks agents and enters them in the registry, ahead of `sojourn run`, which does the same.

    A name belongs to the code that registered it first; --replace is for code that has moved.
    """
    from sojourn.console.modules import load

    processors = load(target).processors

    async def work(bus: Bus) -> list[Registration]:
        return [await bus.registry.register(processor, replace=replace) for processor in processors]

    _tell_all(settings, with_bus(settings, work), output)


@agents.command(name="ls", short_help="Lists the registered agents.", epilog=example("sojourn agents ls -o json"))
@form
@connection
def ls(settings: Settings, output: Form) -> None:
    """Lists the registered agents."""

    async def work(bus: Bus) -> list[Registration]:
        return await bus.registry.agents()

    _tell_all(settings, with_bus(settings, work), output)


@agents.command(name="show", short_help="Tells all about one agent.", epilog=example("sojourn agents show win-back"))
@click.argument("name")
@form
@connection
def show(settings: Settings, name: str, output: Form) -> None:
    """Tells all that is registered of one agent."""
    from sojourn.console.output import write, write_facts, write_json, write_json_lines
    from sojourn.console.terminal import plain

    async def work(bus: Bus) -> Registration:
        return await bus.registry.require_agent(name)

    agent = with_bus(settings, work)
    if output == "json":
        write_json("agent/1", facts(agent))
    elif output == "jsonl":
        write_json_lines("agent/1", [facts(agent)])
    else:
        write_facts(_pairs(agent))
        if agent.doc:
            write("\n" + "".join(f"{plain(line)}\n" for line in agent.doc.strip().splitlines()))


def facts(agent: Registration) -> dict[str, Any]:
    """A registration for programs."""
    return agent.model_dump(mode="json", exclude={"schema_"})


def _pairs(agent: Registration) -> list[tuple[str, str]]:
    return [
        ("name", agent.name),
        ("version", str(agent.version)),
        ("mode", agent.mode),
        ("group", agent.group),
        ("handles", ", ".join(agent.handles) or "–"),
        ("folds", ", ".join(agent.folds) or "–"),
        ("publishes", ", ".join(agent.publishes) or "–"),
        ("journey", agent.journey or "–"),
        ("reference", agent.reference or "–"),
        ("registered", f"{agent.registered.astimezone():%Y-%m-%d %H:%M:%S}"),
    ]


def _tell_all(settings: Settings, found: list[Registration], output: Form) -> None:
    from sojourn.console.failures import note
    from sojourn.console.output import Column, write_json, write_json_lines, write_table

    if output == "json":
        write_json("agents/1", {"namespace": settings.namespace, "agents": [facts(agent) for agent in found]})
    elif output == "jsonl":
        write_json_lines("agent/1", map(facts, found))
    elif found:
        columns = [
            Column("agent"), Column("version", right=True), Column("mode"), Column("handles", "wraps"),
            Column("publishes", "wraps"), Column("journey", "is cut"),
        ]  # fmt: skip
        rows = [
            (
                agent.name, str(agent.version), agent.mode, ", ".join(agent.handles) or "–",
                ", ".join(agent.publishes) or "–", (agent.journey or "–").rpartition(":")[2],
            )
            for agent in found
        ]  # fmt: skip
        write_table(columns, rows)
    else:
        note(f"no agent is registered in namespace {settings.namespace}; `sojourn run MODULE` registers what it runs")
