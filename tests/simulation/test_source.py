from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from sojourn.bus.envelope import encode
from sojourn.bus.errors import ConfigurationError
from sojourn.simulation.source import JsonLines, Past, lines
from tests.simulation.shop import CATALOG, CartAbandoned
from tests.simulation.world import abandoned, at, ordered


def document(kind: str = "event") -> str:
    event = CartAbandoned(customer_id="a", cart_value=Decimal(80))
    return encode(event, id="1", source="/shop", key="a", time=at(1), kind=kind).decode()


def test_documents_keep_their_id_time_and_customer(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text(f"{document()}\n\n{document('out')}\n{document('due')}\n")
    [recording] = JsonLines(path).read(CATALOG)
    assert recording.key == "a"
    assert recording.happening == (at(1), "1", CartAbandoned(customer_id="a", cart_value=Decimal(80)))
    assert JsonLines(path).name == str(path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: .*EOF"),
        ("[]", "line 2: no CloudEvents document"),
        ('{"type": 3}', "line 2: no CloudEvents document"),
        ('{"type": "OrderShipped"}', "line 2: the module has no event type 'OrderShipped'"),
        ('{"type": "CartAbandoned"}', "line 2: no CloudEvents 1.0 document"),
        (document().replace("80", "much"), "line 2: not JSON|line 2: data does not fit"),
    ],
)
def test_what_cannot_be_used_is_an_error_that_names_the_line(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text(f"{document()}\n{line}\n")
    with pytest.raises(ConfigurationError, match=message):
        list(JsonLines(path).read(CATALOG))


def test_a_file_that_is_not_there_or_no_text_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read: No such file"):
        list(lines(tmp_path / "none"))
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigurationError, match="is no UTF-8 text"):
        list(lines(tmp_path / "binary"))


def test_a_line_without_end_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sojourn.simulation.source.MAX_LINE", 10)
    (tmp_path / "long").write_text("short\n" + "x" * 20)
    with pytest.raises(ConfigurationError, match="line 2: longer than"):
        list(lines(tmp_path / "long"))


def test_the_past_is_lived_in_order_and_does_not_react() -> None:
    past = Past("a", [ordered("a", 1), abandoned("a", 2)])
    assert past.key == "a"
    assert past.next_at() == at(1)
    assert past.take() == ordered("a", 1)
    assert past.take() == abandoned("a", 2)
    assert past.next_at() is None
