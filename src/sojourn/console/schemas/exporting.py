"""Writes what is registered for other tools."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sojourn.bus.errors import ConfigurationError
from sojourn.bus.schemas.export.asyncapi import asyncapi
from sojourn.bus.schemas.export.bundle import jsonschema_bundle, jsonschema_files
from sojourn.console.failures import note, several
from sojourn.console.options import Settings
from sojourn.console.output import write
from sojourn.console.session import with_bus
from sojourn.console.terminal import is_terminal

if TYPE_CHECKING:
    from sojourn.bus.client import Bus
    from sojourn.bus.registry import Registration
    from sojourn.bus.schemas.records import SchemaRecord
    from sojourn.bus.subjects import Namespace


def export_to(
    settings: Settings, target: str | None, kind: Literal["asyncapi", "jsonschema"], *, title: str | None, edition: str
) -> None:
    """Writes the document to ``target``, or to standard output; JSON Schemas in a folder are a file each. Raises
    `ConfigurationError` where that cannot be written."""
    title = title or f"Events of {settings.namespace}"

    async def work(bus: Bus) -> tuple[Namespace, list[Registration], list[SchemaRecord]]:
        return bus.namespace, await bus.registry.writers(), await bus.schemas.records()

    namespace, writers, records = with_bus(settings, work)
    if not records:
        note(f"no event type is registered in namespace {settings.namespace}")
    into_folder = target is not None and (target.endswith("/") or Path(target).is_dir())
    if kind == "jsonschema" and target is not None and into_folder:
        _write_all(Path(target), jsonschema_files(records))
        return
    if target is not None and into_folder:
        raise ConfigurationError(f"an AsyncAPI document is one file, and {target} is a folder: name a file in it")
    document = (
        asyncapi(namespace, writers, records, title=title, version=edition)
        if kind == "asyncapi"
        else jsonschema_bundle(records, title=title)
    )
    if target is None:
        write(_text(document, ascii=is_terminal(sys.stdout)))
        return
    _write_file(Path(target), document)
    note(f"{target}: {several(len(records), 'event type')}")


def _write_all(folder: Path, documents: dict[str, Any]) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"{folder} cannot be made: {error.strerror}") from error
    for name, document in documents.items():
        _write_file(folder / name, document)
    note(f"{folder}: {several(len(documents), 'file')}")


def _write_file(path: Path, document: dict[str, Any]) -> None:
    try:
        path.write_text(_text(document, ascii=False), encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be written: {error.strerror}") from error


def _text(document: dict[str, Any], *, ascii: bool) -> str:
    return json.dumps(document, indent=2, ensure_ascii=ascii) + "\n"
