"""Keys are escaped reversibly, partitions are the server's, and subjects say where things live."""

from __future__ import annotations

import asyncio
import random
import re

import nats
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from nats.js.api import StreamConfig, SubjectTransform

from sojourn.bus.errors import ConfigurationError, DecodeError
from sojourn.bus.grammar import check_subject, matcher
from sojourn.bus.subjects import (
    MAX_KEY,
    NO_KEY,
    LogSubject,
    Namespace,
    check_key,
    escape_key,
    fnv1a,
    parse_log_subject,
    unescape_key,
)
from tests.nats_server import NatsServer

HOSTILE = [
    *("a.b", "*", ">", "a.>", "evt.due.x", " ", "a b", "\r\n", "a\r\nPUB x 0\r\n\r\n", "\0", "\x7f", "\t"),
    *(
        "=",
        "==",
        "=41",
        "=2E",
        "=2e",
        "a=",
        "é",
        "e\u0301",
        "😀",
        "👩\u200d👩\u200d👧",
        "\u2028",
        "\ufeff",
        "ſ",
        "²",
        "🇩🇪",
    ),
    *("$JS.API", "_INBOX.x", "-", "_", "%2E", "\\", "null", "{}", "../../etc", "'; drop", "ａ"),
    *("x" * MAX_KEY, "." * (MAX_KEY // 3), "😀" * 42),
]
KEYS = (
    st.text(min_size=1, max_size=40)
    | st.sampled_from(HOSTILE)
    | st.text(alphabet=".*> =\r\n\0é😀aA0-_", min_size=1, max_size=60)
)


@given(KEYS)
def test_an_escaped_key_is_one_harmless_token_and_comes_back(key: str) -> None:
    token = escape_key(key)
    assert re.fullmatch(r"(?:[A-Za-z0-9_-]|=[0-9A-F]{2})+", token)
    assert not set(token) & set(".*> \r\n\t\0")
    assert token != NO_KEY
    assert unescape_key(token) == key
    assert check_key(key) == key


@given(KEYS, KEYS)
def test_two_keys_never_share_a_token(one: str, other: str) -> None:
    assert (escape_key(one) == escape_key(other)) == (one == other)


@pytest.mark.parametrize("key", HOSTILE)
def test_hostile_keys_can_be_stored_under_and_found_alone(key: str) -> None:
    namespace = Namespace()
    at = namespace.locate(key)
    for subject in (
        namespace.event(at, "OrderPlaced"),
        namespace.action(at, "a" * 64, "T" * 200),
        namespace.due(at, "a" * 64, "t" * 64),
        namespace.timer(at, "a" * 64, "t" * 64),
    ):
        check_subject(subject)
        assert matcher(namespace.key_filter(at))(subject)
        assert [other for other in HOSTILE if matcher(namespace.key_filter(namespace.locate(other)))(subject)] == [key]


@pytest.mark.parametrize("key", ["", "x" * (MAX_KEY + 1), "ä" * 86, "." * 171])
def test_keys_that_are_empty_or_too_long_are_refused(key: str) -> None:
    with pytest.raises(ValueError, match="a key "):
        escape_key(key)


def test_a_kilobyte_is_too_long() -> None:
    with pytest.raises(ValueError, match="at most 512 bytes once escaped; this one has 1024"):
        escape_key("k" * 1024)


@given(st.text(max_size=5), st.integers(0xD800, 0xDFFF), st.text(max_size=5))
def test_lone_surrogates_are_refused(before: str, surrogate: int, after: str) -> None:
    with pytest.raises(ValueError, match="lone surrogates"):
        escape_key(before + chr(surrogate) + after)


@given(st.text(max_size=12) | st.from_regex(r"([a-c=\-]|=[0-9A-Fa-f]{2}){0,8}", fullmatch=True))
@example("")
@example("=")
@example("=41")  # a letter that needs no escape
@example("=2e")  # small hexadecimal digits
@example("=C3")  # half a character
@example("=ED=A0=80")  # a surrogate
@example("=C0=AE")  # an overlong dot
@example("a\n")
@example("a" * (MAX_KEY + 1))
@example("=2E" * 171)
def test_only_what_escaping_makes_is_unescaped(token: str) -> None:
    try:
        key = unescape_key(token)
    except DecodeError:
        return
    assert escape_key(key) == token


@given(st.binary(min_size=1, max_size=6))
def test_of_any_bytes_only_canonical_text_is_a_key(raw: bytes) -> None:
    token = "".join(f"={byte:02X}" for byte in raw)
    try:
        key = unescape_key(token)
    except DecodeError:
        return
    assert key.encode() == raw and escape_key(key) == token


async def test_partitions_are_those_of_the_servers_own_function(nats_server: NatsServer) -> None:
    chance = random.Random(7)
    keys = [*HOSTILE] + ["".join(chance.choices("abcXYZ019._- é😀*>", k=chance.randint(1, 40))) for _ in range(500)]
    tokens = sorted({escape_key(key) for key in keys})
    client = await nats.connect(nats_server.url)
    try:
        jetstream = client.jetstream()
        for count in (32, 7):
            await jetstream.add_stream(
                StreamConfig(
                    name=f"PARTITIONS-{count}",
                    subjects=[f"partitions.{count}.*"],
                    subject_transform=SubjectTransform(
                        src=f"partitions.{count}.*",
                        dest=f"partitioned.{count}.{{{{partition({count},1)}}}}.{{{{wildcard(1)}}}}",
                    ),
                )
            )
            await asyncio.gather(*(jetstream.publish(f"partitions.{count}.{token}") for token in tokens))
            state = await jetstream.stream_info(f"PARTITIONS-{count}", subjects_filter=">")
            assert state.state.subjects is not None
            theirs = {subject.split(".")[3]: int(subject.split(".")[2]) for subject in state.state.subjects}
            namespace = Namespace("test", partitions=count, shards=1)
            assert theirs == {token: namespace.locate_token("", token).partition for token in tokens}
            await jetstream.delete_stream(f"PARTITIONS-{count}")
    finally:
        await client.close()


def test_fnv1a_is_the_published_one() -> None:
    # Source: the test vectors of draft-eastlake-fnv.
    assert fnv1a("") == 0x811C9DC5
    assert fnv1a("a") == 0xE40C292C
    assert fnv1a("foobar") == 0xBF9CF968


@given(st.integers(1, 64), st.integers(1, 64), KEYS)
def test_every_customer_lives_in_exactly_one_stream(partitions: int, shards: int, key: str) -> None:
    if shards > partitions:
        with pytest.raises(ConfigurationError, match="cannot be spread over"):
            Namespace("test", partitions, shards)
        return
    namespace = Namespace("test", partitions, shards)
    at = namespace.locate(key)
    assert 0 <= at.partition < partitions
    subjects = (
        namespace.event(at, "OrderPlaced"),
        namespace.action(at, "win-back", "DiscountOffered"),
        namespace.record(at, "win-back", "out"),
        namespace.timer(at, "win-back", "lapse"),
        namespace.due(at, "win-back", "lapse"),
    )
    for subject in subjects:
        owners = [
            namespace.shard_stream(shard)
            for shard in range(shards)
            if any(matcher(filter)(subject) for filter in namespace.stream_subjects(shard))
        ]
        assert owners == [at.stream] == [namespace.stream(at.partition)]
    lane = matcher(namespace.lane_filter(at, "win-back"))
    assert [lane(subject) for subject in subjects] == [False, True, True, False, False]
    assert not lane(namespace.action(at, "win-back2", "DiscountOffered"))


@pytest.mark.parametrize(("partitions", "shards"), [(0, 0), (4, 0), (0, 1), (4, 5), (-1, -1)])
def test_a_namespace_is_spread_sensibly(partitions: int, shards: int) -> None:
    with pytest.raises(ConfigurationError, match="at least one partition for each"):
        Namespace("test", partitions, shards)


@pytest.mark.parametrize("name", ["", "A", "a.b", "a b", "a*", "due", "a" * 65, "1a"])
def test_an_unusable_namespace_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^namespace "):
        Namespace(name)


def test_log_subjects_are_taken_apart() -> None:
    namespace = Namespace()
    at = namespace.locate("c.1")
    p, token = at.partition, "c=2E1"
    assert parse_log_subject(namespace.event(at, "OrderPlaced")) == LogSubject(p, token, "evt", None, "OrderPlaced")
    assert parse_log_subject(namespace.action(at, "w", "Done")) == LogSubject(p, token, "act", "w", "Done")
    assert parse_log_subject(namespace.due(at, "w", "lapse")) == LogSubject(p, token, "due", "w", "lapse")
    assert parse_log_subject(f"s.log.{p}.{token}.evt.redrive.w.17") == LogSubject(p, token, "redrive", "w", "17")
    for other in (namespace.record(at, "w", "out"), namespace.timer(at, "w", "lapse"), namespace.cursor("ingress", 1)):
        assert parse_log_subject(other) is None


@given(
    st.lists(
        st.sampled_from(["sojourn", "log", "²", "1", "٣", "", "evt", "act", "due", "w", "T", "redrive", "-1"]),
        max_size=9,
    )
)
def test_any_subject_is_taken_apart_or_is_none(tokens: list[str]) -> None:
    parsed = parse_log_subject(".".join(tokens))
    if parsed is not None:
        assert tokens[1] == "log" and parsed.family in {"evt", "act", "due", "redrive"}
        assert parsed.token == tokens[3]
