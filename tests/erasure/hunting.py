"""Looks for values in files, in every form that they may have taken there."""

from __future__ import annotations

import base64
import json
import re
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests.erasure import s2

_FILL = re.compile(rb"x{64,}")
_UMLAUTS = "Äöß"


def token() -> str:
    """Letters and digits that occur nowhere else; neither JSON nor URLs escape them."""
    return "Zq" + "".join(secrets.choice("abcdefghjkmnpqrstuvwxyzABCDEFGHJKMNPQRSTUVWXYZ23456789") for _ in range(22))


def personal() -> str:
    """A personal value around a token, with what JSON escapes in it."""
    return f'{_UMLAUTS} "{token()}"@example.org'


def core(value: str) -> str:
    """What no other value has of a personal value or a control: what stands around it may be compressed away."""
    at = value.index("Zq") + 2
    return value[at : at + 22] if value.endswith("@example.org") else value[at:]


def files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield path


class Haystack:
    """The bytes of files as they are now, and what is in blocks that the server has compressed. Searched in any case,
    and in base64 at any offset. ``compressed``: only such blocks. Long runs of ``x``, which fill blocks, are left out.
    """

    def __init__(self, paths: Iterable[Path], *, compressed: bool = False) -> None:
        self._files: list[tuple[Path, bytes, bytes]] = []
        for path in paths:
            try:
                content = path.read_bytes()
            except FileNotFoundError:
                continue  # The server has removed it meanwhile.
            if content.startswith(s2.HEAD):
                inside = _FILL.sub(b"", s2.block(content))
                self._files.append((path, inside, inside.lower()))
            elif compressed:
                continue
            content = _FILL.sub(b"", content)
            self._files.append((path, content, content.lower()))

    @property
    def size(self) -> int:
        return sum(len(content) for _, content, _ in self._files)

    def where(self, value: str | bytes) -> list[str]:
        """The files that hold a value, in whatever form: for people, and empty where none does."""
        raw = value if isinstance(value, bytes) else value.encode()
        folded = raw.lower()
        forms = {json.dumps(raw.decode("latin-1")).strip('"').encode(), raw.hex().encode(), *in_base64(raw)}
        found = []
        for path, content, lower in self._files:
            if folded in lower or any(form in content for form in forms):
                found.append(path.name)
        return found

    def holds(self, value: str | bytes) -> bool:
        return bool(self.where(value))


def in_base64(raw: bytes) -> Iterator[bytes]:
    """What base64 makes of a value within something longer: at each of the three offsets, without the characters that
    depend on what stands around it."""
    for before in range(3):
        text = base64.b64encode(bytes(before) + raw)
        start = -(-before * 8 // 6)
        end = (before + len(raw)) * 8 // 6
        middle = text[start:end]
        yield middle
        yield middle.replace(b"+", b"-").replace(b"/", b"_")
