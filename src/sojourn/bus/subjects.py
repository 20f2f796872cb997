"""The grammar of subjects: where a customer's events, actions, lanes and timers live.

``{ns}.{room}.{p}.{key}.…``, where the room is ``log``, ``lane`` or ``timer``, ``p`` the partition of the escaped key.
See docs/design.md, section 4, for the whole table.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from sojourn.bus.errors import ConfigurationError, DecodeError
from sojourn.bus.naming import check_token

MAX_KEY = 512
"""The longest escaped key, in bytes: with its writer and type it stays far below the server's control line of 4,096."""

NO_KEY = "="
"""Stands where a document had no usable key. No escaped key is equal to it."""

RELAYS = "relays"
"""The group that takes events to other customers. Nobody else may be named so."""

_PLAIN = re.compile(r"[A-Za-z0-9_-]+")
_ESCAPED = re.compile(r"(?:[A-Za-z0-9_-]|=[0-9A-F]{2})+")


@lru_cache(maxsize=65_536)
def escape_key(key: str) -> str:
    """The key as one subject token: letters, digits, ``_`` and ``-`` stay, any other byte of its UTF-8 becomes ``=XX``.

    Reversible by `unescape_key`. Raises `ValueError` for a key that is empty, longer than 512 bytes escaped, or no
    Unicode text.
    """
    if _PLAIN.fullmatch(key):
        token = key
    else:
        try:
            raw = key.encode()
        except UnicodeEncodeError:
            raise ValueError("a key must be Unicode text without lone surrogates") from None
        token = "".join(chr(b) if b < 128 and _PLAIN.match(chr(b)) else f"={b:02X}" for b in raw)
    if not token:
        raise ValueError("a key must not be empty")
    if len(token) > MAX_KEY:
        raise ValueError(f"a key has at most {MAX_KEY} bytes once escaped; this one has {len(token)}")
    return token


def unescape_key(token: str) -> str:
    """The key behind a subject token. Raises `DecodeError` for a token that `escape_key` does not produce."""
    try:
        if not _ESCAPED.fullmatch(token):
            raise ValueError
        raw = re.sub(rb"=([0-9A-F]{2})", lambda m: bytes([int(m[1], 16)]), token.encode())
        key = raw.decode()
        if escape_key(key) != token:
            raise ValueError
    except ValueError:
        raise DecodeError(f"{token[:600]!r} is not an escaped key") from None
    return key


def check_key(key: str) -> str:
    """Returns ``key`` if it can be escaped; raises `ValueError`."""
    escape_key(key)
    return key


def fnv1a(token: str) -> int:
    """FNV-1a, 32 bits, of the token's bytes. Source: what nats-server's ``partition`` transform uses."""
    value = 2166136261
    for byte in token.encode():
        value = (value ^ byte) * 16777619 & 0xFFFFFFFF
    return value


def relay_writer(writer: str, source: str) -> str:
    """Whose lane holds what ``writer`` did for a customer while it handled another, whose escaped key is ``source``."""
    return f"{writer}~{source}"


def split_writer(token: str) -> tuple[str, str | None]:
    """The agent or saga behind a writer's token, and the escaped key of the customer it handled, where that was another
    one than the action's."""
    writer, _, source = token.partition("~")
    return writer, source or None


class Address(NamedTuple):
    """Where one customer's messages live. ``token`` is the escaped key."""

    key: str
    token: str
    partition: int
    stream: str


class LogSubject(NamedTuple):
    """A subject of the log, taken apart.

    ``family`` is ``evt``, ``due``, ``redrive`` or ``act``; ``writer`` is whose it is (of a due or redriven message:
    whom it is for; of an action from another customer's handling, see `split_writer`), None for behaviour; ``name`` is
    the event type, the timer's name or the dead letter's sequence.
    """

    partition: int
    token: str
    family: str
    writer: str | None
    name: str


def parse_log_subject(subject: str) -> LogSubject | None:
    """Takes a subject of the log apart; None for anything else."""
    tokens = subject.split(".")
    if len(tokens) < 6 or tokens[1] != "log" or not tokens[2].isdecimal():
        return None
    partition, token = int(tokens[2]), tokens[3]
    match tokens[4:]:
        case ["evt", "due" | "redrive" as family, writer, *rest] if rest:
            return LogSubject(partition, token, family, writer, ".".join(rest))
        case ["evt", name]:
            return LogSubject(partition, token, "evt", None, name)
        case ["act", writer, name]:
            return LogSubject(partition, token, "act", writer, name)
    return None


