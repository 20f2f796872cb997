"""Lag: how far each group is behind, measured from the server alone, so it is true while no worker runs."""

from sojourn.bus.lag.figures import Figures, GroupLag, Lag, PartitionLag
from sojourn.bus.lag.meter import Meter

__all__ = ["Figures", "GroupLag", "Lag", "Meter", "PartitionLag"]
