"""Everything that can be done with values is done to personal ones and to controls, and then the disk is searched."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import re
import sqlite3
import sys
from collections.abc import AsyncIterator, Callable, Collection
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any, NamedTuple

import nats
import pytest

from sojourn import CustomerErased
from sojourn.bus.client import Bus
from sojourn.bus.deadletters import original
from sojourn.bus.intake import NOBODY
from sojourn.bus.personal.key import SEALED
from sojourn.bus.personal.master import MasterKeys
from sojourn.bus.personal.records import KEY, KeyRecord, Records
from sojourn.bus.subjects import Namespace, escape_key
from sojourn.state.erasure import erase
from tests.erasure.hunting import Haystack, core, files, personal, token
from tests.erasure.shop import (
    Address,
    CustomerGreeted,
    EmailGiven,
    FormFilled,
    FriendInvited,
    InvitationSent,
    OrderFailed,
    PageVisited,
    SurveyAnswered,
)
from tests.erasure.world import dead, namespace, opened, story, until
from tests.nats_server import NatsServer

ROOT = Path(__file__).parents[2]

WAYS = ("plain", "upper", "json", "repr", "pydantic", "chained", "group", "output", "large")
"""In which a handler fails."""

GIVEN = ("ada", "bob")
"""Customers whose events are handled, kept, folded and projected."""

SOURCE, FRIEND = "sue", "tom"
"""A customer whose handling puts out something for another one, and that one."""

VOLUME = 60
"""Foreign documents of 150 kB: more than a block of a stream, so that the first ones are in one that is compressed."""

FILLERS = 14
"""Events of 700 kB: as much again, so that what came after those is in such a block as well."""


class Things(NamedTuple):
    """What was put into the system."""

    personal: dict[str, str]
    controls: dict[str, str]


class Keys(NamedTuple):
    """A customer's key, in all forms that could be stored."""

    secret: bytes
    wrapped: bytes


def document(type: str, id: int, data: dict[str, Any], **rest: Any) -> bytes:
    return json.dumps(
        {"specversion": "1.0", "id": f"d{id}", "source": "/foreign", "type": type, "data": data, **rest}
    ).encode()


class Foreign:
    """A producer that knows nothing of Sojourn."""

    def __init__(self, server: NatsServer, namespace: Namespace, things: Things) -> None:
        self._server = server
        self._namespace = namespace
        self._things = things
        self._ids = itertools.count()

    def _personal(self, place: str) -> str:
        self._things.personal[place] = value = personal()
        return value

    def _control(self, place: str) -> str:
        self._things.controls[place] = value = token()
        return value

    async def publish(self) -> tuple[int, int]:
        """Returns how many are good, and how many will be dead letters."""
        client = await nats.connect(self._server.url)
        stream = client.jetstream()
        good = bad = 0

        async def send(type: str, data: dict[str, Any], **rest: Any) -> None:
            await stream.publish(f"{self._namespace.name}.in.{type}", document(type, next(self._ids), data, **rest))

        try:
            for customer in GIVEN:
                for type, field in (("FormFilled", "e-mail"), ("FormFilled", "email"), ("SurveyAnswered", "email")):
                    place = f"valid {type} {field} of {customer}"
                    data = {"customer_id": customer, field: self._personal(place), "note": self._control(place)}
                    await send(type, data, extension=self._control(f"attribute of {place}"))
                    good += 1
                unfit: dict[str, dict[str, Any]] = {
                    "does not fit": {
                        "customer_id": customer,
                        "e-mail": self._personal(f"{customer} unfit"),
                        "count": "x",
                    },
                    "fits, but not": {"customer_id": customer, "e-mail": {"a": self._personal(f"{customer} nested")}},
                }
                for why, fields in unfit.items():
                    await send("FormFilled", fields | {"note": self._control(f"{why} of {customer}")})
                    bad += 1
                await send(
                    "SurveyAnswered", {"customer_id": customer, "note": 7, "email": self._personal(f"{customer} 7")}
                )
                bad += 1
                await send(
                    "FormFilled",
                    {"customer_id": customer, "e-mail": (value := self._personal(f"{customer} elsewhere"))},
                    subject=value,
                )
                bad += 1
            await send("FormFilled", {"e-mail": self._personal("of nobody"), "note": self._control("of nobody")})
            await send("NobodyKnew", {"customer_id": "ada", "email": self._personal("unknown type")})
            await stream.publish(
                f"{self._namespace.name}.in.FormFilled", f'{{"email": "Zq{core(self._personal("no JSON"))}'.encode()
            )
            bad += 3
            for number in range(VOLUME):
                await send("FormFilled", {"customer_id": f"filler{number}", "note": "x" * 150_000})
                good += 1
        finally:
            await client.close()
        return good, bad


