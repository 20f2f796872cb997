"""Master keys at hand, and what they wrap on the server."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from sojourn.bus.client import Bus
from sojourn.bus.errors import ConfigurationError
from sojourn.bus.personal.loss import Loss
from sojourn.bus.personal.master import MasterKeys
from sojourn.bus.personal.records import KEY, Records
from sojourn.bus.subjects import unescape_key
from sojourn.console.failures import note, several
from sojourn.console.options import Form, Settings
from sojourn.console.output import Column, write, write_facts, write_json, write_json_lines, write_table
from sojourn.console.session import master_keys


class Status(NamedTuple):
    """The ids of the master keys ``at_hand``, the one that wraps first, and how many customers' keys each id wraps,
    those not at hand included. ``trouble`` says what does not fit."""

    at_hand: tuple[str, ...]
    wraps: dict[str, int]
    trouble: str | None

    @property
    def first(self) -> str:
        """The id of the key that wraps, or an empty text."""
        return self.at_hand[0] if self.at_hand else ""

    @property
    def to_rotate(self) -> int:
        """How many customers' keys are wrapped by another key than the first."""
        return sum(count for id, count in self.wraps.items() if id != self.first)

    def facts(self) -> list[dict[str, Any]]:
        """The master keys for programs."""
        ids = [*self.at_hand, *sorted(self.wraps.keys() - {*self.at_hand})]
        return [
            {"id": id, "at_hand": id in self.at_hand, "first": id == self.first, "wraps": self.wraps.get(id, 0)}
            for id in ids
        ]


def write_keys(file: Path, id: str | None, keep: Path | None) -> tuple[str, ...]:
    """Writes a file with a new key, above those of the file ``keep``, and returns their ids. Raises
    `ConfigurationError`."""
    kept = _read(keep) if keep is not None else {}
    if id is None:
        id = next(name for number in range(1, len(kept) + 2) if (name := f"master-{number}") not in kept)
    if id in kept:
        raise ConfigurationError(f"{keep} has a key {id} already: ids are never reused, choose another --id")
    fresh = MasterKeys.new(id)
    fresh.write_new(file)
    if kept:
        with file.open("a", encoding="ascii") as written:
            written.writelines(f"{name} {text}\n" for name, text in kept.items())
    return MasterKeys.from_file(file).ids


def at_hand(settings: Settings) -> MasterKeys | None:
    """The master keys that the bus works with. Raises `ConfigurationError`."""
    given = master_keys(settings)
    if given is None and settings.server is None:
        # As `connect` does: beside an embedded server there is one.
        return MasterKeys.from_file(settings.store / "master.key")
    return given


async def look(bus: Bus, settings: Settings) -> Status:
    """What is at hand, and what is wrapped."""
    given = at_hand(settings)
    trouble = None
    try:
        await bus.keys.verify()
    except ConfigurationError as error:
        trouble = str(error)
    wraps: Counter[str] = Counter()
    name = bus.namespace.bucket("keys")
    # Not made for a question.
    if f"KV_{name}" in await bus.transport.streams(f"KV_{name}"):
        bucket = await bus.transport.bucket(name, erasable=True)
        records = Records(bus.namespace, given)
        for entry in await bucket.entries(KEY):
            if entry.value is not None:
                wraps[records.parse(unescape_key(entry.key.removeprefix(KEY)), entry.value).master] += 1
    return Status(given.ids if given is not None else (), dict(wraps), trouble)


def tell_status(status: Status, namespace: str, output: Form) -> None:
    """Tells which master keys are there, and what they wrap."""
    facts = status.facts()
    if output == "json":
        write_json("master-keys/1", {"namespace": namespace, "trouble": status.trouble, "master_keys": facts})
    elif output == "jsonl":
        write_json_lines("master-key/1", facts)
    elif facts:
        columns = [Column("master key"), Column("at hand"), Column("wraps", right=True), Column("")]
        rows = [
            (
                one["id"],
                "yes" if one["at_hand"] else "no",
                f"{one['wraps']:,}",
                "wraps new keys" if one["first"] else "" if one["wraps"] else "wraps nothing any more",
            )
            for one in facts
        ]
        write_table(columns, rows)
    else:
        note("there is no master key, and no customer has a key; `sojourn keys new FILE` makes one")


def tell_rotation(rotated: int, status: Status, namespace: str, output: Form) -> None:
    """Tells what a rotation did."""
    idle = [id for id in status.at_hand if id != status.first and not status.wraps.get(id)]
    if output == "text":
        write(f"{several(rotated, 'key')} wrapped anew, with {status.first}\n")
        if idle:
            note(f"{', '.join(idle)} wrap{'s' if len(idle) == 1 else ''} nothing any more and may leave the file")
        return
    facts = {"namespace": namespace, "rotated": rotated, "master_keys": status.facts()}
    if output == "json":
        write_json("key-rotation/1", facts)
    else:
        write_json_lines("key-rotation/1", [facts])


def to_forget(loss: Loss) -> str:
    """What goes with a lost master key, in words."""
    count = len(loss.customers)
    if not count:
        return "what is known of it: it wraps nothing"
    return f"{several(count, 'data key')} that only it opens; what {'it' if count == 1 else 'they'} sealed reads None"


def tell_loss(loss: Loss, erased: int | None, namespace: str, output: Form) -> None:
    """Tells what forgetting a master key erased; None: only what it would."""
    dry = erased is None
    facts = {
        "namespace": namespace,
        "master_key": loss.master,
        "dry_run": dry,
        "data_keys": len(loss.customers) if erased is None else erased,
    }
    if output == "json":
        write_json("forgotten-key/1", facts)
    elif output == "jsonl":
        write_json_lines("forgotten-key/1", [facts])
    else:
        told = [("master key", loss.master)]
        told.append(("to erase" if dry else "erased", to_forget(loss)))
        told.append(("stays", "what happened, when and how often, without those personal values"))
        if not dry:
            told.append(("processes", "drop what they made of them within a second, and start without that master key"))
        write_facts(told)
        if dry:
            note("nothing was erased: --yes does it")


def _read(file: Path) -> dict[str, str]:
    """The keys of a file as they are written there, by their ids. Raises `ConfigurationError`."""
    ids = MasterKeys.from_file(file).ids
    lines = [line.partition("#")[0].split() for line in file.read_text(encoding="ascii").splitlines()]
    found = {words[0]: words[1] for words in lines if words}
    assert tuple(found) == ids
    return found
