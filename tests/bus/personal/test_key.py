"""A customer's key: what it seals only it opens, damage is told without values, and it shows nothing of itself."""

from __future__ import annotations

import copy
import pickle
import traceback
from base64 import urlsafe_b64encode

import pytest

from sojourn.bus.errors import DecodeError, TooLargeError
from sojourn.bus.personal.key import MAX_PLAIN, SEALED, CustomerKey, UnknownKeyError, handling, sealed_by

SECRET = bytes(range(32))


def test_each_sealing_differs_and_opens() -> None:
    key, _ = CustomerKey.new()
    first, second = key.seal(b'"x"'), key.seal(b'"x"')
    assert first != second
    assert key.unseal(first) == key.unseal(second) == b'"x"'
    assert sealed_by(first) == key.id


def test_keys_differ() -> None:
    made = [CustomerKey.new() for _ in range(100)]
    assert len({key.id for key, _ in made}) == len({secret for _, secret in made}) == 100
    assert {len(secret) for _, secret in made} == {32}


def test_a_text_moved_between_customers_does_not_authenticate() -> None:
    mine, _ = CustomerKey.new()
    other, _ = CustomerKey.new()
    stolen = other.seal(b'"ada@example.org"')
    with pytest.raises(UnknownKeyError, match=other.id):
        mine.unseal(stolen)
    with pytest.raises(DecodeError, match="does not authenticate"):
        mine.unseal(stolen.replace(other.id, mine.id))


def test_the_id_is_authenticated() -> None:
    # The same secret under another id, as somebody might arrange who writes the bucket.
    sealed = CustomerKey("one", SECRET).seal(b"1")
    with pytest.raises(DecodeError):
        CustomerKey("two", SECRET).unseal(sealed.replace(":one:", ":two:"))


def damaged() -> list[str]:
    key = CustomerKey("k", SECRET)
    body = key.seal(b'"ada@example.org"').removeprefix(f"{SEALED}k:")
    return [
        "",
        "A",
        "====",
        body[:-1],
        body[:-4],
        body[:40],
        body + "AAAA",
        body + "=",
        f" {body}",
        f"{body}\n",
        body[:10] + "\n" + body[10:],
        body[:10] + "é" + body[11:],
        body[:10] + "\ud800" + body[11:],
        body[:10] + "+" + body[11:],
        urlsafe_b64encode(bytes(28)).decode(),
        "A" * (MAX_PLAIN * 2),
    ]


@pytest.mark.parametrize("number", range(len(damaged())))
def test_damage_is_told_in_words(number: int) -> None:
    key = CustomerKey("k", SECRET)
    with pytest.raises(DecodeError, match="sealed by the key k") as caught:
        key.unseal(f"{SEALED}k:{damaged()[number]}")
    told = "".join(traceback.format_exception(caught.value))
    assert "cryptography" not in told
    assert "binascii" not in told


@pytest.mark.parametrize(
    "rest", ["", "k", ":", ":AAAA", "a b:AAAA", "é:AAAA", f"{'k' * 65}:AAAA", f"{'k' * 9999}", "\n:"]
)
def test_a_text_that_names_no_key_is_refused(rest: str) -> None:
    with pytest.raises(DecodeError, match="names no key") as caught:
        CustomerKey("k", SECRET).unseal(SEALED + rest)
    assert len(str(caught.value)) < 200


def test_a_value_beyond_all_bounds_is_refused() -> None:
    with pytest.raises(TooLargeError) as caught:
        CustomerKey("k", SECRET).seal(bytes(MAX_PLAIN + 1))
    assert (caught.value.size, caught.value.limit) == (MAX_PLAIN + 1, MAX_PLAIN)


def test_it_shows_nothing_of_itself() -> None:
    key = CustomerKey("k", SECRET)
    key.seal(b'"ada"')
    assert repr(key) == str(key) == "CustomerKey('k')"
    assert not hasattr(key, "__dict__")
    for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="not to be pickled"):
            attempt(key)


def test_what_it_sealed_and_opened_is_scrubbed() -> None:
    sealing, opening = CustomerKey("k", SECRET), CustomerKey("k", SECRET)
    text = sealing.seal(b'"ada@example.org"')
    for key in (sealing, opening):
        if key is opening:
            assert key.scrub("to ADA@example.org") == "to ADA@example.org", "not seen yet"
            key.unseal(text)
        assert key.scrub("to ADA@example.org") == "to •••"


def test_the_last_256_values_are_remembered_however_often_each_came() -> None:
    key = CustomerKey("k", SECRET)
    values = [f"value-{n:04}" for n in range(2000)]
    for value in values:
        for _ in range(3):
            key.seal(f'"{value}"'.encode())
    shown = key.scrub(" ".join(values)).split()
    assert shown[-256:] == ["•••"] * 256
    assert shown[0] == "value-0000", "memory is bounded"


def test_large_values_do_not_fill_the_memory() -> None:
    key = CustomerKey("k", SECRET)
    for n in range(20):
        key.seal(f'"{n:02}{"x" * 40_000}"'.encode())
    assert sum(map(len, key._remembered())) < 300_000


def test_nobody_is_handled_outside_of_handlers() -> None:
    assert handling.get() is None
