"""A shop whose events have personal values, and agents that take them wherever values can go."""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import AsyncGenerator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

import structlog
from pydantic import AfterValidator, BaseModel, Field

from sojourn import Agent, Context, CustomerErased, Event, Journey, Key, Personal, agent, days, evolve, on
from sojourn.bus.client import Bus
from sojourn.bus.processor import NOTHING, Output, Recorded, Retry, Turn

log = structlog.get_logger("shop")
standard = logging.getLogger("shop.standard")


class Address(BaseModel):
    street: Personal[str] | None = None
    town: str = ""


class EmailGiven(Event):
    """``note`` and ``town`` are the controls: like the others, but not personal."""

    customer_id: Key
    email: Personal[str] | None = None
    address: Address = Address()
    phones: list[Personal[str] | None] = []  # noqa: RUF012 - a pydantic default
    profile: Personal[dict[str, str]] | None = None
    note: str = ""


class PageVisited(Event):
    customer_id: Key
    note: str = ""


class OrderFailed(Event):
    """Makes a handler fail, in the way ``how`` says."""

    customer_id: Key
    how: str
    email: Personal[str] | None = None
    note: str = ""


class FriendInvited(Event):
    """Makes an action for another customer, with a value of either."""

    customer_id: Key
    friend: str
    email: Personal[str] | None = None
    friends_email: Personal[str] | None = None
    note: str = ""


class InvitationSent(Event):
    """Stands under the friend: what is personal in it is the friend's."""

    customer_id: Key
    email: Personal[str] | None = None
    note: str = ""


class CustomerGreeted(Event):
    customer_id: Key
    email: Personal[str] | None = None
    street: Personal[str] | None = None
    note: str = ""


class GreetingFailed(Event):
    customer_id: Key
    email: Personal[str] | None = None
    content: object = None


class ReminderWaited(Event):
    customer_id: Key
    email: Personal[str] | None = None
    note: str = ""


class FormFilled(Event):
    """Comes from foreign producers, too."""

    customer_id: Key
    email: Personal[str] | None = Field(None, alias="e-mail")
    note: str = ""
    count: int = 0


class SurveyAnswered(Event):
    """Comes from foreign producers; no worker has its class."""

    customer_id: Key
    email: Personal[str] | None = None
    note: str = ""


class Contact(Journey):
    email: str | None = None
    streets: list[str | None] = []  # noqa: RUF012 - a journey default
    given: int = 0
    greeted: int = 0

    @evolve(EmailGiven)
    def heard(self, event: EmailGiven) -> None:
        self.email = event.email
        self.streets = [*self.streets, event.address.street]
        self.given += 1
        log.info("folded", email=event.email, note=event.note)

    @evolve(FormFilled)
    def form(self, event: FormFilled) -> None:
        self.email = event.email
        self.given += 1

    @evolve(CustomerGreeted)
    def answered(self, event: CustomerGreeted) -> None:
        self.greeted += 1
        if event.note.startswith("unfoldable"):
            raise ValueError(f"cannot fold {event.email} {event.note}")


class Answer(BaseModel):
    email: str | None
    note: str


class Order(BaseModel):
    """What a handler makes of its event, and fails at: pydantic quotes the input."""

    email: Annotated[int, AfterValidator(lambda value: value)]


def look_up(email: str | None, note: str) -> Answer:
    return Answer(email=email, note=note)


