"""The administration of streams over the JetStream API."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from sojourn.bus.errors import ConfigurationError
from sojourn.bus.grammar import check_name
from sojourn.bus.nats.connection import Connection
from sojourn.bus.nats.faults import (
    DELETE_FAILED,
    NO_MESSAGE,
    NO_SEQUENCE,
    NO_STREAM,
    STREAM_EXISTS,
    RefusedError,
    meaning,
)
from sojourn.bus.nats.times import nanoseconds
from sojourn.bus.ports import StreamSpec, StreamState

_AT_ONCE = 64
"""Deletions in flight."""


class NatsStreams:
    """`sojourn.bus.ports.Streams` over JetStream."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def create_stream(self, spec: StreamSpec) -> None:
        """Creates the stream or leaves the same one. See `sojourn.bus.ports.Streams.create_stream`."""
        config: dict[str, Any] = {
            "name": check_name(spec.name),
            "subjects": list(spec.subjects),
            "storage": "file",
            "compression": "s2",
            "discard": "old",
            "allow_direct": True,
            "metadata": dict(spec.metadata),
        }
        if spec.log:
            config |= {"allow_atomic": True, "allow_msg_schedules": True, "allow_msg_ttl": True}
        await ensure_stream(self._connection, config)

    async def stream_state(self, name: str) -> StreamState | None:
        """The stream's state from its leader, or None."""
        try:
            info = await self._connection.request(f"STREAM.INFO.{check_name(name)}")
        except RefusedError as error:
            if error.code == NO_STREAM:
                return None
            raise meaning(error, name) from error
        state = info["state"]
        last: int = state["last_seq"]
        first: int = state["first_seq"] if state["messages"] else last + 1
        metadata = info["config"].get("metadata") or {}
        own = {key: value for key, value in metadata.items() if not key.startswith("_nats.")}
        return StreamState(first, last, state["messages"], own, nanoseconds(info["ts"]))

    async def delete_stream(self, name: str) -> None:
        """Deletes the stream and everything in it; one that is not there is no error."""
        try:
            await self._connection.request(f"STREAM.DELETE.{check_name(name)}")
        except RefusedError as error:
            if error.code != NO_STREAM:
                raise meaning(error, name) from error

    async def delete_messages(self, stream: str, sequences: Sequence[int]) -> None:
        """Deletes single messages securely; those already gone are no error."""
        for start in range(0, len(sequences), _AT_ONCE):
            part = sequences[start : start + _AT_ONCE]
            outcomes = await asyncio.gather(*(self._delete(stream, one) for one in part), return_exceptions=True)
            for outcome in outcomes:
                if outcome is not None:
                    raise outcome

    async def purge(self, stream: str, upto: int) -> None:
        """Deletes every message up to the sequence ``upto``. See `sojourn.bus.ports.Streams.purge`."""
        if upto < 1:
            return  # The server would take 1 for everything.
        try:
            await self._connection.request(f"STREAM.PURGE.{check_name(stream)}", {"seq": upto + 1})
        except RefusedError as error:
            raise meaning(error, stream) from error

    async def _delete(self, stream: str, sequence: int) -> None:
        query = {"seq": sequence, "no_erase": False}
        try:
            await self._connection.request(f"STREAM.MSG.DELETE.{check_name(stream)}", query)
        except RefusedError as error:
            if error.code == NO_SEQUENCE:
                return
            # This code stands for "not there" and for "could not" (nats-server 2.15.1).
            if error.code != DELETE_FAILED or await self._there(stream, sequence):
                raise meaning(error, stream) from error

    async def _there(self, stream: str, sequence: int) -> bool:
        try:
            await self._connection.request(f"STREAM.MSG.GET.{stream}", {"seq": sequence})
        except RefusedError as error:
            return error.code != NO_MESSAGE
        return True

    async def streams(self, prefix: str = "") -> list[str]:
        """Names of the streams that start with ``prefix``, sorted."""
        names: list[str] = []
        while True:
            try:
                page = await self._connection.request("STREAM.NAMES", {"offset": len(names)})
            except RefusedError as error:
                raise meaning(error, "streams") from error
            found = page.get("streams") or []
            names += found
            if not found or len(names) >= page["total"]:
                return sorted(name for name in names if name.startswith(prefix))


async def ensure_stream(connection: Connection, config: dict[str, Any]) -> dict[str, Any]:
    """Creates the stream of that configuration; one of that name with the same subjects is left as it is.

    Returns the configuration that it has. Raises `ConfigurationError` where it has other subjects, or another stream
    has some of them."""
    name = config["name"]
    try:
        info = await connection.request(f"STREAM.CREATE.{name}", config)
    except RefusedError as error:
        if error.code != STREAM_EXISTS:
            raise meaning(error, name) from error
        there = await _config(connection, name)
        subjects = set(there.get("subjects") or ())
        if subjects != set(config["subjects"]):
            raise ConfigurationError(
                f"stream {name} is there with other subjects: {', '.join(sorted(subjects))} instead of "
                f"{', '.join(sorted(config['subjects']))}; use another namespace, or delete the stream"
            ) from error
        return there
    created: dict[str, Any] = info["config"]
    return created


async def _config(connection: Connection, name: str) -> dict[str, Any]:
    try:
        config: dict[str, Any] = (await connection.request(f"STREAM.INFO.{name}"))["config"]
    except RefusedError as error:
        raise meaning(error, name) from error
    return config
