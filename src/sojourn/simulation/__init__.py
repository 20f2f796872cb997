"""Simulation: synthetic and recorded customers live with agents in virtual time.

`run_simulation` and `run_replay` do a whole run; `Population` says what synthetic customers are like; a `Timeline` is a
customer of your own, a `Source` a record of your own.
"""

from sojourn.simulation.audit import Tally
from sojourn.simulation.cdnow import Cdnow
from sojourn.simulation.engine import Engine
from sojourn.simulation.population import Population, Response, chance
from sojourn.simulation.replay import ReplayResult, run_replay
from sojourn.simulation.run import Timing, Watching
from sojourn.simulation.shoppers import Shopper
from sojourn.simulation.simulate import SimulationResult, run_simulation
from sojourn.simulation.source import JsonLines, Recording, Source
from sojourn.simulation.timeline import Happening, Timeline

__all__ = [
    "Cdnow",
    "Engine",
    "Happening",
    "JsonLines",
    "Population",
    "Recording",
    "ReplayResult",
    "Response",
    "Shopper",
    "SimulationResult",
    "Source",
    "Tally",
    "Timeline",
    "Timing",
    "Watching",
    "chance",
    "run_replay",
    "run_simulation",
]
