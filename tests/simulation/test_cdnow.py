from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections import Counter
from datetime import UTC, datetime
from decimal import Decimal
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from examples import retail
from sojourn.bus.catalog import Catalog
from sojourn.bus.errors import ConfigurationError
from sojourn.simulation.cdnow import CUSTOMERS, EVENTS, Cdnow, find
from sojourn.simulation.engine import Engine
from sojourn.simulation.replay import run_replay
from tests.nats_server import NatsServer
from tests.simulation.shop import CATALOG, Lapse, OrderPlaced, ProductViewed

HEAD = " customer_id  date number_of_cds  dollar_value\r\n"
ROWS = " 00001 19970101  1   11.77\r\n 00002 19970112  5   77.00\r\n 00002 19970112  5   77.00\r\n"

installed = pytest.mark.skipif(importlib.util.find_spec("lifetimes") is None, reason="lifetimes is not installed")


def log(folder: Path, text: str) -> Path:
    path = folder / "CDNOW_master.txt"
    path.write_bytes(text.encode())
    return path


def test_rows_become_orders_with_ids_by_line_even_where_they_are_identical(tmp_path: Path) -> None:
    recordings = list(Cdnow(log(tmp_path, HEAD + ROWS)).read(CATALOG))
    assert [(r.key, r.happening.id) for r in recordings] == [
        ("00001", "cdnow-000002"), ("00002", "cdnow-000003"), ("00002", "cdnow-000004"),
    ]  # fmt: skip
    assert recordings[1].happening.time == datetime(1997, 1, 12, tzinfo=UTC)
    assert recordings[1].happening.event == OrderPlaced(
        customer_id="00002", order_id="cdnow-000003", amount=Decimal("77.00"), items=5
    )


def test_an_order_in_dollars_is_one_to_shops_that_sell_for_several_currencies_too(tmp_path: Path) -> None:
    [first, *_] = Cdnow(log(tmp_path, ROWS)).read(Catalog([retail.OrderPlaced]))
    assert first.happening.event == retail.OrderPlaced(
        customer_id="00001", order_id="cdnow-000001", total=Decimal("11.77"), currency="USD", items=1
    )


def test_a_file_without_a_head_is_read_from_its_first_line(tmp_path: Path) -> None:
    assert len(list(Cdnow(log(tmp_path, ROWS)).read(CATALOG))) == 3


@pytest.mark.parametrize(
    "row",
    ["00001 19970101 1", "00001 19970230 1 1.00", "00001 19970101 one 1.00", "00001 19970101 1 much",
     "00001 19970101 1 NaN", "00001 19970101 1 1.00 more"],
)  # fmt: skip
def test_a_bad_row_is_an_error_that_names_its_line(tmp_path: Path, row: str) -> None:
    with pytest.raises(ConfigurationError, match=r"CDNOW_master.txt, line 5: '.*' is no purchase; a row has customer"):
        list(Cdnow(log(tmp_path, f"{HEAD}{ROWS}{row}\r\n")).read(CATALOG))


def test_a_module_without_orders_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="the CDNOW purchases make events named OrderPlaced"):
        list(Cdnow(log(tmp_path, ROWS)).read(Catalog([ProductViewed])))


def test_the_file_is_found_inside_the_package_without_importing_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = tmp_path / "lifetimes" / "datasets"
    datasets.mkdir(parents=True)
    (tmp_path / "lifetimes" / "__init__.py").write_text("raise ImportError('pandas')")
    monkeypatch.setitem(sys.modules, "lifetimes", None)
    monkeypatch.delitem(sys.modules, "lifetimes")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    importlib.invalidate_caches()
    with pytest.raises(ConfigurationError, match="the one installed has no CDNOW_master"):
        find()
    path = log(datasets, ROWS)
    assert find() == path
    assert "lifetimes" not in sys.modules


def test_without_the_package_the_error_tells_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(name: str) -> ModuleSpec | None:
        return None

    monkeypatch.setattr(importlib.util, "find_spec", none)
    with pytest.raises(ConfigurationError, match=r"pip install --no-deps lifetimes==0\.11\.3.*--file"):
        find()


def several(folder: Path) -> Path:
    """A small log in which some customers lapse, some come back, and one buys several times on a day."""
    rows = []
    for number in range(1, 21):
        for visit in range(1 + number % 4):
            rows += [f"{number:05d} 19970{1 + visit + number % 2}{1 + number:02d} 1 {number}.50"] * (1 + number % 3)
    return log(folder, HEAD + "\r\n".join(rows))


async def test_the_same_log_gives_the_same_actions_again_and_on_both_engines(
    tmp_path: Path, server: NatsServer
) -> None:
    tables = []
    for engine in (Engine("memory"), Engine("nats", "cdnow", url=server.url), Engine("nats", "cdnow", url=server.url)):
        result = await run_replay(Cdnow(several(tmp_path)), [Lapse(days=45)], CATALOG, engine=engine)
        assert result.clean
        tables.append(result.table())
    assert tables[0] == tables[1] == tables[2]
    assert tables[0]["actions"]["total"] > 10
    assert tables[0]["timers_fired"] == tables[0]["actions"]["total"]


@installed
def test_the_real_log_has_what_is_known_of_it() -> None:
    recordings = list(Cdnow().read(CATALOG))
    assert len(recordings) == EVENTS
    assert len({recording.key for recording in recordings}) == CUSTOMERS
    assert len({recording.happening.id for recording in recordings}) == EVENTS
    days = sorted({recording.happening.time for recording in recordings})
    assert (days[0], days[-1]) == (datetime(1997, 1, 1, tzinfo=UTC), datetime(1998, 6, 30, tzinfo=UTC))
    rows = Counter(find().read_text().splitlines()[1:])
    assert sum(rows.values()) - len(rows) == 255


@installed
def test_finding_the_real_log_imports_nothing_of_its_package() -> None:
    code = (
        "import sys; from sojourn.simulation.cdnow import find; find(); print({'lifetimes', 'pandas'} & {*sys.modules})"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown == "set()\n"
