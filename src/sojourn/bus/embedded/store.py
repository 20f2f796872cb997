"""The files of an embedded server's store: their names, the locks, server.json, and what an error there means.

Standard library only: the supervisor runs without the packages that Sojourn depends on.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
from pathlib import Path
from typing import Any, Literal, NamedTuple

SCHEMA = 1

USERS_LOCK = Path("users.lock")
SUPERVISOR_LOCK = Path("supervisor.lock")
SERVER_LOCK = Path("server.lock")
RECORD = Path("server.json")
STORE_FACTS = Path("store.json")
CONFIG = Path("nats-server.conf")
SERVER_LOG = Path("nats-server.log")
SUPERVISOR_LOG = Path("supervisor.log")

FailureKind = Literal["configuration", "unavailable", "port"]


class Failure(Exception):
    """Why there is no server: one line for the user. Kind ``port``: the wanted port is taken."""

    def __init__(self, kind: FailureKind, message: str) -> None:
        super().__init__(message)
        self.kind: FailureKind = kind


class OtherSchema(Exception):
    """A server.json in another version of its schema."""


class Record(NamedTuple):
    """The content of server.json.

    ``name`` is the server's own, by which it is told from a stranger on the same port. ``failed`` says why the
    supervisor gave up; address and credential stay, to be used again.
    """

    supervisor_pid: int
    server_pid: int
    url: str
    user: str
    password: str
    name: str
    version: str
    started: str
    failed: str | None = None

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])


def read_record(path: Path) -> Record | None:
    """The record at ``path``, or None where there is none or it makes no sense. Raises `OtherSchema` and `OSError`."""
    try:
        fields = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    if not isinstance(fields, dict):
        return None
    schema = fields.pop("schema", None)
    if isinstance(schema, int) and schema != SCHEMA:
        raise OtherSchema(f"server.json has schema {schema}, this version of Sojourn reads {SCHEMA}")
    numbers = ("supervisor_pid", "server_pid")
    texts = ("url", "user", "password", "name", "version", "started")
    if schema is None or not all(isinstance(fields.get(field), int) for field in numbers):
        return None
    if not all(isinstance(fields.get(field), str) for field in texts):
        return None
    try:
        record = Record(**fields)
        return record if 0 < record.port < 65536 else None
    except (TypeError, ValueError, IndexError):
        return None


def write_atomically(path: Path, fields: dict[str, Any]) -> None:
    """Replaces a JSON file, mode 0600; readers see the old content or the new. Raises `OSError`."""
    draft = path.with_name(f"{path.name}.new")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(fields, file, indent=1)
    draft.replace(path)


def stamp(path: Path) -> tuple[int, int] | None:
    """Changes whenever the file is written or replaced; None where there is none."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_mtime_ns


def open_lock(path: Path) -> int:
    """Opens a lock file, which is never removed: a removed one would be held by one process and free to another."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def take(descriptor: int, operation: int = fcntl.LOCK_EX) -> bool:
    """Takes the lock on an open file without waiting; False where somebody else holds it. Raises `OSError`."""
    try:
        fcntl.flock(descriptor, operation | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def try_lock(path: Path) -> int | None:
    """A descriptor that holds the lock on ``path``, or None where somebody else does. Raises `OSError`."""
    descriptor = open_lock(path)
    try:
        taken = take(descriptor)
    except BaseException:
        os.close(descriptor)
        raise
    if taken:
        return descriptor
    os.close(descriptor)
    return None


def same_file(descriptor: int, path: Path) -> bool:
    """Whether the open file is still the one at ``path``, that is, nobody deleted or replaced it."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except (FileNotFoundError, NotADirectoryError):
        return False


def explain(error: OSError, store: str) -> Failure:
    """Says in one line what an error of the operating system means for the store, and the way out."""
    reason = error.strerror or str(error)
    what = error.filename if isinstance(error.filename, str) else store
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            return Failure("unavailable", f"the disk of the store {store} is full: free some space and try again")
        case errno.EROFS:
            return Failure("configuration", f"the store {store} is on a read-only file system: use another folder")
        case errno.EACCES | errno.EPERM:
            return Failure("configuration", f"no access to {what} ({reason}): run as its owner, or use another store")
        case errno.ENAMETOOLONG:
            short = store if len(store) < 80 else f"{store[:60]}…"
            return Failure("configuration", f"the path of the store is too long ({len(store)} characters): {short}")
        case errno.ENOTDIR | errno.EEXIST | errno.EISDIR:
            message = f"the store {store} cannot be a folder ({reason}: {what}): remove what is there, or use another"
            return Failure("configuration", message)
        case errno.ENOLCK | errno.EOPNOTSUPP:
            return Failure("configuration", f"the file system of {store} has no locks ({reason}): use a local folder")
        case _:
            return Failure("unavailable", f"the store {store} cannot be used: {error}")
