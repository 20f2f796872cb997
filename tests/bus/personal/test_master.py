"""Master keys: read only from files that nobody else may read, told apart by number of line, and never shown."""

from __future__ import annotations

import copy
import os
import pickle
import stat
from base64 import b64encode
from pathlib import Path

import pytest

from sojourn.bus.errors import ConfigurationError
from sojourn.bus.personal.master import MasterKeys

FIRST = b64encode(bytes(range(32))).decode()
SECOND = b64encode(bytes(range(32, 64))).decode()


def write(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def test_a_new_file_is_read_again_and_is_its_owners_alone(tmp_path: Path) -> None:
    keys = MasterKeys.new()
    path = tmp_path / "master.key"
    old = os.umask(0)
    try:
        keys.write_new(path)
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    again = MasterKeys.from_file(path)
    assert again.ids == keys.ids == ("master-1",)
    assert again.unwrap("master-1", keys.wrap(b"secret", "x"), "x") == b"secret"


def test_a_file_that_is_there_is_not_overwritten(tmp_path: Path) -> None:
    path = write(tmp_path / "master.key", f"one {FIRST}\n")
    with pytest.raises(ConfigurationError, match="is there already"):
        MasterKeys.new().write_new(path)
    assert MasterKeys.from_file(path).ids == ("one",)


def test_the_first_of_a_file_wraps_and_all_unwrap(tmp_path: Path) -> None:
    path = write(tmp_path / "keys", f"# rotated in May\n\n  two {SECOND}  # newest\none\t{FIRST}\n")
    keys, old = MasterKeys.from_file(path), MasterKeys({"one": bytes(range(32))})
    assert (keys.ids, keys.first) == (("two", "one"), "two")
    assert "one" in keys
    assert "three" not in keys
    assert keys.unwrap("one", old.wrap(b"s", "x"), "x") == b"s"
    assert keys.unwrap("two", keys.wrap(b"s", "x"), "x") == b"s"
    assert keys.unwrap("one", keys.wrap(b"s", "x"), "x") is None


def test_what_is_wrapped_is_bound_to_its_owner_and_its_key() -> None:
    same = bytes(32)
    keys = MasterKeys({"a": same, "b": same})
    wrapped = keys.wrap(b"s", "ns/ada")
    assert keys.unwrap("a", wrapped, "ns/ada") == b"s"
    assert keys.unwrap("a", wrapped, "ns/bob") is None
    assert keys.unwrap("b", wrapped, "ns/ada") is None
    for damaged in (b"", wrapped[:5], wrapped[:-1], wrapped + b"x", bytes(len(wrapped))):
        assert keys.unwrap("a", damaged, "ns/ada") is None


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o620, 0o602, 0o666])
def test_a_file_open_to_others_is_refused(tmp_path: Path, mode: int) -> None:
    path = write(tmp_path / "keys", f"one {FIRST}\n", mode)
    with pytest.raises(ConfigurationError, match=f"{mode:04o}.*chmod 600 {path}"):
        MasterKeys.from_file(path)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "holds no master key"),
        ("# nothing\n\n", "holds no master key"),
        (f"one {FIRST}\none {SECOND}\n", "line 2: the id one stands there twice"),
        (f"one {FIRST}\n\ntwo {FIRST[:-8]}\n", "line 3: the key has (24|25|26|27) bytes, not 32"),
        (f"one {FIRST}AAAA\n", "line 1: the key has|line 1: the key is no base64"),
        ("one sesame-open\n", "line 1: the key is no base64"),
        (f"{FIRST}\n", "line 1: expected an id"),
        (f"one {FIRST} two\n", "line 1: expected an id"),
        (f"One! {FIRST}\n", "line 1: expected an id"),
        ("x" * 70_000, "larger than"),
        ("one \u00e9\u00e9\n", "line 1"),
    ],
    ids=range(11),
)
def test_what_is_wrong_is_told_by_its_line_and_without_the_key(tmp_path: Path, text: str, told: str) -> None:
    path = write(tmp_path / "keys", text)
    with pytest.raises(ConfigurationError, match=told) as caught:
        MasterKeys.from_file(path)
    assert str(path) in str(caught.value)
    for secret in (FIRST, FIRST[:-8], SECOND, "sesame"):
        assert secret not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_file_that_is_missing_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read: No such file"):
        MasterKeys.from_file(tmp_path / "none")
    with pytest.raises(ConfigurationError, match="cannot be written: No such file"):
        MasterKeys.new().write_new(tmp_path / "none" / "keys")


def test_the_environment_names_a_file_or_holds_keys(tmp_path: Path) -> None:
    path = write(tmp_path / "keys", f"one {FIRST}\n")
    assert MasterKeys.from_environment({}) is None
    assert MasterKeys.from_environment({"SOJOURN_MASTER_KEY": ""}) is None
    for environment, ids in (
        ({"SOJOURN_MASTER_KEY_FILE": str(path)}, ("one",)),
        ({"SOJOURN_MASTER_KEY": f"two {SECOND}, one {FIRST}"}, ("two", "one")),
    ):
        keys = MasterKeys.from_environment(environment)
        assert keys is not None
        assert keys.ids == ids
    with pytest.raises(ConfigurationError, match="both set"):
        MasterKeys.from_environment({"SOJOURN_MASTER_KEY": "x", "SOJOURN_MASTER_KEY_FILE": "y"})
    with pytest.raises(ConfigurationError, match="SOJOURN_MASTER_KEY, line 1") as caught:
        MasterKeys.from_environment({"SOJOURN_MASTER_KEY": FIRST})
    assert FIRST not in str(caught.value)


def test_keys_of_a_mapping_are_checked() -> None:
    for keys in ({}, {"UP": bytes(32)}, {"short": bytes(31)}, {"": bytes(32)}):
        with pytest.raises(ConfigurationError):
            MasterKeys(keys)


def test_they_show_nothing() -> None:
    keys = MasterKeys.new("a")
    assert repr(keys) == str(keys) == "MasterKeys(a)"
    assert not hasattr(keys, "__dict__")
    for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="not to be pickled"):
            attempt(keys)


def test_check_values_tell_keys_and_namespaces_apart() -> None:
    keys, others = MasterKeys.new("a"), MasterKeys.new("a")
    assert keys.check_value("a", "shop") == keys.check_value("a", "shop")
    assert len({keys.check_value("a", "shop"), others.check_value("a", "shop"), keys.check_value("a", "bank")}) == 3
