"""Whether another process of this machine is still there: a lease of one that is gone need not be waited for."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path


def this_process() -> dict[str, str | int | None]:
    """What tells this process from all others: ``host``, ``pid``, and when it was ``born``."""
    pid = os.getpid()
    return {"host": _host(), "pid": pid, "born": _born(pid)}


def is_gone(process: Mapping[str, object]) -> bool:
    """True where ``process``, as `this_process` gave it, is known to have ended: only of processes of this machine can
    that be known."""
    pid = process.get("pid")
    return process.get("host") == _host() and isinstance(pid, int) and _ended(pid, process.get("born"))


def is_alive(process: Mapping[str, object]) -> bool:
    """True where ``process`` is known to be there still, running or frozen: only of processes of this machine can that
    be known."""
    pid = process.get("pid")
    return process.get("host") == _host() and isinstance(pid, int) and not _ended(pid, process.get("born"))


def _host() -> str:
    """This machine since its last boot, and the process namespace: where a process id means one process."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        space = os.readlink("/proc/self/ns/pid")
    except OSError:
        return f"{socket.gethostname()} {os.getpid()}"  # No telling processes apart here: leases expire instead.
    return f"{socket.gethostname()} {boot} {space}"


def _born(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; 0 for one that is dead but not reaped, None where nothing is
    known. Source: proc(5), stat, fields 3 and 22."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return 0 if fields[0] in "ZX" else int(fields[19])
    except (OSError, IndexError, ValueError):
        return None


def _ended(pid: int, born: object) -> bool:
    now = _born(pid)
    if now is not None:
        return now != born
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False  # Another user's, in a /proc that hides those.
    return False
