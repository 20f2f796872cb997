"""What simulations and replays show: a bar, some of the actions as they happen, and a table at the end."""

from __future__ import annotations

import sys
from collections.abc import Callable, Coroutine, Mapping
from datetime import datetime
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self, TypeVar

import click

from sojourn.bus.errors import SojournError
from sojourn.console.failures import note, say
from sojourn.console.options import Form, Settings

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

    from sojourn.bus.envelope import Envelope
    from sojourn.bus.event import Event
    from sojourn.console.actions import Action
    from sojourn.console.modules import Loaded
    from sojourn.simulation.audit import Tally
    from sojourn.simulation.driver import Action as Driven
    from sojourn.simulation.driver import Progress
    from sojourn.simulation.engine import Engine
    from sojourn.simulation.run import Timing, Watching

F = TypeVar("F", bound=Callable[..., Any])
R = TypeVar("R", bound="Result")


class Result(Protocol):
    """What a simulation and a replay have in common when they are over."""

    @property
    def tally(self) -> Tally: ...
    @property
    def timing(self) -> Timing: ...
    def to_json(self) -> dict[str, Any]: ...


class UncleanRun(SojournError):
    """A run that doubled or lost something, which Sojourn promises never to do."""


def engine(command: F) -> F:
    """Adds the options of a run: what carries it, and how much of it is shown. They come as ``engine`` and
    ``lines``."""
    for option in (
        click.option(
            "--lines", type=click.IntRange(min=0), default=8, show_default=True, metavar="N",
            help="Show at most so many actions a second; 0 shows none.",
        ),
        click.option(
            "--engine", type=click.Choice(["nats", "memory"]), default="nats", show_default=True,
            help="A NATS server, or this process's memory.",
        ),
    ):  # fmt: skip
        command = option(command)
    return command


def drive(
    title: str,
    settings: Settings,
    kind: Literal["nats", "memory"],
    loaded: Loaded,
    lines: int,
    run: Callable[[Engine, Watching], Coroutine[Any, Any, R]],
) -> R:
    """Carries a run out, showing it."""
    from sojourn.console import logs
    from sojourn.console.running import run_async
    from sojourn.console.session import in_words
    from sojourn.simulation.engine import Engine
    from sojourn.simulation.run import Watching

    # Each failing handler is an error in the log; here they are counted, and kept as dead letters.
    logs.configure(level="critical")
    agents = frozenset(processor.writer for processor in loaded.processors)
    causes = frozenset(type for processor in loaded.processors for type in processor.handles)
    server = settings.server
    with Show(title, lines=lines, agents=agents, causes=causes) as show:
        engine = Engine(
            kind,
            settings.namespace,
            url=server.url if server is not None else None,
            store=settings.store,
            user=server.user if server is not None else None,
            password=server.password if server is not None else None,
            creds=settings.creds,
            say=in_words(note),
        )
        return run_async(run(engine, Watching(show.progress, show.action)))


def conclude(schema: str, head: list[tuple[str, str]], result: Result, settings: Settings, output: Form) -> None:
    """Tells what came of a run. Raises `UncleanRun` where something was doubled or lost."""
    from sojourn.console.output import write, write_facts, write_json, write_json_lines

    tally, timing = result.tally, result.timing
    if output == "json":
        write_json(schema, result.to_json())
    elif output == "jsonl":
        write_json_lines(schema, [result.to_json()])
    else:
        write_facts([*head, *_summary(tally, timing)])
        write("\n")
        _write_actions(tally)
    if tally.dead:
        where = f"sojourn dead ls --namespace {settings.namespace}" if timing.engine == "nats" else "--engine nats"
        note(f"agents failed on {sum(tally.dead.values()):,} events, which are dead letters now; see why with {where}")
    if tally.duplicates or tally.lost:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in tally.lost.items()) or "none"
        raise UncleanRun(f"the run is not clean: {tally.duplicates:,} duplicates; lost: {kinds}")


