"""What kind of customers there are: the parameters of a population, and chance that can be repeated."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from hashlib import blake2b
from types import MappingProxyType

_RHYTHM = (
    0.4, 0.2, 0.1, 0.1, 0.1, 0.2, 0.5, 0.9, 1.1, 1.2, 1.2, 1.3,
    1.4, 1.2, 1.1, 1.1, 1.2, 1.4, 1.7, 2.1, 2.3, 2.0, 1.4, 0.8,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Response:
    """How an action works on a shopper who sees it. Probabilities, 0 to 1.

    ``returns`` is the chance to come back for it, ``buys`` what it adds to the chance to buy on that visit; both grow
    by ``per_percent`` for each percent off where the action has a field ``percent``.
    """

    returns: float = 0.0
    buys: float = 0.0
    per_percent: float = 0.0


@dataclass(frozen=True, slots=True)
class Population:
    """What shoppers are like. Rates are per day of virtual time, chances are probabilities from 0 to 1, money is in
    the shop's currency.

    Shoppers differ: each one's rate of visits is drawn from a gamma distribution with mean ``visits`` and shape
    ``visits_shape`` (smaller: more unequal). ``returns`` maps an action's type to its effect; types that are not
    there have none.
    """

    visits: float = 0.45
    visits_shape: float = 1.4
    rhythm: tuple[float, ...] = _RHYTHM
    """24 weights: how likely a visit begins in each hour of the day, UTC."""
    pages: float = 3.0
    """Products looked at in a visit, on average, at least one."""
    pause: timedelta = timedelta(seconds=75)
    """Between two steps of a visit, on average."""
    fills_cart: float = 0.4
    """Chance that a visit puts something into the cart."""
    buys: float = 0.35
    """Chance that a visit with something in the cart ends with an order."""
    cart_median: float = 48.0
    cart_sigma: float = 0.7
    """The value of a cart is log-normal, with this median and this standard deviation of its logarithm."""
    abandoned_after: timedelta = timedelta(minutes=30)
    """How long after the last step the shop calls a cart abandoned."""
    comes_back: float = 0.15
    """Chance to come back for an abandoned cart without being asked."""
    delay: timedelta = timedelta(hours=9)
    """Between leaving a cart, or seeing an action, and coming back for it, on average."""
    goes_silent: float = 0.05
    """Chance after each visit to stay away for good, unless an action brings the shopper back."""
    fatigue: float = 0.6
    """What each action seen before leaves of the next one's effect."""
    responses: Mapping[str, Response] = field(
        default_factory=lambda: MappingProxyType(
            {
                "DiscountOffered": Response(returns=0.1, buys=0.1, per_percent=0.02),
                "ReminderSent": Response(returns=0.15, buys=0.05),
                "CustomerLapsed": Response(returns=0.1),
            }
        )
    )

    def __post_init__(self) -> None:
        chances = ("fills_cart", "buys", "comes_back", "goes_silent", "fatigue")
        for name in chances:
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)}: a chance is between 0 and 1")
        for name in ("visits", "visits_shape", "cart_median", "cart_sigma"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)}: give a number above 0")
        if self.pages < 1:
            raise ValueError(f"pages={self.pages}: a visit looks at one product at least")
        if len(self.rhythm) != 24 or min(self.rhythm) < 0 or not sum(self.rhythm):
            raise ValueError(
                "rhythm: give 24 weights, one for each hour of the day, none below 0 and not all of them 0"
            )
        for name in ("pause", "abandoned_after", "delay"):
            if getattr(self, name) <= timedelta(0):
                raise ValueError(f"{name}={getattr(self, name)}: give a duration above 0")


def chance(seed: int, *parts: str | int) -> random.Random:
    """Random numbers that are the same for the same seed and parts, in every process and on every machine.

    Each visit and each reaction of each shopper has its own, so that what one of them draws does not shift what
    another does: two runs with different agents differ only by what the agents did.
    """
    text = "\x1f".join(map(str, (seed, *parts)))
    return random.Random(int.from_bytes(blake2b(text.encode(), digest_size=8).digest()))
