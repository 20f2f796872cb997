"""Lint: what is likely personal and what only sounds like it, descriptions, names, and owners."""

from __future__ import annotations

from datetime import UTC, date, datetime
from enum import StrEnum
from ipaddress import IPv4Address
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field, create_model

from sojourn.bus.event import Event, Key
from sojourn.bus.personal.field import Personal
from sojourn.bus.schemas.admission import admitted, claim_of
from sojourn.bus.schemas.compatibility import Level
from sojourn.bus.schemas.lint import lint
from sojourn.bus.schemas.records import SchemaRecord
from tests.bus.schemas.contracts import cart
from tests.ids import told

AT = datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC)


class Kind(StrEnum):
    HOME = "home"
    WORK = "work"


class Address(BaseModel):
    street: str
    city: str


class Marked(BaseModel):
    email: Personal[str] | None = None
    name: str


class Article(BaseModel):
    name: str
    price: int


class Person(BaseModel):
    name: str
    age: int


class Comment(BaseModel):
    author_email: str = ""
    answers: list[Comment] = []


def seen(**fields: Any) -> type[Event]:
    return cart(event="CartSeen", doc="A cart was seen.", **fields)


def flagged(*classes: type[Event], records: dict[str, SchemaRecord] | None = None) -> list[tuple[str, str]]:
    return [(finding.code, finding.path) for finding in lint(classes, records)]


@pytest.mark.parametrize(
    "name",
    "email emails e_mail eMail email_address emailAddress customer_email contactEmail email2 new_email template_email "
    "phone phone_number phoneNumber phones mobile home_phone telephone fax msisdn "
    "first_name firstName firstname last_name lastName full_name fullname surname surnames family_name maiden_name "
    "customer_name buyer_name recipient_name user_name username cardholder_name "
    "address delivery_address billingAddress addresses address_line_1 address_lines street street_name house_number "
    "postcode post_code postal_code zip zip_code zipcode "
    "birth_date birthdate birthday date_of_birth dob dateOfBirth "
    "iban bank_account card_number ssn passport_number "
    "ip ip_address client_ip clientIP".split(),
)
def test_such_names_are_likely_personal(name: str) -> None:
    assert flagged(seen(**{name: (str, ...)})) == [("personal", name)]


@pytest.mark.parametrize("annotation", [str | None, list[str], set[str] | None, dict[str, str], str | int], ids=told)
def test_texts_are_found_inside(annotation: Any) -> None:
    assert flagged(seen(home_phone=(annotation, ...))) == [("personal", "home_phone")]


@pytest.mark.parametrize(
    "name",
    "product_name file_name filename campaign_name event_name brand_name name hostname display_mode full_price "
    "email_template email_subject email_id email_domain emailed phone_model phone_brand phonetic mobile_app mobility "
    "address_id address_hash web_address wallet_address site_address street_art zipper zip_file postcodes_seen_by "
    "birthday_offer birth_rate ip_range ship tip zips_url customer_segment customer user username_policy "
    "iban_check card_type passport_stamp description title note currency product sku".split(),
)
def test_such_names_only_sound_like_it(name: str) -> None:
    assert flagged(seen(**{name: (str, ...)})) == []


@pytest.mark.parametrize(
    "annotation",
    [bool, int, float, Kind, Literal["a", "b"], list[Literal["a"]], list[bool], dict[str, int], bool | None, Any],
    ids=told,
)
def test_what_cannot_hold_a_text_of_ones_own_is_not_personal(annotation: Any) -> None:
    assert flagged(seen(email=(annotation, ...), phone=(annotation | None, None), address=(annotation, ...))) == []


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        # Kinds of values.
        ({"birth_date": (date, ...)}, ["birth_date"]),
        ({"seen_from": (IPv4Address, ...)}, ["seen_from"]),
        ({"sent_to": (Annotated[str, Field(json_schema_extra={"format": "email"})], ...)}, ["sent_to"]),
        ({"emails": (dict[str, str], {})}, ["emails"]),
        # Nested models; an address as a whole, not its parts again.
        ({"address": (Address, ...)}, ["address"]),
        ({"addresses": (list[Address], ...)}, ["addresses"]),
        ({"shipping": (Address | None, None)}, ["shipping.street"]),
        ({"shops": (dict[str, Address], {})}, ["shops.*.street"]),
        ({"pairs": (list[list[Address]], [])}, ["pairs[][].street"]),
        ({"comment": (Comment, ...)}, ["comment.author_email"]),
        # A name is a person's where a person is near.
        ({"items": (list[Article], [])}, []),
        ({"customer": (Article, ...)}, ["customer.name"]),
        ({"guests": (list[Article], [])}, ["guests[].name"]),
        ({"by": (Person, ...)}, ["by.name"]),
        ({"customer_name": (Article, ...)}, ["customer_name"]),
        # Marked, as what it is or as what it is not.
        ({"email": (Personal[str] | None, None)}, []),
        ({"address": (Personal[Address] | None, None)}, []),
        ({"emails": (list[Personal[str] | None], [])}, []),
        ({"contact": (Marked, ...)}, ["contact.name"]),
        ({"email": (Annotated[str, Field(json_schema_extra={"x-sojourn-personal": False})], ...)}, []),
        ({"email": (Annotated[str, Field(alias="mail_template")], ...)}, []),
    ],
)
def test_fields_are_found_where_they_are(fields: dict[str, Any], found: list[str]) -> None:
    assert flagged(seen(**fields)) == [("personal", path) for path in found]


