"""A server's operator, its accounts and a user, made here: what `--creds` is for, without the tools that make it."""

from __future__ import annotations

import base64
import json
import os
import time
from pathlib import Path
from typing import Any

import nkeys  # type: ignore[import-untyped]  # it ships no types

_UNLIMITED = {
    "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": True, "conn": -1, "leaf": -1,
    "mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1,
}  # fmt: skip


class Chain:
    """An operator that trusts an account with JetStream, and whoever that account signs for."""

    def __init__(self) -> None:
        self._operator, self._account, self._system = map(
            _pair, (nkeys.PREFIX_BYTE_OPERATOR, nkeys.PREFIX_BYTE_ACCOUNT, nkeys.PREFIX_BYTE_ACCOUNT)
        )

    @property
    def settings(self) -> str:
        """For the server's configuration."""
        system = _name(self._system)
        operator = _token(self._operator, self._operator, "operator", {"system_account": system})
        app = _token(self._operator, self._account, "account", {"limits": _UNLIMITED})
        # The system's own account is the one that has no JetStream.
        limits = {**_UNLIMITED, "mem_storage": 0, "disk_storage": 0, "streams": 0, "consumer": 0}
        own = _token(self._operator, self._system, "account", {"limits": limits})
        return (
            f"operator: {operator}\nsystem_account: {system}\nresolver: MEMORY\n"
            f"resolver_preload: {{ {_name(self._account)}: {app}, {system}: {own} }}\n"
        )

    def write_user(self, path: Path) -> Path:
        """A credentials file of a user of the account."""
        user = _pair(nkeys.PREFIX_BYTE_USER)
        token = _token(self._account, user, "user", {"subs": -1, "data": -1, "payload": -1})
        path.write_text(
            f"-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{bytes(user.seed).decode()}\n------END USER NKEY SEED------\n"
        )
        return path


def _pair(kind: int) -> Any:
    return nkeys.from_seed(bytearray(nkeys.encode_seed(os.urandom(32), kind)))


def _name(pair: Any) -> str:
    return bytes(pair.public_key).decode()


def _token(issuer: Any, subject: Any, type: str, nats: dict[str, Any]) -> str:
    claims = {
        "jti": os.urandom(16).hex(), "iat": int(time.time()), "iss": _name(issuer), "sub": _name(subject), "name": type,
        "nats": {**nats, "type": type, "version": 2},
    }  # fmt: skip
    head = {"typ": "JWT", "alg": "ed25519-nkey"}
    text = ".".join(_base64(json.dumps(part).encode()) for part in (head, claims))
    return f"{text}.{_base64(issuer.sign(text.encode()))}"


def _base64(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode().rstrip("=")
