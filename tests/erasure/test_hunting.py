"""The search finds what it is meant to find: otherwise the other tests would pass on anything."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from tests.erasure.hunting import Haystack, core, files, personal, token

value = personal()

FORMS = {
    "plain": value.encode(),
    "upper": value.upper().encode(),
    "lower": value.lower().encode(),
    "json": json.dumps({"email": value}).encode(),
    "twice": json.dumps(json.dumps({"email": value})).encode(),
    "repr": repr(value.encode()).encode(),
    "hex": core(value).encode().hex().encode(),
    **{f"base64 at {n}": base64.b64encode(b"x" * n + value.encode() + b"y" * n) for n in range(6)},
    **{f"url at {n}": base64.urlsafe_b64encode(b"\xff" * n + value.encode()) for n in range(3)},
}


@pytest.mark.parametrize("form", FORMS)
def test_each_form_is_found(form: str, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").write_bytes(b"before" + FORMS[form] + b"after")
    assert Haystack(files(tmp_path)).where(core(value)) == ["file"]
    assert not Haystack(files(tmp_path)).holds(token())


def test_bytes_are_found_in_base64_too(tmp_path: Path) -> None:
    secret = bytes(range(200, 232))
    (tmp_path / "file").write_bytes(base64.b64encode(b"nonce" + secret))
    assert Haystack(files(tmp_path)).holds(secret)
    assert not Haystack(files(tmp_path)).holds(secret[::-1])