@dataclass(frozen=True)
class Namespace:
    """One bus among several on a server: its name, and how its customers are spread.

    ``partitions`` is the unit of ownership by workers, ``shards`` the unit of storage and of fsync; both are fixed
    when the namespace is created. Raises `ConfigurationError` for an unusable name, and where a shard would hold no
    partition.
    """

    name: str = "sojourn"
    partitions: int = 32
    shards: int = 4

    def __post_init__(self) -> None:
        check_token("namespace", self.name)
        if not 1 <= self.shards <= self.partitions:
            raise ConfigurationError(
                f"namespace {self.name}: {self.partitions} partitions cannot be spread over {self.shards} shards: "
                "there is at least one shard, and at least one partition for each"
            )

    @property
    def prefix(self) -> str:
        """What the namespace's streams and buckets start with."""
        return self.name.upper()

    @property
    def ingress_stream(self) -> str:
        """The stream of foreign documents."""
        return f"{self.prefix}_IN"

    @property
    def ingress_filter(self) -> str:
        return f"{self.name}.in.>"

    def bucket(self, name: str) -> str:
        return f"{self.prefix}_{name}"

    def shard_of(self, partition: int) -> int:
        return partition % self.shards

    def stream(self, partition: int) -> str:
        """The stream that holds a partition."""
        return f"{self.prefix}_{partition % self.shards}"

    def shard_stream(self, shard: int) -> str:
        return f"{self.prefix}_{shard}"

    @property
    def streams(self) -> list[str]:
        return [f"{self.prefix}_{shard}" for shard in range(self.shards)]

    def stream_subjects(self, shard: int) -> tuple[str, ...]:
        """What the stream of a shard listens to."""
        mine = [p for p in range(self.partitions) if p % self.shards == shard]
        rooms = tuple(f"{self.name}.{room}.{p}.>" for p in mine for room in ("log", "lane", "timer"))
        return (*rooms, f"{self.name}.cursor.*.{shard}")

    def locate(self, key: str) -> Address:
        """Where a customer lives. Raises `ValueError` for a key that cannot be escaped."""
        return self.locate_token(key, escape_key(key))

    def locate_token(self, key: str, token: str) -> Address:
        partition = fnv1a_cached(token) % self.partitions
        return Address(key, token, partition, self.stream(partition))

    def event(self, at: Address, type: str) -> str:
        return f"{self.name}.log.{at.partition}.{at.token}.evt.{type}"

    def due(self, at: Address, writer: str, name: str) -> str:
        return f"{self.name}.log.{at.partition}.{at.token}.evt.due.{writer}.{name}"

    def redrive(self, at: Address, writer: str, sequence: int | str) -> str:
        """Where what became of a dead letter stands: ``sequence`` is that of its record. One message at most."""
        return f"{self.name}.log.{at.partition}.{at.token}.evt.redrive.{writer}.{sequence}"

    def action(self, at: Address, writer: str, type: str) -> str:
        return f"{self.name}.log.{at.partition}.{at.token}.act.{writer}.{type}"

    def record(self, at: Address, writer: str, kind: str) -> str:
        return f"{self.name}.lane.{at.partition}.{at.token}.act.{writer}.{kind}"

    def timer(self, at: Address, writer: str, name: str) -> str:
        return f"{self.name}.timer.{at.partition}.{at.token}.{writer}.{name}"

    def lane_filter(self, at: Address, writer: str) -> str:
        """The one canonical filter of a writer's lane; every append of that writer is checked against it."""
        return f"{self.name}.*.{at.partition}.{at.token}.act.{writer}.>"

    def key_filter(self, at: Address) -> str:
        """Everything about one customer: log, lanes and timers."""
        return f"{self.name}.*.{at.partition}.{at.token}.>"

    def story_filter(self, at: Address) -> str:
        """One customer's public story: behaviour and actions."""
        return f"{self.name}.log.{at.partition}.{at.token}.>"

    def partition_filter(self, partition: int, *, actions: bool) -> str:
        """What a group's consumer of a partition sees: behaviour, or everything where it reads other writers'
        actions."""
        return f"{self.name}.log.{partition}.>" if actions else f"{self.name}.log.{partition}.*.evt.>"

    def relay_filter(self, partition: int) -> str:
        """What the relay's consumer of a partition sees: output for other customers."""
        return f"{self.name}.lane.{partition}.*.act.*.relay"

    def group_filter(self, group: str, partition: int, *, actions: bool) -> str:
        """What the consumer of a partition sees, whichever group it is of."""
        return self.relay_filter(partition) if group == RELAYS else self.partition_filter(partition, actions=actions)

    def cursor(self, relay: str, shard: int) -> str:
        return f"{self.name}.cursor.{relay}.{shard}"


fnv1a_cached = lru_cache(maxsize=65_536)(fnv1a)
