"""Takes the registered schemas into a lock file."""

from __future__ import annotations

from pathlib import Path

from sojourn.bus.errors import ConfigurationError, NotFoundError, SojournError
from sojourn.bus.schemas.lock import format_lock, read_lock, write_lock
from sojourn.bus.schemas.records import SchemaRecord
from sojourn.console.failures import Problems, note, several
from sojourn.console.options import Form, Settings
from sojourn.console.output import write, write_json, write_json_lines
from sojourn.console.schemas.known import LOCK_FILE, SERVER, known


def pull_to(settings: Settings, file: Path, output: Form, *, check: bool) -> None:
    """Writes the lock file, or with ``check`` only looks: raises `Problems` where it would change."""
    records = known(settings, SERVER).records
    if not records:
        note(f"no event type is registered in namespace {settings.namespace}")
    differing = _differing(file, records)
    changed = differing is None or bool(differing)
    if not check:
        try:
            changed = write_lock(file, records.values())
        except OSError as error:
            raise ConfigurationError(f"the lock file {file} cannot be written: {error.strerror}") from error
    facts = {"file": str(file), "types": len(records), "changed": changed, "differing": differing or []}
    if output == "json":
        write_json("schema-lock/1", facts)
    elif output == "jsonl":
        write_json_lines("schema-lock/1", [facts])
    elif not check or not changed:
        what = "written" if changed else "is up to date"
        write(f"{file}: {what}, {several(len(records), 'event type')}\n")
    if check and changed:
        names = f" ({', '.join(differing)})" if differing else ""
        again = "sojourn schemas pull" if str(file) == LOCK_FILE else f"sojourn schemas pull {file}"
        raise Problems([f"{file} is not what is registered{names}: `{again}` brings it up to date"])


def _differing(file: Path, records: dict[str, SchemaRecord]) -> list[str] | None:
    """The types that the file holds otherwise; None where it is not there, unreadable, or written differently."""
    try:
        held = read_lock(file)
    except NotFoundError:
        return None
    except SojournError as error:
        note(str(error))
        return None
    names = sorted(held.keys() | records.keys())
    differing = [name for name in names if held.get(name) != records.get(name)]
    if not differing and file.read_text(encoding="utf-8") != format_lock(records.values()):
        return None
    return differing
