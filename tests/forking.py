"""A program that has imported all of Sojourn and starts `sojourn` commands by forking itself: a start takes a hundredth
of the time. Run as a script with the path of a socket to listen on; ends with its standard input. See `tests.forks`.
"""

from __future__ import annotations

import array
import gc
import importlib
import json
import os
import pkgutil
import random
import selectors
import signal
import socket
import sys
import time
from typing import Any

DESCRIPTORS = 3 * array.array("i").itemsize


def main() -> None:
    """Serves until standard input ends. Every command goes on from here, as if it had been started alone."""
    request = _serve(sys.argv[1])
    if request is not None:
        _become(request)
        from sojourn.console.main import main as sojourn

        sojourn()


def _import_all() -> None:
    import sojourn

    for module in pkgutil.walk_packages(sojourn.__path__, "sojourn."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    for name in (
        "cryptography.hazmat.primitives.ciphers.aead",
        "jsonschema",
        "nats",
        "rich.live",
        "rich.table",
        "uvloop",
    ):
        importlib.import_module(name)


def _serve(path: str) -> dict[str, Any] | None:
    """In the process that was started, returns None at its end; in each fork, what it is to become."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's goes to the commands
    _import_all()
    gc.collect()
    gc.freeze()  # so that collecting garbage does not copy these pages into every fork
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(64)
    woken, wakes = socket.socketpair()
    for one in (listener, woken, wakes):
        one.setblocking(False)
    signal.set_wakeup_fd(wakes.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    callers: dict[int, socket.socket] = {}
    with selectors.DefaultSelector() as selector:
        for file in (listener, woken, sys.stdin):
            selector.register(file, selectors.EVENT_READ)
        while True:
            ready = {key.fileobj for key, _ in selector.select()}
            if sys.stdin in ready:
                return None
            if listener in ready:
                caller = listener.accept()[0]
                caller.setblocking(True)
                request = _received(caller)
                pid = os.fork()
                if pid == 0:
                    for one in (listener, woken, wakes, caller, *callers.values()):
                        one.close()
                    return request
                for descriptor in request["descriptors"]:
                    os.close(descriptor)
                callers[pid] = caller
                _tell(caller, pid)
            if woken in ready:
                woken.recv(4_096)
                _reap(callers)


def _received(caller: socket.socket) -> dict[str, Any]:
    """A line of JSON, which comes with the command's standard streams."""
    data, descriptors, _, _ = socket.recv_fds(caller, 1 << 16, 3)
    while not data.endswith(b"\n"):
        data += caller.recv(1 << 16)
    request: dict[str, Any] = json.loads(data)
    return request | {"descriptors": descriptors}


def _reap(callers: dict[int, socket.socket]) -> None:
    while callers:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        with callers.pop(pid) as caller:
            _tell(caller, os.waitstatus_to_exitcode(status))


def _tell(caller: socket.socket, number: int) -> None:
    try:
        caller.sendall(b"%d\n" % number)
    except OSError:
        return  # it does not ask any more


def _become(request: dict[str, Any]) -> None:
    """Makes this process what a command started alone would be: its streams, folder, environment and signals."""
    from sojourn.bus import crashpoints

    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for descriptor, wanted in zip(request["descriptors"], (0, 1, 2), strict=True):
        os.dup2(descriptor, wanted)
        os.close(descriptor)
    for name, number in (("stdin", 0), ("stdout", 1), ("stderr", 2)):
        setattr(sys, name, _opened(number, getattr(sys, name), bool(request["environment"].get("PYTHONUNBUFFERED"))))
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    crashpoints._armed = crashpoints._from(os.environ)
    time.tzset()
    random.seed()
    sys.dont_write_bytecode = bool(request["environment"].get("PYTHONDONTWRITEBYTECODE"))
    sys.argv[:] = ["sojourn", *request["arguments"]]
    sys.path[0] = ""
    sys.path_importer_cache.clear()
    importlib.invalidate_caches()


def _opened(number: int, like: Any, unbuffered: bool) -> Any:
    # As the interpreter opens them: a terminal, and what is for people, line by line.
    return open(
        number, "r" if number == 0 else "w", encoding=like.encoding, errors=like.errors, closefd=False,
        buffering=1 if number == 2 or os.isatty(number) or unbuffered else -1,
    )  # fmt: skip


if __name__ == "__main__":
    main()