@contextlib.asynccontextmanager
async def worker(server: NatsServer, at: Namespace, folder: Path, style: str) -> AsyncIterator[None]:
    """The worker process, with its logs in ``worker.log`` of the folder."""
    with (folder / "worker.log").open("ab") as logs:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.erasure.process", server.url, at.name, folder / "master", folder / "db.sqlite",
            style, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=logs, cwd=ROOT,
        )  # fmt: skip
    assert process.stdin is not None and process.stdout is not None
    try:
        async with asyncio.timeout(30):
            assert await process.stdout.readline() == b"running\n", (folder / "worker.log").read_text()[-4_000:]
        yield
        process.stdin.close()
        async with asyncio.timeout(30):
            assert await process.wait() == 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def publish(bus: Bus, things: Things) -> None:
    """The bus's own producers: each way to publish, each kind of field."""
    async with bus.publisher() as publisher:
        for customer in GIVEN:
            for number in range(2):
                place = f"given {number} of {customer}"
                values = {part: personal() for part in ("email", "street", "phone", "name", "plan")}
                things.personal.update({f"{part}, {place}": value for part, value in values.items()})
                note, town = token(), token()
                things.controls.update({f"note, {place}": note, f"town, {place}": town})
                things.controls.update({f"timer, {place}": f"{note}-timer", f"action, {place}": f"{note}-action"})
                things.controls.update({f"fired, {place}": f"{note}-due", f"answer, {place}": f"{note}-due-answer"})
                things.controls.update({f"log, {place}": f"{note}-log", f"standard log, {place}": f"{note}-standard"})
                things.controls.update({f"exception, {place}": f"{note}-exception"})
                things.controls.update({f"sealed row, {place}": f"{note}-sealed", f"row, {place}": f"{note}-row"})
                event = EmailGiven(
                    customer_id=customer,
                    email=values["email"],
                    address=Address(street=values["street"], town=town),
                    phones=[values["phone"], None],
                    profile={values["plan"]: values["name"]},
                    note=note,
                )
                await (bus if number else publisher).publish(event)
        for way in WAYS:
            things.personal[f"failing {way}"] = email = personal()
            await publisher.publish(OrderFailed(customer_id="eve", how=way, email=email, note=token()))
    note = token()
    things.controls["invitation"], things.controls["action, for a friend"] = note, f"{note}-action"
    things.personal["the source's own"], things.personal["the friend's"] = own, friends = personal(), personal()
    event_ = FriendInvited(customer_id=SOURCE, friend=FRIEND, email=own, friends_email=friends, note=note)
    await bus.publish(event_)
    # The agent of these knows nothing personal: what it raises and keeps is stored as it is.
    note = f"{token()}-bury"
    things.controls["reason of a dead letter"] = f"{note}-reason"
    things.controls["traceback of a dead letter"] = f"{note}-cause"
    await bus.publish(PageVisited(customer_id="control", note=note))
    things.controls["once"] = f"{(note := token())}-once"
    await bus.publish(PageVisited(customer_id="control", note=note))


