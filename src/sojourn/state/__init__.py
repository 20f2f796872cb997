"""Journeys: what is known of one customer, as a fold of the log."""

from sojourn.state.fold import JourneyState, fold
from sojourn.state.journey import Journey, evolve

__all__ = ["Journey", "JourneyState", "evolve", "fold"]
