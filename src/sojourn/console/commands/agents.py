"""``sojourn agents``: registers agents, tells of those registered, pauses and resumes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from sojourn.console.options import Form, Settings, connection, example, form
from sojourn.console.parameters import AgentName
from sojourn.console.session import with_bus

if TYPE_CHECKING:
    from sojourn.bus.client import Bus
    from sojourn.bus.registry import Registration
    from sojourn.console.pausing import Outcome, RunMode

F = TypeVar("F", bound=Callable[..., Any])

MODES = ("live", "paused")


@click.group(
    short_help="Registers agents, tells of them, pauses and resumes them.",
    epilog=example("sojourn agents ls", "sojourn agents show win-back", "sojourn agents pause win-back"),
)
def agents() -> None:
    """Registers agents, tells of those registered, pauses and resumes them."""


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

    _tell_all(settings, with_bus(settings, work, create=True), output)


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


def acknowledged(command: F) -> F:
    """Adds the options of commands that change modes: ``everyone``, ``seconds`` and ``output``."""
    options = (
        click.option(
            "--all", "everyone", is_flag=True, help="All agents of NAME's group; without NAME, all that there are."
        ),
        click.option(
            "--timeout", "seconds", metavar="SECONDS", type=click.FloatRange(min=0), default=10.0, show_default=True,
            help="How long to wait for the workers.",
        ),
        form,
        connection,
    )  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


@agents.command(
    short_help="Has agents take no more events, until they are resumed.",
    epilog=example("sojourn agents pause win-back", "sojourn agents pause --all --timeout 30"),
)
@click.argument("name", required=False, type=AgentName())
@acknowledged
def pause(settings: Settings, name: str | None, everyone: bool, seconds: float, output: Form) -> None:
    """Has an agent take no more events, on all workers. Its events wait, in order.

    It returns once every living worker that has the agent's code has acknowledged it: from then on none of them stores
    an action of that agent. Workers that did not acknowledge in time are named, and the exit status is 5; the mode is
    set nevertheless. Workers and versions that start later obey it too.
    """
    _change(settings, name, "paused", everyone=everyone, seconds=seconds, output=output)


@agents.command(
    short_help="Has paused agents go on.",
    epilog=example("sojourn agents resume win-back", "sojourn agents resume --all"),
)
@click.argument("name", required=False, type=AgentName())
@acknowledged
def resume(settings: Settings, name: str | None, everyone: bool, seconds: float, output: Form) -> None:
    """Has a paused agent go on where it stopped: with all that waits, once and in order.

    It returns once every living worker has acknowledged it, as for `pause`.
    """
    _change(settings, name, "live", everyone=everyone, seconds=seconds, output=output)


@agents.command(
    short_help="Sets the mode of agents: live or paused.",
    epilog=example("sojourn agents mode win-back paused", "sojourn agents mode --all live"),
)
@click.argument("words", metavar="[NAME] live|paused", nargs=-1)
@acknowledged
def mode(settings: Settings, words: tuple[str, ...], everyone: bool, seconds: float, output: Form) -> None:
    """Sets the mode of an agent: `live` is what `resume` does, `paused` what `pause` does."""
    if not 1 <= len(words) <= 2:
        raise click.UsageError("write an agent's name and a mode, live or paused")
    wanted = words[-1]
    if wanted in ("shadow", "canary"):
        raise click.UsageError(f"the mode {wanted} is not known yet: there are live and paused")
    if wanted not in MODES:
        raise click.UsageError(f"{wanted!r} is no mode: there are live and paused")
    name = AgentName().convert(words[0], None, None) if len(words) == 2 else None
    _change(settings, name, "live" if wanted == "live" else "paused", everyone=everyone, seconds=seconds, output=output)


def _change(
    settings: Settings, name: str | None, mode: RunMode, *, everyone: bool, seconds: float, output: Form
) -> None:
    from sojourn.console.failures import note
    from sojourn.console.output import write, write_json, write_json_lines
    from sojourn.console.pausing import change, choose, in_words, judge, place

    if name is None and not everyone:
        raise click.UsageError("name an agent, or say --all for all of them")

    async def work(bus: Bus) -> Outcome:
        chosen = await choose(bus.registry, name, everyone=everyone)
        return await change(bus, chosen, mode, seconds=seconds)

    outcome = with_bus(settings, work)
    for one in outcome.gone:
        note(f"{place(one)} has gone without acknowledging: its session has ended, it counts no more")
    if output == "json":
        write_json("agent-modes/1", outcome.facts(settings.namespace))
    elif output == "jsonl":
        write_json_lines("agent-modes/1", [outcome.facts(settings.namespace)])
    elif not outcome.agents:
        note(f"no agent is registered in namespace {settings.namespace}")
    elif not outcome.missing:
        write(f"{in_words(outcome)}\n")
    judge(outcome, seconds)


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
