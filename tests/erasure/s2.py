"""Reads blocks of streams that nats-server has compressed, so that a search sees what is in them.

Source: "S2 Compression" of klauspost/compress (Snappy's framing and block format, with repeated offsets);
nats-server 2.15, filestore.go: ``cmp``, the algorithm, the size as a varint, the S2 stream, and the block's checksum.
"""

from __future__ import annotations

from functools import lru_cache

HEAD = b"cmp\x01"

_CHECKSUM = 8
_COMPRESSED, _PLAIN, _SKIPPED = 0x00, 0x01, 0x80


@lru_cache(maxsize=64)
def block(raw: bytes) -> bytes:
    """The content of a compressed block. Raises `ValueError` where it is damaged or cut off."""
    if not raw.startswith(HEAD):
        raise ValueError("no compressed block")
    size, at = _varint(raw, len(HEAD))
    found = bytearray()
    end = len(raw) - _CHECKSUM
    while at < end:
        kind, length = raw[at], int.from_bytes(raw[at + 1 : at + 4], "little")
        chunk = raw[at + 4 : at + 4 + length]
        at += 4 + length
        if at > end:
            raise ValueError("cut off")
        if kind == _COMPRESSED:
            found += _expanded(chunk[4:])
        elif kind == _PLAIN:
            found += chunk[4:]
        elif kind < _SKIPPED:
            raise ValueError(f"a chunk of kind {kind}")
    # The checksum, which is not compressed, counts.
    if len(found) not in (size, size - _CHECKSUM):
        raise ValueError(f"{len(found)} bytes instead of {size}")
    return bytes(found)


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while raw[at] & 0x80:
        value |= (raw[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
    return value | raw[at] << shift, at + 1


def _expanded(raw: bytes) -> bytes:
    size, at = _varint(raw, 0)
    found = bytearray()
    offset = 0
    while at < len(raw):
        tag = raw[at]
        length, low = tag >> 2, tag & 3
        at += 1
        if low == 0:
            if length >= 60:
                extra = length - 59
                length = int.from_bytes(raw[at : at + extra], "little")
                at += extra
            found += raw[at : at + length + 1]
            at += length + 1
            continue
        if low == 1:
            near = (tag & 0xE0) << 3 | raw[at]
            at, length = at + 1, length & 7
            if near:
                offset = near
            elif length > 4:
                extra = length - 4
                length = int.from_bytes(raw[at : at + extra], "little") + (4, 1 << 8, 1 << 16)[extra - 1]
                at += extra
            length += 4
        else:
            width = 2 if low == 2 else 4
            offset = int.from_bytes(raw[at : at + width], "little")
            at, length = at + width, length + 1
        if not 0 < offset <= len(found):
            raise ValueError("a copy of what is not there")
        start = len(found) - offset
        piece = found[start : start + length]
        found += (piece * (length // len(piece) + 1))[:length]
    if len(found) != size:
        raise ValueError(f"{len(found)} bytes instead of {size}")
    return bytes(found)
