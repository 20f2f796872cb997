"""The search finds what it is meant to find: otherwise the other tests would pass on anything."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from tests.erasure import s2
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


def block(body: bytes, size: int) -> bytes:
    """A block as the server compresses it: its size as a varint, one chunk of S2, and the checksum."""
    chunk = b"\0\0\0\0" + size.to_bytes(1, "little") + body
    stream = b"\xff\x06\0\0S2sTwO" + b"\0" + len(chunk).to_bytes(3, "little") + chunk
    return s2.HEAD + size.to_bytes(1, "little") + stream + b"checksum"


COPIES = {
    "near": (bytes([1 | 1 << 2, 4]), b"abcdabcda"),
    "far": (bytes([2 | 5 << 2, 3, 0]), b"abcdbcdbcd"),
    "farther": (bytes([3 | 5 << 2, 1, 0, 0, 0]), b"abcddddddd"),
    "repeated": (bytes([1, 4, 1 | 1 << 2, 0]), b"abcdabcdabcda"),
    "repeated for long": (bytes([1, 4, 1 | 5 << 2, 0, 2]), b"abcdabcd" + b"abcd" * 2 + b"ab"),
}


@pytest.mark.parametrize("how", COPIES)
def test_what_is_compressed_is_found(how: str, tmp_path: Path) -> None:
    copy, whole = COPIES[how]
    raw = block(bytes([3 << 2]) + b"abcd" + copy, len(whole))
    assert s2.block(raw) == whole
    (tmp_path / "1.blk").write_bytes(raw)
    (tmp_path / "2.blk").write_bytes(whole)
    assert Haystack(files(tmp_path)).where(whole) == ["1.blk", "2.blk"]
    assert Haystack(files(tmp_path), compressed=True).where(whole) == ["1.blk"]


@pytest.mark.parametrize("end", [-1, -9, 30])
def test_a_damaged_block_does_not_pass_for_an_empty_one(end: int, tmp_path: Path) -> None:
    (tmp_path / "1.blk").write_bytes(block(bytes([3 << 2]) + b"abcd", 4)[:end])
    with pytest.raises(ValueError, match=r"cut off|bytes instead"):
        Haystack(files(tmp_path))
