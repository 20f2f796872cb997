"""The command tree. A command's module is imported when the command is called or asked for help, not before."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import import_module

import click

from sojourn.console.failures import Interrupted, OutputClosed, Status, find, report

COMMANDS = {
    "run": "Runs a module's agents until it is told to stop.",
    "publish": "Publishes an event, or one for each line of input.",
    "watch": "Shows what agents do, while they do it.",
    "agents": "Registers agents, tells of them, pauses and resumes them.",
    "dead": "Shows, redrives and drops the events that could not be handled.",
    "lag": "Shows how far each group is behind.",
    "schemas": "Registers, compares and checks the schemas of events.",
    "journeys": "Erases what is personal about a customer.",
    "keys": "Makes, shows and changes the master keys of personal data.",
    "simulate": "Drives agents with synthetic customers in virtual time.",
    "replay": "Drives agents with a real history in virtual time.",
}


@dataclass
class Session:
    """What the command line learns while it reads its arguments, for the moment something fails.

    ``secrets`` are passwords and tokens, which no message may show.
    """

    debug: bool = False
    secrets: list[str] = field(default_factory=list)


class Root(click.Group):
    """The program itself: knows its commands by name and in one line each."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = getattr(import_module(f"sojourn.console.commands.{cmd_name}"), cmd_name)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in COMMANDS:
            near = difflib.get_close_matches(args[0], COMMANDS, 1)
            hint = f" Did you mean {near[0]!r}?" if near else " `sojourn --help` lists the commands."
            raise click.UsageError(f"There is no command {args[0]!r}.{hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


def _version(ctx: click.Context, parameter: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        from importlib.metadata import version

        click.echo(f"sojourn {version('sojourn')}")
        ctx.exit()


@click.command(
    cls=Root,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Example: sojourn simulate examples.retail --customers 100 --days 7",
)
@click.option("--version", is_flag=True, expose_value=False, is_eager=True, callback=_version, help="Show the version.")
def cli() -> None:
    """An event bus for AI agents that accompany customers over days and weeks.

    Commands use the NATS server given with --server, or one of their own, which the first of them starts in
    --store and the last one stops.
    """


def run(arguments: Sequence[str]) -> int:
    """Runs one command line and returns its exit status. Writes only to standard output and error."""
    session = Session()
    try:
        with cli.make_context("sojourn", list(arguments), obj=session) as context:
            cli.invoke(context)
        if sys.stdout is not None:
            sys.stdout.flush()
    except click.exceptions.Exit as leave:
        return leave.exit_code
    except click.ClickException as refusal:
        refusal.show()
        return refusal.exit_code
    except (click.Abort, KeyboardInterrupt):
        return Status.INTERRUPTED
    except BrokenPipeError:
        return Status.DONE
    except Exception as error:  # noqa: BLE001  # the last line of defence: whatever it is, it becomes one line
        return _status(error, session)
    return Status.DONE


def _status(error: Exception, session: Session) -> int:
    if find(error, OutputClosed) is not None:
        return Status.DONE
    if isinstance(error, Interrupted):
        return 128 + error.number
    return report(error, debug=session.debug, secrets=tuple(session.secrets))
