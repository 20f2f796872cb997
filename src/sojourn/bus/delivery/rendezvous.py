"""Which worker should run a partition: rendezvous hashing, which needs no leader and no table.

Every worker ranks all workers for each partition by a hash of the three names; the highest one runs it. So all that
know the same members agree, and a worker that comes or goes moves only the partitions that it gains or had: about 1/n
of them. Source: Thaler and Ravishankar, "A name-based mapping scheme for rendezvous", 1996.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from hashlib import blake2b


def preferred(group: str, partition: int, workers: Iterable[str]) -> str | None:
    """The one of ``workers`` that should run the partition; None where there are none."""
    return max(workers, key=lambda worker: (_weight(group, partition, worker), worker), default=None)


@lru_cache(maxsize=65_536)
def _weight(group: str, partition: int, worker: str) -> bytes:
    # Names hold no spaces, so that no two of these texts are the same.
    return blake2b(f"{group} {partition} {worker}".encode(), digest_size=8).digest()
