"""The lock file: the registered schemas as a committed file, to check code against without a server. Pure, but for
reading and writing that one file.

A JSON object: ``format`` (``sojourn.schemas/1``) and ``types``, sorted by type name, each the record as the registry
holds it, its versions ascending. Every value has its own line, so that a change of one field is a difference of one
line. Within a schema the order is the class's own: reports read the same from a file and from a server.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from pydantic import ValidationError

from sojourn.bus.envelope import problems
from sojourn.bus.errors import ConfigurationError, NotFoundError
from sojourn.bus.schemas.records import SchemaRecord, VersionRecord
from sojourn.bus.schemas.schema import fingerprint

LOCK_FILE = "sojourn.schemas.json"
FORMAT = "sojourn.schemas/1"

_AGAIN = "take a new one: `sojourn schemas pull`"


def format_lock(records: Iterable[SchemaRecord]) -> str:
    """The text of the lock file; the same for the same records, whatever their order."""
    ordered = sorted(records, key=lambda record: record.type)
    types = {record.type: record.model_dump(mode="json", by_alias=True, exclude={"type"}) for record in ordered}
    document = {"format": FORMAT, "types": types}
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def write_lock(path: Path, records: Iterable[SchemaRecord]) -> bool:
    """Writes the file; False where it held the same already, and was left alone."""
    content = format_lock(records).encode()  # as bytes: the same on every system
    if path.exists() and path.read_bytes() == content:
        return False
    path.write_bytes(content)
    return True


def read_lock(path: Path) -> dict[str, SchemaRecord]:
    """The records by type name. Raises `NotFoundError`, and `ConfigurationError` where it is no lock file, one of
    another format, or one that was edited by hand."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise NotFoundError(f"there is no lock file {path}: {_AGAIN}") from None
    except OSError as error:
        raise ConfigurationError(f"the lock file {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"the lock file {path} is no JSON: it is no text in UTF-8; {_AGAIN}") from error
    return parse_lock(text, str(path))


def parse_lock(text: str, name: str = LOCK_FILE) -> dict[str, SchemaRecord]:
    """The records in a lock file's text, by type name; ``name`` is for messages. See `read_lock`."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(
            f"the lock file {name} is no JSON: {error}; undo the edit (or merge), or {_AGAIN}"
        ) from error
    found = document.get("format") if isinstance(document, dict) else None
    if _is_newer(found):
        raise ConfigurationError(
            f"the lock file {name} has the format {found!r}, and this version of Sojourn reads {FORMAT!r} at most: "
            "update Sojourn"
        )
    if found != FORMAT:
        raise ConfigurationError(
            f"the lock file {name} has the format {found!r}, this version of Sojourn reads {FORMAT!r}: {_AGAIN}"
        )
    types = document.get("types")
    if not isinstance(types, dict):
        raise ConfigurationError(f"the lock file {name} holds no types: {_AGAIN}")
    return {type: _record(type, part, name) for type, part in sorted(types.items())}


def _is_newer(format: object) -> bool:
    family, _, number = FORMAT.rpartition("/")
    said = format.rpartition("/") if isinstance(format, str) else ("", "", "")
    return said[0] == family and said[2].isdecimal() and len(said[2]) < 10 and int(said[2]) > int(number)


def _record(type: str, part: object, name: str) -> SchemaRecord:
    try:
        record = SchemaRecord.model_validate({**part, "type": type} if isinstance(part, dict) else part)
    except ValidationError as error:
        raise ConfigurationError(f"the lock file {name}: {type} is no record: {problems(error)}; {_AGAIN}") from error
    numbers = [version.version for version in record.versions]
    if numbers != sorted(set(numbers)):
        raise ConfigurationError(f"the lock file {name}: the versions of {type} do not ascend: {numbers}; {_AGAIN}")
    for version in record.versions:
        if not _whole(version):
            raise ConfigurationError(
                f"the lock file {name}: {type} version {version.version} does not have the hash it names, so it was "
                f"edited by hand: undo that, or {_AGAIN}"
            )
    return record


def _whole(version: VersionRecord) -> bool:
    try:
        return fingerprint(version.schema_) == version.hash
    except (AttributeError, KeyError, RecursionError, TypeError):  # no schema any more
        return False
