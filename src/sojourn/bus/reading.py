"""What it takes to read one customer's documents: the customer's key, and what is known of newer schemas."""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from sojourn.bus.errors import UnknownTypeError
from sojourn.bus.event import Event
from sojourn.bus.personal.field import Unsealing
from sojourn.bus.personal.key import CustomerKey, UnknownKeyError

if TYPE_CHECKING:
    from sojourn.bus.personal.keyring import KeyRing
    from sojourn.bus.schemas.store import Schemas

R = TypeVar("R")


class UnknownVersionError(UnknownTypeError):
    """A version newer than the code's own, of which this process has not seen the schema yet."""


@dataclass(slots=True)
class Reader:
    """Reads documents of one customer, or, without a key, what is not personal in those of any.

    ``certain``: the key was fetched after the documents were stored, so a sealed value of another key is of one that
    was destroyed, and reads None. ``gone``: the ids of keys that are known to be destroyed.
    """

    schemas: Schemas | None = None
    key: CustomerKey | None = None
    certain: bool = True
    gone: Container[str] = ()

    def unsealing(self) -> Unsealing:
        """What opens the personal values of one document."""
        return Unsealing(self.key, certain=self.certain, gone=self.gone)

    def check_newer(self, cls: type[Event], version: int) -> None:
        """Raises `UnknownTypeError` where code that knows ``cls`` cannot read a document of that newer version."""
        name = cls.__name__
        known = cls.__sojourn__.version if cls.__sojourn__ is not None else 0
        newer = f"{name} version {version} is newer than version {known}, which this code knows"
        if self.schemas is None:
            raise UnknownTypeError(f"{newer}: update the code that reads it", type=name)
        try:
            reason = self.schemas.newer(cls, version)
        except LookupError:
            raise UnknownVersionError(f"{newer}, and is not registered", type=name) from None
        if reason is not None:
            raise UnknownTypeError(f"{newer}, and cannot be read as that: {reason}. Update the code", type=name)


NOBODY = Reader()
"""Reads what needs no key: personal values read None."""


async def read_as(reader: Reader, keys: KeyRing, customer: str, read: Callable[[], R]) -> R:
    """What ``read`` returns, which decodes documents of ``customer`` with ``reader``; fetches the key or the schemas
    that it turns out to lack, and has it read again.

    Raises what ``read`` raises, and what fetching does: `UnavailableError`, `ConfigurationError`.
    """
    refreshed: set[str] = set()
    reader.gone = keys.gone
    try:
        while True:
            try:
                return read()
            except UnknownKeyError as error:
                if reader.certain:
                    raise
                reader.key = await keys.seek(customer, error.id)
                reader.certain = True
            except UnknownVersionError as error:
                if error.type in refreshed or reader.schemas is None:
                    raise UnknownTypeError(str(error), type=error.type) from None
                refreshed.add(error.type)
                await reader.schemas.refresh(error.type)
    finally:
        # The next document may be sealed with a key that is made only now.
        reader.certain = False
