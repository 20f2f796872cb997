"""The environment of a worker process: its command's options, as the variables that stand for them.

Not as arguments, which every user of the machine can read.
"""

from __future__ import annotations

import os
import sys
from urllib.parse import quote

from sojourn.console.options import Server, Settings
from sojourn.console.terminal import is_terminal, wants_colour


def of_worker(settings: Settings) -> dict[str, str]:
    """This process's environment, in which the options of a command are set as it was given them."""
    given = {
        "SOJOURN_SERVER": address(settings.server) if settings.server is not None else None,
        "SOJOURN_CREDS": settings.creds,
        "SOJOURN_NAMESPACE": settings.namespace,
        "SOJOURN_STORE": str(settings.store),
        "SOJOURN_MASTER_KEY_FILE": str(settings.master_key.file) if settings.master_key.file is not None else None,
        "SOJOURN_FROZEN": "1" if settings.frozen else "0",
    }
    environment = {name: value for name, value in os.environ.items() if name not in given}
    if is_terminal(sys.stderr) and wants_colour(sys.stderr):
        environment["FORCE_COLOR"] = "1"  # it writes into a pipe, which its parent passes on
    return environment | {name: value for name, value in given.items() if value is not None}


def address(server: Server) -> str:
    """The URL of a server with its credentials, as somebody may have typed it."""
    if server.user is None or server.password is None:
        return server.url
    user = f"{quote(server.user, safe='')}:{quote(server.password, safe='')}@"
    return ",".join(url.replace("://", f"://{user}", 1) for url in server.url.split(","))
