"""What was decided about dead letters, as the log tells it: open, redriven or dropped."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import Any, Literal

from sojourn.bus.client import Bus
from sojourn.bus.ports import Stored
from sojourn.bus.verdicts import verdict_facts

Status = Literal["open", "redriven", "dropped"]


@dataclass(slots=True)
class Decisions:
    """What was decided in one stream, by the sequences of the letters' records: some 70 bytes for each that is not
    open any more. ``begun``: foreign documents on their way into another shard, with what `verdicts` says of them."""

    redriven: set[int] = field(default_factory=set)
    dropped: set[int] = field(default_factory=set)
    begun: dict[int, dict[str, Any]] = field(default_factory=dict)

    def take(self, message: Stored) -> None:
        """Takes one message of a redrive subject into account."""
        name = message.subject.rsplit(".", 1)[-1]
        if not name.isdecimal():
            return  # tells of a letter in another stream
        facts = verdict_facts(message.payload)
        match facts["kind"] if facts is not None else None:
            case "drop":
                self.dropped.add(int(name))
            case "file" if facts is not None:
                self.begun[int(name)] = facts
            case _:
                self.redriven.add(int(name))

    async def status(self, bus: Bus, sequence: int) -> Status:
        """What was decided about the letter whose record has that sequence. A document that has not arrived in its
        shard is open."""
        if sequence in self.dropped:
            return "dropped"
        if sequence in self.redriven:
            return "redriven"
        facts = self.begun.get(sequence)
        if facts is not None and await bus.transport.last(facts["stream"], facts["marker"]) is not None:
            return "redriven"
        return "open"


async def decisions(bus: Bus, stream: str, last: int, *, where: str = "*.*", writer: str = "*") -> Decisions:
    """The decisions of a stream up to the sequence ``last``; ``where`` and ``writer`` narrow them as in subjects."""
    found = Decisions()
    pattern = f"{bus.namespace.name}.log.{where}.evt.redrive.{writer}.*"
    async with contextlib.aclosing(bus.transport.follow(stream, pattern, end=last)) as batches:
        async for messages in batches:
            for message in messages:
                found.take(message)
    return found


async def decision(bus: Bus, stream: str, subject: str) -> Decisions:
    """What was decided about one letter, by the ``subject`` on which it would be redriven, as of now."""
    found = Decisions()
    message = await bus.transport.last(stream, subject)
    if message is not None:
        found.take(message)
    return found
