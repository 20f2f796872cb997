"""Documents as they are shown: personal values hidden, older versions brought up."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from sojourn.bus.catalog import Catalog
from sojourn.bus.event import Event, Key
from sojourn.bus.personal.field import Personal
from sojourn.bus.personal.key import CustomerKey
from sojourn.bus.reading import Reader
from sojourn.bus.upcasting import upcast
from sojourn.console.lens import AS_STORED, Lens, hidden

KEY, _ = CustomerKey.new()


def sealed(value: object) -> str:
    return KEY.seal(json.dumps(value).encode())


class Address(BaseModel):
    street: Personal[str] | None = None
    city: str = ""


class ParcelSent(Event, version=2):
    customer_id: Key
    email: Personal[str] | None = Field(None, alias="eMail")
    age: Personal[int] | None = None
    addresses: tuple[Address, ...] = ()
    names: tuple[Personal[str] | None, ...] = ()
    weight: int = 0


@upcast(ParcelSent, from_version=1)
def renamed(data: dict[str, Any]) -> dict[str, Any]:
    return {**data, "eMail": data.pop("mail"), "weight": data["weight"] * 1000}


LENS = Lens(Catalog([ParcelSent]), Reader())


def document(version: int = 2, **data: object) -> dict[str, Any]:
    return {
        "specversion": "1.0", "id": "a", "source": "/x", "type": "ParcelSent", "subject": "c1",
        "time": "2026-11-23T12:00:00Z", "correlationid": "a", "schemaversion": version,
        "data": {"customer_id": "c1", **data},
    }  # fmt: skip


def show(lens: Lens, shown: dict[str, Any]) -> tuple[dict[str, Any], str | None]:
    return lens.show("ParcelSent", shown, json.dumps(shown).encode())


def test_whatever_is_sealed_is_hidden_in_any_depth() -> None:
    raw = document(eMail=sealed("ann@x.org"), age=sealed(7), more=[{"deep": [sealed({"a": 1})]}, "plain", 7, None])
    shown, trouble = show(AS_STORED, raw)
    assert trouble is None
    assert shown["data"] == {
        "customer_id": "c1", "eMail": "•••", "age": "•••", "more": [{"deep": ["•••"]}, "plain", 7, None],
    }  # fmt: skip
    assert raw["data"]["eMail"] != "•••"


def test_inside_other_texts_too() -> None:
    text = sealed("ann@x.org")
    assert hidden({f"to {text}": f"sent to {text}, twice: {text}"}) == {"to •••": "sent to •••, twice: •••"}
    assert hidden("sealed:1: is how such a text begins") == "sealed:1: is how such a text begins"


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_what_is_not_sealed_stays(value: Any) -> None:
    assert hidden(value) == value


def test_through_its_class_what_is_personal_is_hidden_and_what_is_not_there_is_not() -> None:
    raw = document(eMail=sealed("ann@x.org"), age=sealed(7), addresses=[{"street": sealed("Way 1"), "city": "Ulm"}],
                   names=[sealed("Ann"), sealed("Zoë")])  # fmt: skip
    shown, trouble = show(LENS, raw)
    assert trouble is None
    assert shown["data"] == {
        "customer_id": "c1", "eMail": "•••", "age": "•••", "addresses": [{"street": "•••", "city": "Ulm"}],
        "names": ["•••", "•••"], "weight": 0,
    }  # fmt: skip
    assert "storedversion" not in shown
    plain, _ = show(LENS, document(weight=3))
    assert (plain["data"]["eMail"], plain["data"]["age"], plain["data"]["weight"]) == (None, None, 3)


def test_an_older_version_is_brought_up_and_says_so() -> None:
    shown, trouble = show(LENS, document(1, mail=sealed("ann@x.org"), weight=2))
    assert trouble is None
    assert (shown["data"]["eMail"], shown["data"]["weight"]) == ("•••", 2000)
    assert "mail" not in shown["data"]
    assert (shown["schemaversion"], shown["storedversion"], shown["dataschema"]) == (2, 1, "urn:sojourn:ParcelSent:2")


@pytest.mark.parametrize("raw", [document(9, weight=1), document(2, weight="heavy", eMail=sealed("ann@x.org"))])
def test_what_its_class_cannot_read_is_shown_as_it_is_stored_with_the_reason(raw: dict[str, Any]) -> None:
    shown, trouble = show(LENS, raw)
    assert trouble is not None
    assert "ParcelSent" in trouble
    assert "\n" not in trouble
    assert shown == hidden(raw)


def test_types_that_the_code_does_not_know_are_shown_as_they_are_stored() -> None:
    raw = document(weight=1) | {"type": "Other"}
    assert LENS.show("Other", raw, b"") == (raw, None)
