"""The CDNOW log: every purchase of 23,570 customers of a music shop in their first and second year, 1997 and 1998.

Source: the data of P. Fader and B. Hardie, "Forecasting repeat sales at CDNOW" (Interfaces 31, 2001), as the package
`lifetimes` ships it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path

from sojourn.bus.catalog import Catalog
from sojourn.bus.errors import ConfigurationError
from sojourn.simulation.source import Recording, lines
from sojourn.simulation.timeline import Happening
from sojourn.simulation.vocabulary import Vocabulary

EVENTS = 69_659
CUSTOMERS = 23_570

_PACKAGE = "lifetimes"
_FILE = "CDNOW_master.txt"
_OFFERED = {"OrderPlaced": ("order_id", "amount", "total", "currency", "items")}


class Cdnow:
    """The CDNOW log as `OrderPlaced` (order_id, amount, currency, items) of the module, at midnight UTC of each day.

    A row has a customer, a date (YYYYMMDD), a number of CDs and an amount in US dollars. Rows may be identical (255
    are): an event's id is its line number, never its content. Customers' keys are as in the file, with their leading
    zeros. The amount is also the ``total``, for shops that call it that. ``path``: the file, by default the one of the
    installed package `lifetimes`, which is found without importing it.
    """

    name = "cdnow"

    def __init__(self, path: Path | None = None) -> None:
        self._path = path

    def read(self, catalog: Catalog) -> Iterator[Recording]:
        path = self._path or find()
        vocabulary = Vocabulary(catalog, _OFFERED, who="the CDNOW purchases")
        for number, line in lines(path):
            if number == 1 and not line[0].isdigit():
                continue  # The head names the columns.
            try:
                customer, date, cds, dollars = line.split()
                time = datetime.strptime(date, "%Y%m%d").replace(tzinfo=UTC)
                items, amount = int(cds), Decimal(dollars)
                if not amount.is_finite():
                    raise ValueError(f"{dollars!r} is no amount")
            except (ValueError, InvalidOperation) as error:
                raise ConfigurationError(
                    f"{path}, line {number}: {line[:80]!r} is no purchase; "
                    "a row has customer, date (YYYYMMDD), number of CDs, dollars"
                ) from error
            id = f"cdnow-{number:06d}"
            values = {"order_id": id, "amount": amount, "total": amount, "currency": "USD", "items": items}
            yield Recording(customer, Happening(time, id, vocabulary.make("OrderPlaced", customer, values)))


def find() -> Path:
    """The file inside the installed package `lifetimes`, which is not imported: it would bring pandas and scipy along.

    Raises `ConfigurationError` with the way out where it is not there.
    """
    spec = importlib.util.find_spec(_PACKAGE)
    for folder in spec.submodule_search_locations or () if spec is not None else ():
        path = Path(folder) / "datasets" / _FILE
        if path.is_file():
            return path
    missing = f"the one installed has no {_FILE}" if spec is not None else "that is not installed"
    raise ConfigurationError(
        f"the CDNOW log comes with the package lifetimes, and {missing}: pip install --no-deps lifetimes==0.11.3 "
        "(nothing of what it depends on is needed), or name the file with --file"
    )