def _summary(tally: Tally, timing: Timing) -> list[tuple[str, str]]:
    events, actions = sum(tally.events.values()), sum(sum(types.values()) for types in tally.actions.values())
    rate = f"{events / timing.drive:,.0f} events/s" if timing.drive else "–"
    return [
        ("journeys", f"{tally.journeys:,}"),
        ("events in", f"{events:,}  ({_counts(tally.events)})"),
        ("timers fired", f"{tally.fired:,}"),
        ("actions", f"{actions:,}"),
        ("dead letters", f"{sum(tally.dead.values()):,}"),
        ("duplicates", f"{tally.duplicates:,}"),
        ("lost", f"{sum(tally.lost.values()):,}"),
        ("digest", tally.digest[:16]),
        ("took", f"{timing.total:.1f} s on {timing.engine}, {rate}"),
    ]


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())


def _write_actions(tally: Tally) -> None:
    from sojourn.console.output import Column, write_table

    rows = [
        (agent if first else "", type, f"{count:,}")
        for agent, types in tally.actions.items()
        for first, (type, count) in zip((True, *[False] * len(types)), types.items(), strict=False)
    ]
    rows += [(agent, "dead letters", f"{count:,}") for agent, count in tally.dead.items()]
    write_table([Column("agent"), Column("action"), Column("count", right=True)], rows)


class Show:
    """Shows a run on standard error while it goes on: on a terminal a bar, and at most ``lines`` actions a second,
    with a count of those left out. Lines are whole, and above the bar."""

    def __init__(self, title: str, *, lines: int, agents: frozenset[str], causes: frozenset[str]) -> None:
        from sojourn.console.terminal import is_terminal, wants_colour

        self._title = title
        self._lines = lines
        self._names = agents, causes
        self._terminal = is_terminal(sys.stderr)
        self._colour = wants_colour(sys.stderr)
        self._bar: Bar | None = None
        self._task: TaskID | None = None
        self._second = 0.0
        self._shown = 0
        self._left_out = 0
        self._spoke = False

    def __enter__(self) -> Self:
        if self._terminal:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

            from sojourn.console.terminal import is_terminal

            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=None),
                TextColumn("{task.percentage:>3.0f}%"),
                TextColumn("{task.fields[counts]}", style="dim"),
                TimeElapsedColumn(),
                console=Console(stderr=True, highlight=False, no_color=not self._colour),
                expand=True,
                transient=True,
                # What handlers print comes above the bar, as actions do; but not what the user sends to a file.
                redirect_stdout=is_terminal(sys.stdout),
                redirect_stderr=True,
            )
            self._task = self._bar.add_task(self._title, total=1.0, counts="")
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tell_left_out()
        if self._bar is not None:
            self._bar.stop()
        if self._spoke:
            say("\n")  # between the actions and the table

    def progress(self, state: Progress) -> None:
        """How far the run is."""
        if self._bar is not None and self._task is not None:
            counts = f"{state.now:%d %b %Y} · {state.events:,} events · {state.actions:,} actions"
            self._bar.update(self._task, completed=state.fraction, counts=counts)

    def action(self, driven: Driven) -> None:
        """An action that was stored. One whose type nobody here knows is not shown."""
        if not self._lines or driven.envelope is None:
            return
        now = monotonic()
        if now - self._second >= 1.0:
            self._tell_left_out()
            self._second, self._shown = now, 0
        if self._shown >= self._lines:
            self._left_out += 1
            return
        self._shown += 1
        self._spoke = True
        self._write(action_of(driven.envelope, driven.subject.writer or ""))

    def _write(self, action: Action) -> None:
        from sojourn.console.actions import grid
        from sojourn.console.terminal import columns, paint

        spans = grid(columns() if self._terminal else None, *self._names).line(action, datetime.now().astimezone())
        say(paint(spans, colour=self._colour) + "\n")

    def _tell_left_out(self) -> None:
        if self._left_out:
            from sojourn.console.terminal import Span, paint

            text = f"{'… and':>11} {self._left_out:,} more actions"
            self._left_out = 0
            say(paint([Span(text, "2")], colour=self._colour) + "\n")


def action_of(envelope: Envelope[Event], agent: str) -> Action:
    """An agent's action as people are shown it, without what is personal: a replayed history is of real customers."""
    from sojourn.bus.event import spec_of
    from sojourn.bus.personal.scrubbing import HIDDEN
    from sojourn.console.actions import Action

    spec = spec_of(envelope.event)
    data = envelope.event.model_dump(mode="json", exclude={spec.key_field}, exclude_none=True)
    data |= {name: HIDDEN for name in spec.personal if name in data}
    return Action(envelope.time, envelope.key, agent, envelope.type, data, envelope.cause_type)
