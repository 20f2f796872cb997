"""Which names of fields speak of personal data. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from sojourn.bus.naming import is_fact

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")

# The last words of a name say what it is: an email_template is a template, a template_email an email.
_ENDINGS = tuple(
    tuple(ending.split())
    for ending in (
        "email|e mail|email address|phone|telephone|phone number|telephone number|mobile|mobile number|cell number|"
        "fax|fax number|msisdn|whatsapp|"
        "first name|last name|full name|given name|family name|middle name|maiden name|legal name|real name|nickname|"
        "firstname|lastname|fullname|surname|forename|username|user name|contact name|recipient name|cardholder|"
        "cardholder name|holder name|"
        "address|street|street name|house number|postcode|post code|postal code|zip|zip code|zipcode|"
        "birth date|birthdate|birthday|date of birth|birth day|dob|birth place|place of birth|"
        "iban|bank account|card number|ssn|social security number|passport number|passport|tax number|"
        "ip|ip addr|license plate|licence plate"
    ).split("|")
)
_WHOLES = (("address",), ("full", "name"), ("contact", "name"))
"""What may also be an object of several fields."""

_PEOPLE = frozenset(
    "adult attendee beneficiary borrower buyer caller candidate cardholder child client contact contractor customer "
    "driver employee friend guardian guest holder insured invitee lead member parent partner passenger patient payee "
    "payer person prospect recipient referrer resident sender shopper student subscriber tenant traveller traveler "
    "user visitor".split()
)
_NO_ADDRESS = frozenset("contract memory site smart url wallet web website".split())
_NOTHING = frozenset("line new old previous raw str text value".split())
_FORMATS = frozenset("email idn-email name-email phone ipv4 ipv6 ipvanyaddress".split())


def likely_personal(names: Sequence[str], *, formats: Collection[str] = (), whole: bool = False) -> bool:
    """Whether a field is likely to hold personal data, by its name and those of what it is in, outermost first
    (``customer``, ``name``), or by the ``format`` of its schema. ``whole``: by a name that may be an object's."""
    if not whole and any(format in _FORMATS for format in formats):
        return True
    words = _words(names[-1])
    if words[-1:] == ["address"] and words[-2:-1] and words[-2] in _NO_ADDRESS:
        return False
    around = [*(_words(names[-2])[-1:] if len(names) > 1 else []), *words]
    if whole:
        return any(_ends(words, ending) for ending in _WHOLES) or _is_persons_name(around)
    return any(_ends(words, ending) for ending in _ENDINGS) or _is_persons_name(around)


def is_person(name: str) -> bool:
    """Whether a name is that of a person or of people: ``customer``, ``Buyer``, ``guests``."""
    return _words(name)[-1:] != [] and _words(name)[-1] in _PEOPLE


def person_of(type: str) -> str | None:
    """The person that an event of this type happened to: ``Customer`` for ``CustomerRegistered``, and None for
    ``CustomerSegmentEntered``."""
    first, *rest = _WORD.findall(type) or [""]
    return first if is_person(first) and rest and is_fact(first + rest[0]) else None


def _is_persons_name(words: list[str]) -> bool:
    return words[-1:] == ["name"] and words[-2:-1] != [] and words[-2] in _PEOPLE


def _ends(words: list[str], ending: tuple[str, ...]) -> bool:
    return tuple(words[-len(ending) :]) == ending


def _words(name: str) -> list[str]:
    words = [word.lower() for word in _WORD.findall(name)]
    while len(words) > 1 and (words[-1].isdigit() or _singular(words[-1]) in _NOTHING):
        words.pop()
    return [*words[:-1], _singular(words[-1])] if words else []


def _singular(word: str) -> str:
    if word.endswith("sses"):
        return word[:-2]
    return word[:-1] if len(word) > 2 and word.endswith("s") and not word.endswith("ss") else word
