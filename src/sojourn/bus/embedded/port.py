"""Who listens on a port of this machine, for error messages. Without rights it sees only one's own."""

from __future__ import annotations

import subprocess
from pathlib import Path

from sojourn.bus.embedded.process import server_info


def who_listens(port: int) -> str:
    """A description of the process on the port, such as "redis-server (pid 17)"; "another process" where unknown."""
    holder = _from_proc(port) or _from_lsof(port)
    info = server_info(port)
    if info is None:
        return holder or "another process"
    kind = f"a NATS server, version {info.get('version')}"
    return f"{holder}, {kind}" if holder else kind


def _from_proc(port: int) -> str | None:
    """Linux: the listening socket's inode from /proc/net, then the process that has it open. Source: proc(5)."""
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            rows = Path(table).read_text("ascii").splitlines()[1:]
        except OSError:
            continue
        for row in rows:
            fields = row.split()
            # State 0A is LISTEN.
            if fields[3] == "0A" and int(fields[1].rsplit(":", 1)[1], 16) == port:
                inodes.add(f"socket:[{fields[9]}]")
    for process in Path("/proc").glob("[0-9]*") if inodes else ():
        try:
            if any(str(link.readlink()) in inodes for link in (process / "fd").iterdir()):
                return f"{(process / 'comm').read_text().strip()} (pid {process.name})"
        except OSError:
            continue
    return None


def _from_lsof(port: int) -> str | None:
    """macOS: what lsof says, in its field format (p: pid, c: command)."""
    command = ["lsof", "-nP", f"-iTCP:{port}", "-sTCP:LISTEN", "-Fpc"]
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    fields = {line[0]: line[1:] for line in run.stdout.splitlines() if line}
    return f"{fields['c']} (pid {fields['p']})" if {"c", "p"} <= fields.keys() else None