def test_a_name_is_a_persons_in_an_event_about_a_person() -> None:
    def named(name: str) -> list[tuple[str, str]]:
        return flagged(cart(event=name, doc="It happened.", name_=(str, Field(alias="name"))))

    for name in ("CustomerRegistered", "UserSignedUp", "GuestInvited"):
        assert named(name) == [("personal", "name")]
    for name in ("CustomerSegmentEntered", "CampaignStarted", "ProductViewed"):
        assert named(name) == []


def test_a_key_that_is_personal_is_told_as_what_it_is() -> None:
    class CartShared(Event):
        """A cart was shared."""

        email: Key

    class CartSaved(Event):
        """A cart was saved."""

        who: Key = Field(alias="userName")

    assert flagged(CartShared, CartSaved) == [("personal-key", "userName"), ("personal-key", "email")]
    (finding, _) = lint([CartShared, CartSaved])
    assert finding.type == "CartSaved" and "stands in every subject" in finding.message


def test_findings_say_the_way_out() -> None:
    (finding,) = lint([seen(email=(str, ...))])
    assert "Personal[…] | None" in finding.message and "{'x-sojourn-personal': False}" in finding.message


# Descriptions, names, owners.


def test_an_event_says_what_happened() -> None:
    (finding,) = lint([cart()])
    assert (finding.code, finding.type, finding.path) == ("undescribed", "CartAbandoned", "")
    assert "shop:CartAbandoned has no docstring" in finding.message
    assert flagged(cart(doc=" \n ")) == [("undescribed", "")]

    class ShopEvent(Event, abstract=True):
        """Anything in the shop."""

        customer_id: Key

    # A base's docstring is not the event's.
    assert flagged(create_model("CartSeen", __base__=ShopEvent)) == [("undescribed", "")]
    assert lint([cart(doc="A customer left.")]) == []


def record(cls: type[Event], **changes: Any) -> SchemaRecord:
    return admitted(claim_of(cls), None, now=AT).model_copy(update=changes)


def test_what_is_registered_without_a_class_here_is_looked_at_too() -> None:
    records = {"ProcessPayment": record(cart(event="ProcessPayment", fact=True, email=(str, ...)))}
    findings = lint([cart(doc="A customer left.")], records)
    assert [(one.code, one.type, one.path) for one in findings] == [
        ("imperative", "ProcessPayment", ""),
        ("undescribed", "ProcessPayment", ""),
        ("personal", "ProcessPayment", "email"),
    ]
    assert "PaymentProcessed?" in findings[0].message
    # Where the class is here, it speaks for itself, and fact=True vouches.
    assert lint([cart(event="ProcessPayment", fact=True, doc="It ran.")], records) == []
    bare = SchemaRecord(type="CartShared", key_field="c", description="Shared.", compatibility=Level.FULL)
    assert lint([], {"CartShared": bare}) == []


def test_a_type_has_one_owner() -> None:
    mine, theirs, nobodys = (cart(owner=owner, doc="Left.") for owner in ("shop", "crm", None))
    assert lint([mine, mine, nobodys]) == []
    (finding,) = lint([mine, theirs, nobodys])
    assert (finding.code, finding.type) == ("owners", "CartAbandoned")
    assert finding.message.startswith("has 2 owners: 'crm' (shop:CartAbandoned), 'shop' (shop:CartAbandoned)")
    assert lint([mine], {"CartAbandoned": record(mine)}) == lint([nobodys], {"CartAbandoned": record(mine)}) == []
    (finding,) = lint([theirs], {"CartAbandoned": record(mine)})
    assert finding.code == "owners" and "'shop' (the registry)" in finding.message
    # Owners of different types are no matter.
    assert lint([mine, cart(event="OrderPlaced", owner="crm", doc="Bought.")]) == []
