"""The key of one customer: seals and opens that customer's personal values, and scrubs them from texts."""

from __future__ import annotations

import os
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable
from contextvars import ContextVar, Token
from typing import Protocol
from weakref import ref

from sojourn.bus.errors import DecodeError, SojournError, TooLargeError
from sojourn.bus.personal.scrubbing import forms, scrub, texts

SEALED = "sealed:1:"
"""What every sealed text begins with: then come the key's id, a colon, and nonce and ciphertext in base64url."""

MAX_PLAIN = 32 * 1024 * 1024
"""The largest plain value, in bytes. The server's own limit of a message (1 MiB unless set otherwise) is met first."""

_HEAD = re.compile(rf"{SEALED}([A-Za-z0-9_-]{{1,64}}):")
_NONCE = 12
_TAG = 16
_MAX_SEALED = len(SEALED) + 65 + (MAX_PLAIN + _NONCE + _TAG + 2) // 3 * 4
_REMEMBERED = 256
_REMEMBERED_BYTES = 65_536


class UnknownKeyError(SojournError):
    """A text is sealed by a key that is not at hand: look the customer's key up anew. ``id`` is that key's."""

    def __init__(self, id: str) -> None:
        super().__init__(f"sealed by the key {id}, which is not at hand")
        self.id = id


class _Cipher(Protocol):
    def encrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None) -> bytes: ...
    def decrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None) -> bytes: ...


class CustomerKey:
    """A customer's data key: AES-256-GCM, a fresh nonce for each value, bound to the key's id.

    ``id`` is public and never used again; ``secret`` (32 bytes) is kept inside and shown nowhere. Whatever it sealed or
    opened lately (the last 256 different values or more, as long as they are small) is remembered for `scrub`.
    """

    __slots__ = ("__weakref__", "_before", "_cipher", "_head", "_lately", "_room", "_texts", "id")

    def __init__(self, id: str, secret: bytes) -> None:
        self.id = id
        self._head = f"{SEALED}{id}:"
        self._cipher = cipher(secret)
        # Two generations of values: the younger takes the older's place when it is full, which needs no bookkeeping
        # for each value.
        self._lately: dict[bytes, None] = {}
        self._before: dict[bytes, None] = {}
        self._room = _REMEMBERED_BYTES
        self._texts: frozenset[str] | None = None

    @classmethod
    def new(cls) -> tuple[CustomerKey, bytes]:
        """A new key and its secret, which only the key ring needs, to wrap it."""
        secret = os.urandom(32)
        return cls(urlsafe_b64encode(os.urandom(9)).decode(), secret), secret

    def __repr__(self) -> str:
        return f"CustomerKey({self.id!r})"

    def __reduce__(self) -> str:
        raise TypeError("a customer's key is not to be pickled or copied")

    def seal(self, plain: bytes, *, remember: bool = True) -> str:
        """The sealed text of a value's JSON. Raises `TooLargeError`.

        ``remember``: False for what is no personal value itself, and is sealed since it may hold some.
        """
        if len(plain) > MAX_PLAIN:
            raise TooLargeError(
                f"a personal value has {len(plain)} bytes, the limit is {MAX_PLAIN}", size=len(plain), limit=MAX_PLAIN
            )
        if remember and plain not in self._lately:
            self._remember(plain)
        nonce = os.urandom(_NONCE)
        head = self._head
        return head + urlsafe_b64encode(nonce + self._cipher.encrypt(nonce, plain, head.encode())).decode()

    def unseal(self, text: str, *, remember: bool = True) -> bytes:
        """The JSON in a sealed text. ``remember`` as for `seal`.

        Raises `UnknownKeyError` where another key sealed it, and `DecodeError` where it is damaged or forged; neither
        message holds anything of the text but the key's id.
        """
        head = self._head
        if not text.startswith(head):
            raise UnknownKeyError(sealed_by(text))
        body = text[len(head) :]
        try:
            raw = urlsafe_b64decode(body) if len(text) <= _MAX_SEALED else b""
        except ValueError:
            raw = b""
        # Written again and compared: the decoder skips what is no base64, and ignores a last character's spare bits.
        if len(raw) < _NONCE + _TAG or urlsafe_b64encode(raw) != body.encode(errors="replace"):
            raise DecodeError(f"a personal value sealed by the key {self.id} is damaged: it is no sealed text any more")
        try:
            plain = self._cipher.decrypt(raw[:_NONCE], raw[_NONCE:], head.encode())
        except Exception:  # noqa: BLE001 - the cipher has no reason but this one; its error class is a heavy import
            raise DecodeError(
                f"a personal value sealed by the key {self.id} was changed afterwards, or comes from elsewhere: "
                "it does not authenticate"
            ) from None
        if remember and plain not in self._lately:
            self._remember(plain)
        return plain

    def scrub(self, text: str) -> str:
        """The text with ``•••`` in place of every personal value that this key sealed or opened lately.

        Case does not matter, nor whether the value was escaped for JSON, as a Python literal or for a URL; see
        `scrubbing.scrub`. A text that is too long to be searched in a bounded time becomes ``•••`` as a whole.
        """
        return scrub(text, self._remembered())

    def mentioned(self, told: Iterable[str]) -> bool:
        """Whether one of the texts that it sealed or opened lately may stand in `scrubbing.forms` of another."""
        if self._texts is None:
            self._texts = texts(self._remembered())
        return any(text in form for form in told for text in self._texts)

    def scrub_alone(self, text: str) -> str:
        """As `scrub`, for a text of nobody in particular; see ``alone`` of `scrubbing.scrub`."""
        return scrub(text, self._remembered(), alone=True)

    def _remember(self, plain: bytes) -> None:
        self._texts = None
        self._lately[plain] = None
        self._room -= len(plain)
        if self._room < 0 or len(self._lately) >= _REMEMBERED:
            self._before, self._lately, self._room = self._lately, {}, _REMEMBERED_BYTES

    def _remembered(self) -> Iterable[bytes]:
        return {**self._before, **self._lately}


handling: ContextVar[CustomerKey | None] = ContextVar("handling", default=None)
"""The key of the customer whose event is being handled here, so that what is logged meanwhile can be scrubbed."""

_LATELY = 1_000
_handled: dict[str, ref[CustomerKey]] = {}
"""The keys of those who were handled last, by id. Not to be kept alive by it: a key that is erased is to be gone."""


def handle(key: CustomerKey | None) -> Token[CustomerKey | None]:
    """Sets ``handling``, and remembers the key for `scrub_lately`."""
    if key is not None:
        _handled.pop(key.id, None)
        _handled[key.id] = ref(key)
        if len(_handled) > _LATELY:
            del _handled[next(iter(_handled))]
    return handling.set(key)


def scrub_lately(text: str) -> str:
    """The text without what is personal of the last 1,000 customers who were handled in this process, for what is told
    outside a handling. About a millisecond. Numbers are left, and short texts where they are part of a longer word."""
    keys = [key for known in list(_handled.values()) if (key := known()) is not None]
    if keys:
        found = forms(text)
        for key in keys:
            if key.mentioned(found):
                text = key.scrub_alone(text)
    return text


def cipher(secret: bytes) -> _Cipher:
    """AES-256-GCM under a key of 32 bytes."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    return AESGCM(secret)


def sealed_by(text: str) -> str:
    """The id of the key that sealed a text. Raises `DecodeError` for one that is no sealed text."""
    found = _HEAD.match(text)
    if found is None:
        raise DecodeError("a personal value begins like a sealed text, but is none: it names no key")
    return found[1]
