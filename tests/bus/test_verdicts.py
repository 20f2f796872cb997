from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sojourn.bus.verdicts import Verdict, verdict_facts, verdict_of, verdict_payload


@pytest.mark.parametrize("verdict", ["drop", "wake", "file", "filed"])
def test_a_verdict_is_read_back(verdict: Verdict) -> None:
    payload = verdict_payload(verdict, by="ann")
    assert verdict_of(payload) == verdict
    assert verdict_facts(payload) == {"kind": verdict, "by": "ann"}


@pytest.mark.parametrize(
    "payload",
    [
        b"", b"junk", b"[]", b'{"kind":"', b'{"kind":"event"}', b'{"kind":"drop"',
        b'{"kind":"drop","specversion":"1.0"}', b'{"kind":"drop","kind":["drop"]}',
        b'{"kind":["drop"]}', b'{"kind":"drop"}]', b'{"kind":"\xff"}', b'{ "kind":"drop"}',
    ],
)  # fmt: skip
def test_what_is_none_is_an_original(payload: bytes) -> None:
    assert verdict_of(payload) is None


@given(st.binary(), st.sampled_from([b"", b'{"kind":"', b'{"kind":"drop"']))
def test_no_bytes_can_break_it(payload: bytes, start: bytes) -> None:
    found = verdict_of(start + payload)
    assert found is None or json.loads(start + payload)["kind"] == found
