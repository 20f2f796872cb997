"""What the bucket ``{NS}_keys`` holds, and how it is read with the master keys.

``key.{customer}`` is a customer's wrapped key, ``erased.{customer}`` a marker that it was destroyed, ``master.{id}`` a
check value of each master key that wraps something. Customers are escaped as in subjects.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from datetime import UTC, datetime
from typing import NamedTuple

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from sojourn.bus.envelope import problems
from sojourn.bus.errors import ConfigurationError
from sojourn.bus.personal.master import HOW_TO_GIVE, MasterKeys
from sojourn.bus.subjects import Namespace, escape_key

KEY = "key."
ERASED = "erased."
MASTER = "master."


class KeyRecord(BaseModel):
    """A customer's key as it is stored: ``wrapped`` by the master key of that id, in base64."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    id: str
    master: str
    wrapped: str
    created: AwareDatetime


class Secret(NamedTuple):
    """A customer's key, unwrapped. Its ``repr`` hides the bytes."""

    id: str
    secret: bytes

    def __repr__(self) -> str:
        return f"Secret({self.id!r})"


class Records:
    """Writes and reads the records of one namespace."""

    def __init__(self, namespace: Namespace, master: MasterKeys | None) -> None:
        self.namespace = namespace.name
        self.bucket = namespace.bucket("keys")
        self._master = master

    @property
    def has_master(self) -> bool:
        """Whether there are master keys."""
        return self._master is not None

    @property
    def master(self) -> MasterKeys:
        """The master keys. Raises `ConfigurationError` where there are none."""
        if self._master is None:
            raise ConfigurationError(
                f"namespace {self.namespace} has personal data, which needs a master key, and there is none: "
                f"{HOW_TO_GIVE}"
            )
        return self._master

    def write(self, customer: str, key: Secret, *, created: datetime | None = None) -> bytes:
        """The record of a key, wrapped by the first master key."""
        master = self.master
        wrapped = b64encode(master.wrap(key.secret, self._owner(customer, key.id))).decode()
        record = KeyRecord(id=key.id, master=master.first, wrapped=wrapped, created=created or datetime.now(UTC))
        return record.model_dump_json().encode()

    def read(self, customer: str, value: bytes) -> Secret:
        """The key in a record. Raises `ConfigurationError`: no master key, not this one, or a damaged record."""
        record = self.parse(customer, value)
        if record.master not in self.master:
            raise ConfigurationError(
                f"{self._place(customer)} is wrapped by the master key {record.master}, which is not among those given "
                f"({', '.join(self.master.ids)}): this customer's personal fields stay unreadable until the master "
                "key file holds it again"
            )
        try:
            wrapped = b64decode(record.wrapped, validate=True)
        except ValueError:
            wrapped = b""
        secret = self.master.unwrap(record.master, wrapped, self._owner(customer, record.id))
        if secret is None:
            raise ConfigurationError(
                f"{self._place(customer)} does not open with the master key {record.master}: the entry is damaged or "
                "was moved there, or the master key of that name is another one"
            )
        return Secret(record.id, secret)

    def parse(self, customer: str, value: bytes) -> KeyRecord:
        """The record as it is stored. Raises `ConfigurationError`."""
        try:
            return KeyRecord.model_validate_json(value)
        except ValidationError as error:
            raise ConfigurationError(
                f"{self._place(customer)} cannot be read: {problems(error, of=KeyRecord)}. "
                "Restore the entry, or erase the customer"
            ) from None

    def _place(self, customer: str) -> str:
        return f"the entry {KEY}{escape_key(customer)} of the bucket {self.bucket}"

    def _owner(self, customer: str, id: str) -> str:
        return f"{self.namespace}\0{customer}\0{id}"
