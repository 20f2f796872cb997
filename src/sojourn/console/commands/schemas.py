"""``sojourn schemas``: the contracts of events, registered, checked and exported."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from sojourn.console.failures import Problems, note, several
from sojourn.console.options import Form, Settings, connection, example, form
from sojourn.console.parameters import TypeName, require_name
from sojourn.console.schemas.known import LOCK_FILE, against, default_against, known, require_type, require_version
from sojourn.console.session import with_bus

if TYPE_CHECKING:
    from sojourn.bus.client import Bus
    from sojourn.bus.schemas.records import SchemaRecord
    from sojourn.console.schemas.pushing import Pushed

LEVELS = (
    "NONE", "BACKWARD", "FORWARD", "FULL", "BACKWARD_TRANSITIVE", "FORWARD_TRANSITIVE", "FULL_TRANSITIVE",
)  # fmt: skip
"""As `sojourn.bus.schemas.compatibility.Level` has them, which is not needed to read a command line."""

CODES = ("imperative", "undescribed", "personal", "personal-key", "owners")
"""What `sojourn.bus.schemas.lint` finds."""


@click.group(
    short_help="Registers, compares and checks the schemas of events.",
    epilog=example("sojourn schemas ls", "sojourn schemas check shop.events"),
)
def schemas() -> None:
    """Registers, compares and checks the schemas of events: contracts that a change must not break by accident."""


@schemas.command(name="ls", short_help="Lists the registered event types.", epilog=example("sojourn schemas ls"))
@form
@connection
def ls(settings: Settings, output: Form) -> None:
    """Lists the registered event types with their versions, compatibility level and owner."""
    from sojourn.console.output import Column, write_json, write_json_lines, write_table
    from sojourn.console.schemas.registered import facts, first_line, first_seen

    found = with_bus(settings, lambda bus: bus.schemas.records())
    if output == "json":
        write_json("schemas/1", {"namespace": settings.namespace, "schemas": [facts(record) for record in found]})
    elif output == "jsonl":
        write_json_lines("schema/1", map(facts, found))
    elif found:
        columns = [
            Column("event", "is cut"), Column("versions"), Column("level"), Column("owner", "is cut"),
            Column("first seen"), Column("description", "wraps"),
        ]  # fmt: skip
        rows = [
            (
                record.type, ", ".join(str(one.version) for one in record.versions) or "–", str(record.compatibility),
                record.owner or "–", first_seen(record), first_line(record),
            )
            for record in found
        ]  # fmt: skip
        write_table(columns, rows)
    else:
        note(f"no event type is registered in namespace {settings.namespace}; `sojourn schemas push MODULE` does it")


@schemas.command(
    short_help="Tells all about one event type.",
    epilog=example("sojourn schemas show CartAbandoned", "sojourn schemas show CartAbandoned --version 1 -o json"),
)
@click.argument("name", metavar="TYPE", type=TypeName())
@click.option("--version", "number", type=click.IntRange(min=1), metavar="N", help="This version; default: the newest.")
@form
@connection
def show(settings: Settings, name: str, number: int | None, output: Form) -> None:
    """Tells all that is registered of an event type, and the JSON Schema of a version.

    With -o json all versions come with their schemas, or the one of --version.
    """
    from sojourn.console.output import write_json, write_json_lines
    from sojourn.console.schemas.registered import facts, tell_record

    record = _registered(settings, name)
    if number is not None:
        require_version(record, number)
    if output == "text":
        tell_record(record, number)
        return
    chosen = {"versions": [one for one in record.versions if number in (None, one.version)]}
    told = facts(record.model_copy(update=chosen))
    if output == "json":
        write_json("schema/1", told)
    else:
        write_json_lines("schema/1", [told])


@schemas.command(
    short_help="Shows what changed between two versions, or in the code.",
    epilog=example(
        "sojourn schemas diff CartAbandoned 1 2",
        "sojourn schemas diff shop.events CartAbandoned",
        "sojourn schemas diff CartAbandoned --module shop.events",
    ),
)
@click.argument("words", metavar="TYPE [A [B]]|MODULE TYPE [A]", nargs=-1, required=True)
@click.option("--module", metavar="MODULE", help="Compare with the class in this module.")
@form
@connection
def diff(settings: Settings, words: tuple[str, ...], module: str | None, output: Form) -> None:
    """Shows every change between two registered versions of TYPE, or between a registered version and the code.

    A and B are versions: without B it is the newest, without A the one before. With a MODULE the newest registered
    version, or A, is compared with the class. Each change says whom it breaks: BACKWARD, new code reading old events;
    FORWARD, old code reading new events.
    """
    from sojourn.console.schemas.comparing import compare, tell_difference

    compared = compare(settings, words, module)
    tell_difference(compared, output)


@schemas.command(
    short_help="Checks a module's events against those registered.",
    epilog=example(
        "sojourn schemas check shop.events",
        "sojourn schemas check shop.events --against sojourn.schemas.json -o json",
    ),
)
@click.argument("module")
@against(default=f"{LOCK_FILE} where it is in the current folder, else the server")
@click.option(
    "--level",
    type=click.Choice(LEVELS, case_sensitive=False),
    help="Judge by this level, whatever is registered and declared.",
)
@click.option("--older", is_flag=True, help="Code may stay at a registered version that is not the newest.")
@form
@connection
def check(settings: Settings, module: str, against: str | None, level: str | None, older: bool, output: Form) -> None:
    """Checks whether the event types of MODULE may follow those that are registered.

    All of them are told: unchanged, new, changed so that everybody can go on, or broken, with each change and its way
    out. The exit status is 1 where one is broken. Nothing is registered.
    """
    from sojourn.bus.schemas.compatibility import Level
    from sojourn.console.modules import load_events
    from sojourn.console.output import write_json, write_json_lines
    from sojourn.console.schemas.judging import judge_events, judged_json
    from sojourn.console.schemas.report import tell_judged

    catalog = load_events(module)
    found = known(settings, against or default_against())
    judged = judge_events(catalog, found.records, level=Level(level) if level else None, older=older)
    broken = [one for one in judged if one.problems]
    if output == "json":
        facts = {"module": module, "against": found.where, "ok": not broken}
        write_json("schema-check/1", {**facts, "events": [judged_json(one) for one in judged]})
    elif output == "jsonl":
        write_json_lines("checked-schema/1", map(judged_json, judged))
    else:
        tell_judged(judged)
    if broken:
        names = ", ".join(one.type for one in broken)
        raise Problems(
            [f"{len(broken)} of {several(len(judged), 'event type')} would break what {found.where} holds: {names}"]
        )
    if output == "text":
        note(f"checked {several(len(judged), 'event type')} against {found.where}: nothing breaks")


@schemas.command(
    short_help="Registers a module's events.",
    epilog=example("sojourn schemas push shop.events", "sojourn schemas push shop.events --take-over"),
)
@click.argument("module")
@click.option("--take-over", is_flag=True, help="Make the declared owners the owners of types that belong to others.")
@form
@connection
def push(settings: Settings, module: str, take_over: bool, output: Form) -> None:
    """Registers the event types of MODULE, all of them or none.

    What the classes declare counts for everybody from then on: a level (which already decides about the class itself),
    descriptions, upcasters. `sojourn run` registers what is new and allowed by itself; this is for doing it ahead, and
    for changing a level or an owner.
    """
    from sojourn.console.modules import load_events
    from sojourn.console.schemas.pushing import push_events, tell_pushed

    catalog = load_events(module)

    async def work(bus: Bus) -> list[Pushed]:
        return await push_events(bus, list(catalog), hand_over=take_over)

    tell_pushed(with_bus(settings, work, create=True), settings.namespace, output)


@schemas.command(
    short_help="Writes the registered schemas to a lock file.",
    epilog=example("sojourn schemas pull", "sojourn schemas pull --check"),
)
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path), default=LOCK_FILE, callback=require_name)
@click.option("--check", is_flag=True, help="Write nothing; exit with 1 where the file is not what it would be.")
@form
@connection
def pull(settings: Settings, file: Path, check: bool, output: Form) -> None:
    """Writes the registered schemas to FILE (default: sojourn.schemas.json).

    The file is meant to be committed: `sojourn schemas check` then needs no server.
    """
    from sojourn.console.schemas.pulling import pull_to

    pull_to(settings, file, output, check=check)


@schemas.command(
    short_help="Looks over a module's events for what is unwise.",
    epilog=example("sojourn schemas lint shop.events", "sojourn schemas lint shop.events --ignore undescribed"),
)
@click.argument("modules", metavar="MODULE...", nargs=-1, required=True)
@against(default="nothing, the modules alone are looked over")
@click.option("--ignore", multiple=True, type=click.Choice(CODES), help="Leave out findings of this code.")
@form
@connection
def lint(
    settings: Settings, modules: tuple[str, ...], against: str | None, ignore: tuple[str, ...], output: Form
) -> None:
    """Looks over the event types of modules: likely personal data that is not marked, no description, two owners, names
    that are no facts.

    With --against, registered types that none of the modules define are looked over too. The exit status is 1 where
    something is found.
    """
    from sojourn.bus.schemas.lint import lint as look
    from sojourn.console.modules import load_events
    from sojourn.console.output import write, write_json, write_json_lines
    from sojourn.console.schemas.difference import wrapped

    classes = [cls for module in modules for cls in load_events(module)]
    records = known(settings, against).records if against is not None else None
    found = [finding for finding in look(classes, records) if finding.code not in ignore]
    if output == "json":
        write_json("schema-lint/1", {"modules": list(modules), "findings": [one._asdict() for one in found]})
    elif output == "jsonl":
        write_json_lines("schema-finding/1", [one._asdict() for one in found])
    else:
        for one in found:
            where = f"{one.type}.{one.path}" if one.path else one.type
            lines = "".join(f"  {line}\n" for line in wrapped(one.message, 2))
            write(f"{where}: {one.code}\n{lines}")
    if found:
        kinds = len({one.type for one in found})
        raise Problems(
            [f"{several(len(found), 'finding')} in {several(kinds, 'event type')}; --ignore CODE leaves out one kind"]
        )
    if output == "text":
        note(f"looked over {several(len(classes), 'event type')}: nothing to say")


@schemas.command(
    short_help="Writes the schemas for other tools: AsyncAPI, JSON Schema.",
    epilog=example(
        "sojourn schemas export --format asyncapi > asyncapi.json",
        "sojourn schemas export --format jsonschema schemas/",
    ),
)
@click.argument("target", metavar="[FILE|DIRECTORY]", required=False, callback=require_name)
@click.option(
    "--format", "kind", type=click.Choice(["asyncapi", "jsonschema"]), required=True,
    help="AsyncAPI 3 of the running system, or the data of each event as JSON Schema.",
)  # fmt: skip
@click.option("--title", metavar="TEXT", help="The title of the document.")
@click.option("--edition", metavar="TEXT", default="1", show_default=True, help="An AsyncAPI document's own version.")
@connection
def export(
    settings: Settings, target: str | None, kind: Literal["asyncapi", "jsonschema"], title: str | None, edition: str
) -> None:
    """Writes what is registered as an AsyncAPI 3.0 document, or as JSON Schema (draft 2020-12).

    To standard output, to FILE, or for jsonschema to a DIRECTORY (one that exists, or a name that ends with /), a file
    for each version of each event type.
    """
    from sojourn.console.schemas.exporting import export_to

    export_to(settings, target, kind, title=title, edition=edition)


def _registered(settings: Settings, name: str) -> SchemaRecord:
    found = known(settings, "server")
    return require_type(found.records, name, f"namespace {settings.namespace}")
