"""How stored documents are shown: personal values hidden, and in the version of the code where that is at hand."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from sojourn.bus.errors import DecodeError, SchemaError
from sojourn.bus.personal.key import SEALED
from sojourn.bus.personal.scrubbing import HIDDEN

if TYPE_CHECKING:
    from sojourn.bus.catalog import Catalog
    from sojourn.bus.event import Event
    from sojourn.bus.reading import Reader

_SEALED = re.compile(rf"{SEALED}[A-Za-z0-9_-]{{1,64}}:[A-Za-z0-9_=-]+")


class Lens:
    """Shows documents. With a ``catalog``, those of its types are read through its classes: brought up to the version
    that the code has. Needs no key: whatever is sealed is hidden, erased or not."""

    def __init__(self, catalog: Catalog | None = None, reader: Reader | None = None) -> None:
        self._catalog = catalog
        self._reader = reader

    def show(self, type: str, document: dict[str, Any], payload: bytes) -> tuple[dict[str, Any], str | None]:
        """The document of a ``payload`` as it is shown, and why it could not be read through its class, if so: then it
        is shown as it is stored."""
        cls = self._catalog.get(type) if self._catalog is not None else None
        trouble = None
        if cls is not None and self._reader is not None:
            try:
                return hidden(_read(cls, document, payload, self._reader)), None
            except (SchemaError, DecodeError) as error:
                trouble = " ".join(str(error).split())
        return hidden(document), trouble


AS_STORED = Lens()


def hidden(value: Any) -> Any:  # noqa: ANN401 - what JSON holds
    """A copy of a JSON value with ``•••`` in place of whatever is sealed."""
    if isinstance(value, str):
        return _SEALED.sub(HIDDEN, value) if SEALED in value else value
    if isinstance(value, dict):
        return {hidden(name): hidden(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [hidden(inner) for inner in value]
    return value


def _read(cls: type[Event], document: dict[str, Any], payload: bytes, reader: Reader) -> dict[str, Any]:
    from sojourn.bus.envelope import decode
    from sojourn.bus.event import spec_of

    envelope, spec = decode(payload, cls, reader), spec_of(cls)
    erased = set(envelope.erased)
    if erased and envelope.schema_version != spec.version:
        # Upcasters may have given what is personal another name.
        erased |= set(spec.personal)
    erased |= {alias for name in erased if (alias := _alias(cls, name)) is not None}
    data = envelope.event.model_dump(mode="json", by_alias=True)
    shown = {**document, "data": _veiled(data, erased)}
    if envelope.schema_version != spec.version:
        shown |= {
            "schemaversion": spec.version,
            "dataschema": f"urn:sojourn:{spec.type}:{spec.version}",
            "storedversion": envelope.schema_version,
        }
    return shown


def _alias(cls: type[Event], name: str) -> str | None:
    info = cls.model_fields.get(name)
    return info.serialization_alias if info is not None else None


def _veiled(value: Any, names: set[str], name: str = "") -> Any:  # noqa: ANN401 - what JSON holds
    """The data with ``•••`` where None stands for a value of one of these names."""
    if value is None and name in names:
        return HIDDEN
    if isinstance(value, dict):
        return {field: _veiled(inner, names, field) for field, inner in value.items()}
    if isinstance(value, list):
        return [_veiled(inner, names, name) for inner in value]
    return value