async def uncompress(server: NatsServer, bus: Bus) -> None:
    """Has the streams store what comes as it is."""
    client = await nats.connect(server.url)
    try:
        for stream in (*bus.namespace.streams, bus.namespace.ingress_stream):
            config = json.loads((await client.request(f"$JS.API.STREAM.INFO.{stream}")).data)["config"]
            changed = json.dumps(config | {"compression": "none"}).encode()
            answer = json.loads((await client.request(f"$JS.API.STREAM.UPDATE.{stream}", changed)).data)
            assert answer["config"].get("compression", "none") == "none"
    finally:
        await client.close()


async def fill(bus: Bus) -> None:
    """Makes the server end the block that it writes to."""
    async with bus.publisher() as publisher:
        for _ in range(FILLERS):
            await publisher.publish(FormFilled.model_validate({"customer_id": "filler", "note": "x" * 700_000}))


async def key_of(bus: Bus, master: MasterKeys, customer: str) -> Keys:
    bucket = await bus.transport.bucket(bus.namespace.bucket("keys"), erasable=True)
    entry = await bucket.get(KEY + escape_key(customer))
    assert entry is not None and entry.value is not None
    wrapped = KeyRecord.model_validate_json(entry.value).wrapped
    return Keys(Records(bus.namespace, master).read(customer, entry.value).secret, base64.b64decode(wrapped))


def stored(folder: Path) -> Haystack:
    """Everything on this disk: the server's store and its log, the logs of the worker, the database."""
    return Haystack(path for path in files(folder) if path.name != "master")


def incoming(folder: Path, at: Namespace) -> Haystack:
    return Haystack(path for path in files(folder) if at.ingress_stream in path.parts)


def compressed(folder: Path) -> Haystack:
    return Haystack((path for path in files(folder) if path.suffix == ".blk"), compressed=True)


@pytest.mark.parametrize(("compression", "style"), [("s2", "json"), ("none", "text")])
async def test_nothing_personal_is_left_on_any_disk(
    private_server: Callable[..., NatsServer], tmp_path: Path, compression: str, style: str
) -> None:
    server, at, things = private_server(), namespace(), Things({}, {})
    master = MasterKeys.new()
    master.write_new(tmp_path / "master")
    async with opened(server, at, master) as bus:
        for cls in (FormFilled, SurveyAnswered):
            await bus.schemas.admit(cls)
        if compression == "none":
            await uncompress(server, bus)
    # The server takes it into account when it starts (2.15).
    server.stop()
    await asyncio.to_thread(server.restart)
    async with opened(server, at, master) as bus:
        good, bad = await Foreign(server, at, things).publish()
        before = incoming(tmp_path, at)
        plain = {place for place, value in things.personal.items() if before.holds(core(value))}
        assert plain == set(things.personal)
        assert all(before.holds(core(value)) for value in things.controls.values())

        async with worker(server, at, tmp_path, style):
            await publish(bus, things)
            started = monotonic()
            await _handled(bus, good, bad)
            assert monotonic() - started < 25
            await fill(bus)
            await until(lambda: _ended(tmp_path, things, compression))
            found = stored(tmp_path)
            logged = Haystack([tmp_path / "worker.log"])
            _find_controls(things, found)
            assert not {place for place, value in things.personal.items() if logged.holds(core(value))}
            rows = _rows(tmp_path)
            in_rows = {place for place, value in things.personal.items() if core(value) in rows}
            assert in_rows == {
                place for place in things.personal if place.startswith(("email, given", "valid FormFilled"))
            }
            leaks = {
                place: names
                for place, value in things.personal.items()
                if (names := [name for name in found.where(core(value)) if not name.startswith("db.sqlite")])
            }
            assert leaks == {}, "before anything is erased"

            keys = {
                customer: await key_of(bus, master, customer) for customer in (*GIVEN, "eve", FRIEND, SOURCE, NOBODY)
            }
            assert all(found.holds(key.wrapped) for key in keys.values())
            assert not any(found.holds(key.secret) for key in keys.values())
            await _check_originals(bus, bad, things.personal.values())

            await _check_relayed(bus, things, erased=())
            for customer in (*GIVEN, "eve"):
                erasure = await erase(bus, customer)
                assert erasure.had_key and not erasure.published.duplicate
            for erased in ((FRIEND,), (FRIEND, SOURCE)):
                assert (await erase(bus, erased[-1])).had_key
                await _check_relayed(bus, things, erased=erased)
                on_disk = stored(tmp_path)
                for key in (keys[customer] for customer in erased):
                    assert not on_disk.holds(key.wrapped) and not on_disk.holds(key.secret)
            assert await bus.keys.erase(NOBODY)
            await until(lambda: _cleared(tmp_path))
            await _check_what_is_left(bus, things, in_rows)
        _check_bytes(tmp_path, things, keys)
        lines = (tmp_path / "worker.log").read_text().splitlines()
        seen = [line for line in lines if re.search(r"\bjourney\b.*\bseen\b|\bseen\b.*\bjourney\b", line)]
        # By the field: three letters also come up in an identifier.
        seen = [line for line in seen if re.search(rf"\bcustomer\W+({'|'.join(GIVEN)})\b", line)]
        assert len(seen) == len(GIVEN)
        assert all(('"email": null' if style == "json" else "email=null") in line for line in seen)
    for end in (server.kill9, server.stop):
        end()
        _check_bytes(tmp_path, things, keys)
        await asyncio.to_thread(server.restart)
        async with opened(server, at, master) as bus:
            await _check_what_is_left(bus, things, in_rows, visits=False)
            assert all([await bus.keys.load(customer) is None for customer in keys])
        _check_bytes(tmp_path, things, keys)


