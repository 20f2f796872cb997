"""A nats-server of the benchmark's own: on a free loopback port, with a store that ends with it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_DEADLINE = 20.0

SYNC = {"always": "sync_interval: always", "lazy": ""}
"""The server's settings by name. Left out it is ``lazy``: the server's default, an fsync every two minutes."""


@contextmanager
def nats_server(fsync: str, folder: Path | None = None) -> Iterator[str]:
    """Starts a server and yields its address. ``fsync``: a name in `SYNC`; ``folder``: where its store is made, by
    default among the temporary files."""
    found = shutil.which("nats-server", path=os.pathsep.join((os.path.dirname(sys.executable), os.environ["PATH"])))
    if found is None:
        raise SystemExit("nats-server is missing: make bench brings it into .venv")
    with tempfile.TemporaryDirectory(prefix="sojourn-bench-", dir=folder, ignore_cleanup_errors=True) as store:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            port: int = listener.getsockname()[1]
        config, log = Path(store, "nats.conf"), Path(store, "nats.log")
        config.write_text(f'listen: 127.0.0.1:{port}\njetstream {{ store_dir: "{store}", {SYNC[fsync]} }}\n')
        with log.open("wb") as output:
            process = subprocess.Popen([found, "-c", str(config)], stdout=output, stderr=output)
        try:
            deadline = time.monotonic() + _DEADLINE
            while not _answers(port):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(f"nats-server did not start:\n{log.read_text()[-2_000:]}")
                time.sleep(0.02)
            yield f"nats://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(_DEADLINE)


def fsync_seconds(folder: Path | None = None, times: int = 50) -> float:
    """What one fsync of 4 KiB takes where the stores are made."""
    with tempfile.NamedTemporaryFile(prefix="sojourn-bench-", dir=folder) as file:
        started = time.perf_counter()
        for _ in range(times):
            file.write(bytes(4096))
            file.flush()
            os.fsync(file.fileno())
        return (time.perf_counter() - started) / times


def _answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as client:
            return client.recv(4) == b"INFO"
    except OSError:
        return False
