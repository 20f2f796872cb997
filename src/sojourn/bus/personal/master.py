"""Master keys: they wrap the keys of customers, and never go to the server."""

from __future__ import annotations

import hmac
import os
import re
import stat
from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping
from hashlib import sha256
from pathlib import Path

from sojourn.bus.errors import ConfigurationError
from sojourn.bus.personal.key import cipher

FILE_VARIABLE = "SOJOURN_MASTER_KEY_FILE"
KEY_VARIABLE = "SOJOURN_MASTER_KEY"

HOW_TO_GIVE = f"give one by --master-key FILE, {FILE_VARIABLE} or connect(master_keys=…)"

_SIZE = 32
_NONCE = 12
_MOST = 65_536
_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")


class MasterKeys:
    """Master keys by their id, in order: the first one wraps, all of them unwrap.

    Made by `new`, `from_file` and `from_environment`. The keys themselves show nowhere, neither in ``repr`` nor in
    errors.
    """

    __slots__ = ("_keys",)

    def __init__(self, keys: Mapping[str, bytes]) -> None:
        """Takes keys of 32 bytes by their ids. Raises `ConfigurationError`."""
        if not keys:
            raise ConfigurationError("no master key is given; `MasterKeys.new()` makes one")
        for id, secret in keys.items():
            if not _ID.fullmatch(id):
                raise ConfigurationError(f"{id[:100]!r} is no id of a master key: use a-z, 0-9 and '-', 64 at most")
            if len(secret) != _SIZE:
                raise ConfigurationError(f"the master key {id} has {len(secret)} bytes, not {_SIZE}")
        self._keys = dict(keys)

    @classmethod
    def new(cls, id: str = "master-1") -> MasterKeys:
        """One fresh random key."""
        return cls({id: os.urandom(_SIZE)})

    @classmethod
    def from_file(cls, path: Path | str) -> MasterKeys:
        """The keys in a file: lines of an id and a key in base64, ``#`` for comments, the one that wraps first.

        Raises `ConfigurationError` with the number of the line; also for a file that the group or others may read or
        write.
        """
        try:
            with open(path, "rb") as file:
                mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
                if os.name == "posix" and mode & 0o077:
                    raise ConfigurationError(
                        f"the master key file {path} is open to others (mode {mode:04o}): chmod 600 {path}"
                    )
                text = file.read(_MOST + 1)
        except OSError as error:
            raise ConfigurationError(f"the master key file {path} cannot be read: {error.strerror}") from error
        if len(text) > _MOST:
            raise ConfigurationError(f"the master key file {path} is larger than {_MOST} bytes: it is something else")
        return cls._parse(text.decode("ascii", "replace").splitlines(), str(path))

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> MasterKeys | None:
        """The keys that ``SOJOURN_MASTER_KEY_FILE`` names or ``SOJOURN_MASTER_KEY`` holds (as such a file does, or
        with commas between them); None where neither is set. Raises `ConfigurationError`."""
        path, text = environment.get(FILE_VARIABLE), environment.get(KEY_VARIABLE)
        if path and text:
            raise ConfigurationError(f"{FILE_VARIABLE} and {KEY_VARIABLE} are both set: keep one of them")
        if path:
            return cls.from_file(path)
        return cls._parse(text.replace(",", "\n").splitlines(), KEY_VARIABLE) if text else None

    def write_new(self, path: Path | str) -> None:
        """Writes the keys to a new file that only its owner may read. Raises `ConfigurationError` where there is one
        already: what a lost master key wrapped is lost, too."""
        lines = [f"{id} {b64encode(secret).decode()}\n" for id, secret in self._keys.items()]
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            raise ConfigurationError(
                f"{path} is there already and is left as it is: a master key that is overwritten is lost, and with it "
                "every personal value"
            ) from None
        except OSError as error:
            raise ConfigurationError(f"the master key file {path} cannot be written: {error.strerror}") from error
        with open(descriptor, "w", encoding="ascii") as file:
            file.write("# Master keys of Sojourn. The first one wraps, all unwrap. Keep a copy in a safe place.\n")
            file.writelines(lines)
            file.flush()
            os.fsync(file.fileno())

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids, the one that wraps first."""
        return tuple(self._keys)

    @property
    def first(self) -> str:
        """The id of the key that wraps."""
        return next(iter(self._keys))

    def __contains__(self, id: object) -> bool:
        return id in self._keys

    def __repr__(self) -> str:
        return f"MasterKeys({', '.join(self._keys)})"

    def __reduce__(self) -> str:
        raise TypeError("master keys are not to be pickled or copied")

    def wrap(self, secret: bytes, owner: str) -> bytes:
        """The secret, encrypted with the first key and bound to ``owner``, which says whose it is and where."""
        nonce = os.urandom(_NONCE)
        return nonce + cipher(self._keys[self.first]).encrypt(nonce, secret, _bound(self.first, owner))

    def unwrap(self, id: str, wrapped: bytes, owner: str) -> bytes | None:
        """What `wrap` made of, with the key of that id, which is here; None for anything else."""
        try:
            return cipher(self._keys[id]).decrypt(wrapped[:_NONCE], wrapped[_NONCE:], _bound(id, owner))
        except Exception:  # noqa: BLE001 - the cipher has no reason but this one; its error class is a heavy import
            return None

    def check_value(self, id: str, namespace: str) -> str:
        """What tells two keys of the same id apart and says nothing about either."""
        return hmac.new(self._keys[id], f"sojourn master key check\0{namespace}".encode(), sha256).hexdigest()

    @classmethod
    def _parse(cls, lines: Iterable[str], place: str) -> MasterKeys:
        keys: dict[str, bytes] = {}
        for number, line in enumerate(lines, start=1):
            words = line.partition("#")[0].split()
            if not words:
                continue
            if len(words) != 2 or not _ID.fullmatch(words[0]):
                raise ConfigurationError(
                    f"{place}, line {number}: expected an id (a-z, 0-9, '-') and a key in base64, with a space between"
                )
            id, text = words
            if id in keys:
                raise ConfigurationError(
                    f"{place}, line {number}: the id {id} stands there twice; ids are never reused"
                )
            keys[id] = _key(text, f"{place}, line {number}")
        if not keys:
            raise ConfigurationError(f"{place} holds no master key: a line is an id and a key in base64")
        return cls(keys)


def _key(text: str, place: str) -> bytes:
    try:
        secret = b64decode(text, validate=True)
    except ValueError:
        raise ConfigurationError(f"{place}: the key is no base64") from None
    if len(secret) != _SIZE:
        raise ConfigurationError(
            f"{place}: the key has {len(secret)} bytes, not {_SIZE}; `MasterKeys.new().write_new(path)` makes one"
        )
    return secret


def _bound(id: str, owner: str) -> bytes:
    return f"sojourn data key\0{id}\0{owner}".encode()
