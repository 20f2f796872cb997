"""One processor and one key: its lane and its resident, opened from the log."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from sojourn.bus.envelope import decode
from sojourn.bus.event import Event
from sojourn.bus.lane import Lane, Writer
from sojourn.bus.personal.key import UnknownKeyError, handle, handling
from sojourn.bus.ports import Stored
from sojourn.bus.processor import Processor, Recorded, Resident
from sojourn.bus.reading import Reader, UnknownVersionError

log = structlog.get_logger("sojourn.worker")


@dataclass(slots=True)
class Member:
    """One processor of a group, for one key. ``seen``: the sequence up to which its state was shown all events;
    ``whole``: nothing is missing from it, and nothing in it is still to be handled."""

    processor: Processor
    writer: Writer
    lane: Lane
    resident: Resident
    seen: int
    whole: bool

    def reads(self, tokens: Sequence[str]) -> bool:
        """Whether a message of the log, its subject split into tokens, is for this processor."""
        if tokens[4] == "evt" and len(tokens) > 6:
            return tokens[6] == self.writer.name
        if tokens[4] == "act" and tokens[5] == self.writer.name:
            return False
        return tokens[-1] in self.processor.handles or tokens[-1] in self.processor.folds

    def replay(self, message: Stored, upto: int, reader: Reader) -> None:
        """Takes a stored message of the key into account: own ones wholly, others below the sequence ``upto``.

        What cannot be read or folded is left out: it became a dead letter when it was delivered, and the state went on
        without it. Raises `UnknownKeyError` and `UnknownVersionError` where ``reader`` lacks what it takes.
        """
        tokens = message.subject.split(".")
        room, family = tokens[1], tokens[4]
        own = family == "act" and len(tokens) > 6 and tokens[5] == self.writer.name
        if room == "timer" or family not in ("act", "evt"):
            return
        if own:
            self._extend(message)
        if room != "log" or len(tokens) != (7 if family == "act" else 6):
            return
        cls = self.processor.folds.get(tokens[-1])
        if cls is None or (not own and message.sequence >= upto):
            return
        try:
            envelope = decode(message.payload, cls, reader)
            if own:
                cause = envelope.cause_sequence or message.sequence
                self.resident.acted(Recorded(envelope, message.sequence, self.writer.name), cause)
            else:
                writer = tokens[5] if family == "act" else None
                self.resident.observe(Recorded(envelope, message.sequence, writer))
        except (UnknownKeyError, UnknownVersionError):
            raise
        except Exception as error:  # noqa: BLE001 - folds are user code
            log.debug("left out of the state", sequence=message.sequence, error=type(error).__name__)

    def told(self, payload: bytes, sequence: int, cls: type[Event], reader: Reader, cause: int) -> None:
        """Takes an action that was just stored into the state."""
        # Called by the transport: nobody is being handled there as far as the logs know.
        before = handle(reader.key)
        try:
            # Decoded again, so that the state is the same as the one folded from the log.
            self.resident.acted(Recorded(decode(payload, cls, reader), sequence, self.writer.name), cause)
        except Exception:
            # It is stored and stands; the state goes on without it, now as after a reload.
            log.exception("an action cannot be folded", agent=self.writer.name, sequence=sequence, type=cls.__name__)
        finally:
            handling.reset(before)

    def _extend(self, message: Stored) -> None:
        lane = self.lane
        closed = lane.closed
        try:
            lane.replay(message)
            if lane.closed >= message.sequence:
                raise ValueError(f"it claims to close {lane.closed}, which comes after it")
        except Exception as error:  # noqa: BLE001 - whatever somebody else wrote there, the key must go on
            lane.tail, lane.closed = message.sequence, closed
            log.warning(
                "unreadable record in a lane is left out",
                agent=self.writer.name,
                subject=message.subject,
                sequence=message.sequence,
                error=type(error).__name__,
            )