@agent("greeter")
class Greeter(Agent[Contact]):
    """Answers, waits, keeps what it asked for, and says all of it in the logs."""

    @on(EmailGiven)
    async def given(self, event: EmailGiven, contact: Contact, ctx: Context) -> AsyncGenerator[CustomerGreeted, None]:
        answer = await ctx.once(look_up, event.email, event.note)
        self._say(event, ctx)
        ctx.later(
            ReminderWaited(customer_id=event.customer_id, email=event.email, note=f"{event.note}-timer"),
            at=ctx.now + days(30),
            name="far",
        )
        ctx.later(
            ReminderWaited(customer_id=event.customer_id, email=event.email, note=f"{event.note}-due"),
            at=ctx.now + timedelta(milliseconds=100),
            name=f"near-{event.note[:8].lower()}",
        )
        yield CustomerGreeted(
            customer_id=event.customer_id,
            email=answer.email,
            street=contact.streets[-1],
            note=f"{event.note}-action",
        )

    @on(ReminderWaited)
    def waited(self, event: ReminderWaited, contact: Contact, ctx: Context) -> CustomerGreeted:
        return CustomerGreeted(
            customer_id=event.customer_id, email=contact.email, note=f"unfoldable {event.note}-answer"
        )

    @on(PageVisited)
    def visited(self, event: PageVisited, contact: Contact, ctx: Context) -> CustomerGreeted:
        ctx.log.info("journey", email=contact.email, given=contact.given, seen=event.note)
        return CustomerGreeted(customer_id=event.customer_id, email=contact.email, note=f"{event.note}-visit")

    @on(FriendInvited)
    def invited(self, event: FriendInvited, contact: Contact, ctx: Context) -> InvitationSent:
        ctx.log.info("inviting", email=event.email, friends_email=event.friends_email)
        return InvitationSent(customer_id=event.friend, email=event.friends_email, note=f"{event.note}-action")

    @on(OrderFailed)
    def failed(self, event: OrderFailed) -> CustomerGreeted | GreetingFailed | None:
        email, note = event.email or "", event.note
        match event.how:
            case "plain":
                raise ValueError(f"cannot greet {email} {note}")
            case "upper":
                raise ValueError(f"cannot greet {email.upper()} {note}")
            case "json":
                raise ValueError(f"cannot greet {json.dumps({'to': email, 'note': note})}")
            case "repr":
                raise ValueError(f"cannot greet {email!r} {email.encode()!r} {note}")
            case "pydantic":
                Order.model_validate({"email": email})
            case "chained":
                try:
                    raise LookupError(email)
                except LookupError as error:
                    raise RuntimeError(f"about {note}") from error
            case "group":
                raise ExceptionGroup(f"many {email}", [ValueError(email), KeyError(email)])
            case "output":
                return GreetingFailed(customer_id=event.customer_id, email=email, content=Unwritable(email))
            case "large":
                return CustomerGreeted(customer_id=event.customer_id, email=email * 100_000, note=note)
        return None

    def _say(self, event: EmailGiven, ctx: Context) -> None:
        said = f"to {event.email}"
        ctx.log.info(said, email=event.email, note=f"{event.note}-log", nested={"a": [event.phones]})
        ctx.log.warning("event", event_=event, envelope=ctx.envelope)
        log.info("structlog", profile=event.profile, json=json.dumps({"email": event.email}), note=event.note)
        standard.warning("standard %s %r %s", event.email, event.address, f"{event.note}-standard")
        standard.info("upper %s", str(event.email).upper())
        try:
            raise ValueError(f"for {event.email} at {event.address.street}")
        except ValueError:
            ctx.log.exception("failed", note=f"{event.note}-exception")
            standard.exception("standard failed")


class Unwritable:
    """Has no JSON, and says why in a message that quotes what it holds."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return f"Unwritable({self._text})"


async def asked(note: str) -> str:
    return f"{note}-once"


@agent("visits")
class Visits(Agent):
    """Knows nothing personal, so what it keeps stays in plain: the control of what the other one keeps."""

    @on(PageVisited)
    async def visited(self, event: PageVisited, ctx: Context) -> None:
        await ctx.once(asked, event.note)
        if event.note.endswith("-bury"):
            try:
                raise LookupError(f"{event.note}-cause")
            except LookupError as error:
                raise ValueError(f"{event.note}-reason") from error


class Contacts:
    """A read model in SQLite, as a processor of kind "projection": one table of sealed values, and one of plain ones,
    which is cleared when a customer is erased."""

    kind: Literal["agent", "saga", "projection"] = "projection"
    writer = "contacts"
    group = "contacts"
    version = 1
    start: Literal["now", "beginning"] = "beginning"
    publishes: Mapping[str, type[Event]] = {}
    retry = Retry()
    timeout = timedelta(seconds=30)
    on_poison: Literal["dead", "park"] = "dead"
    description: Mapping[str, Any] = {"reference": "tests.erasure.shop:Contacts"}
    folds: Mapping[str, type[Event]] = {}
    handles: Mapping[str, type[Event]] = {cls.__name__: cls for cls in (EmailGiven, FormFilled, CustomerErased)}

    def __init__(self, bus: Bus, path: Path) -> None:
        self.bus = bus
        self.database = sqlite3.connect(path, isolation_level=None)
        self.database.execute("PRAGMA secure_delete = ON")
        self.database.execute("CREATE TABLE IF NOT EXISTS sealed (customer, sequence, email, note)")
        self.database.execute("CREATE TABLE IF NOT EXISTS contacts (customer, email, note)")

    def open(self, key: str) -> ContactRow:
        return ContactRow(self, key)


class ContactRow:
    def __init__(self, contacts: Contacts, customer: str) -> None:
        self._contacts = contacts
        self._customer = customer

    def observe(self, recorded: Recorded) -> None:
        return

    def acted(self, recorded: Recorded, cause: int) -> None:
        return

    async def run(self, turn: Turn) -> Output:
        event, database = turn.recorded.envelope.event, self._contacts.database
        if isinstance(event, CustomerErased):
            database.execute("UPDATE contacts SET email = NULL WHERE customer = ?", (self._customer,))
            return NOTHING
        assert isinstance(event, EmailGiven | FormFilled)
        sealed = None
        if event.email is not None:
            key = await self._contacts.bus.keys.ensure(self._customer)
            sealed = key.seal(json.dumps(event.email).encode())
        row = (self._customer, turn.recorded.sequence, sealed, f"{event.note[-30:]}-sealed")
        database.execute("INSERT INTO sealed VALUES (?, ?, ?, ?)", row)
        row_ = (self._customer, event.email, f"{event.note[-30:]}-row")
        database.execute("INSERT INTO contacts VALUES (?, ?, ?)", row_)
        return NOTHING
