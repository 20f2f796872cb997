"""An agent whose every answer is for another customer, for tests of the relay."""

from __future__ import annotations

from collections.abc import Iterator

from sojourn import Agent, Event, Journey, Key, agent, evolve, on


class LetterPosted(Event):
    """A letter that goes from hand to hand: ``route`` names those it has still to reach. ``n`` is its number."""

    customer_id: Key
    n: int
    route: tuple[str, ...]


class LetterForwarded(Event):
    """It has reached the next one, from the hands of ``sender``."""

    customer_id: Key
    n: int
    route: tuple[str, ...]
    sender: str


class Mailbox(Journey):
    """How many letters somebody got."""

    letters: int = 0

    @evolve(LetterForwarded)
    def got(self, event: LetterForwarded) -> None:
        self.letters += 1


@agent("courier", start="beginning")
class Courier(Agent[Mailbox]):
    """Takes every letter to the next one on its route."""

    @on(LetterPosted)
    def posted(self, event: LetterPosted) -> Iterator[LetterForwarded]:
        if event.route:
            yield forwarded(event.customer_id, event.n, event.route)

    @on(LetterForwarded)
    def arrived(self, event: LetterForwarded) -> Iterator[LetterForwarded]:
        if event.route:
            yield forwarded(event.customer_id, event.n, event.route)


def forwarded(sender: str, n: int, route: tuple[str, ...]) -> LetterForwarded:
    return LetterForwarded(customer_id=route[0], n=n, route=route[1:], sender=sender)