async def _ended(folder: Path, things: Things, compression: str) -> bool:
    """Whether all blocks with controls have been compressed, where they are to be."""
    found, places = compressed(folder), ("note", "timer", "action", "fired", "answer", "once", "reason", "traceback")
    there = [found.holds(core(value)) for place, value in things.controls.items() if place.startswith(places)]
    if compression == "none":
        assert not any(there) and found.size == 0
        return True
    return all(there)


async def _handled(bus: Bus, good: int, bad: int) -> None:
    """Waits until everything is handled, and the foreign documents have left."""
    ingress = bus.namespace.ingress_stream
    filter = f"{bus.namespace.name}.log.*.*.evt"

    async def filed() -> bool:
        stored = [
            message
            for type in ("FormFilled", "SurveyAnswered")
            for message in await bus.transport.read(bus.namespace.shard_stream(0), f"{filter}.{type}")
        ]
        return len(stored) == good

    async def answered() -> bool:
        count = [len(await story(bus, customer, CustomerGreeted)) for customer in GIVEN]
        return count == [2 + 2] * len(GIVEN)

    async def relayed() -> bool:
        return len(await story(bus, FRIEND, InvitationSent)) == 1

    async def buried() -> bool:
        return len(await dead(bus)) == bad + len(WAYS) + 1

    async def gone() -> bool:
        state = await bus.transport.stream_state(ingress)
        return state is not None and state.messages == 0

    for condition in (filed, answered, relayed, buried, gone):
        await until(condition)


def _find_controls(things: Things, found: Haystack) -> None:
    lost = {place for place, value in things.controls.items() if not found.holds(core(value))}
    # What is under the key as a whole is not to be found: documents that were buried.
    assert lost == {
        place for place in things.controls if place.startswith(("does not fit", "fits, but not", "of nobody"))
    }


def _rows(folder: Path) -> str:
    with contextlib.closing(sqlite3.connect(folder / "db.sqlite")) as database:
        return repr(database.execute("SELECT email FROM contacts").fetchall())


async def _cleared(folder: Path) -> bool:
    return "Zq" not in _rows(folder)


async def _check_originals(bus: Bus, bad: int, values: Collection[str]) -> None:
    letters = await dead(bus)
    foreign = [letter for letter in letters if letter.writer == "ingress"]
    assert len(foreign) == bad
    for letter in foreign:
        document = await original(bus, letter)
        assert document is not None and b"Zq" in document
        assert "Zq" not in letter.reason
    for letter in letters:
        if letter.customer == "eve":
            assert not any(core(value).lower() in f"{letter.reason} {letter.traceback}".lower() for value in values)
            assert letter.traceback or "cannot be stored" in letter.reason


async def _check_what_is_left(bus: Bus, things: Things, in_rows: set[str], *, visits: bool = True) -> None:
    for customer in GIVEN:
        given = await story(bus, customer, EmailGiven)
        assert [envelope.erased for envelope in given] == [("email", "street", "phones", "profile")] * 2
        for envelope in given:
            event = envelope.event
            assert isinstance(event, EmailGiven)
            assert event.email is None and event.address.street is None and event.profile is None
            assert event.phones == [None, None]
            assert event.note in things.controls.values() and event.address.town in things.controls.values()
        for envelope in await story(bus, customer, FormFilled, SurveyAnswered):
            assert envelope.erased == ("email",)
        assert len(await story(bus, customer, CustomerErased)) == 1
        if visits:
            answers = len(await story(bus, customer, CustomerGreeted))
            await bus.publish(PageVisited(customer_id=customer, note=token()))
            await until(partial(_longer, bus, customer, answers))
        last = (await story(bus, customer, CustomerGreeted))[-1]
        assert isinstance(last.event, CustomerGreeted)
        assert last.event.email is None and last.erased == (), "the handler saw a journey without it"
    await _check_relayed(bus, things, erased=(FRIEND, SOURCE))
    for letter in await dead(bus):
        if letter.customer in {*GIVEN, "eve", None} and letter.writer == "ingress":
            assert await original(bus, letter) is None
        elif letter.customer == "eve":
            assert letter.reason == "[erased with the customer's personal data]" and letter.traceback == ""


async def _check_relayed(bus: Bus, things: Things, *, erased: Collection[str]) -> None:
    """What was put out for another customer is that one's, in the record that it waited in, too; what it came from is
    the source's."""
    [invited] = await story(bus, SOURCE, FriendInvited)
    [sent] = await story(bus, FRIEND, InvitationSent)
    assert isinstance(invited.event, FriendInvited) and isinstance(sent.event, InvitationSent)
    own, friends = things.personal["the source's own"], things.personal["the friend's"]
    gone = SOURCE in erased
    assert (invited.event.email, invited.event.friends_email) == ((None, None) if gone else (own, friends))
    assert invited.erased == (("email", "friends_email") if gone else ())
    gone = FRIEND in erased
    assert (sent.event.email, sent.erased) == ((None, ("email",)) if gone else (friends, ()))
    at = bus.namespace.locate(SOURCE)
    record = await bus.transport.last(at.stream, bus.namespace.record(at, "greeter", "relay"))
    assert record is not None
    sealed = json.loads(record.payload)["event"]["data"]["email"]
    for customer in (SOURCE, FRIEND):
        key = await bus.keys.load(customer)
        opens = key is not None and sealed.startswith(f"{SEALED}{key.id}:")
        assert opens is (customer == FRIEND and not gone), "the record is under the friend's key alone"


async def _longer(bus: Bus, customer: str, count: int) -> bool:
    return len(await story(bus, customer, CustomerGreeted)) > count


def _check_bytes(folder: Path, things: Things, keys: dict[str, Keys]) -> None:
    found = stored(folder)
    left = {place: names for place, value in things.personal.items() if (names := found.where(core(value)))}
    assert left == {}
    for customer, key in keys.items():
        assert found.where(key.wrapped) == [], customer
        assert found.where(key.secret) == [], customer
    _find_controls(things, found)
