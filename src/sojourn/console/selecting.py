"""Options that choose among dead letters."""

from __future__ import annotations

import functools
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

import click

from sojourn.console.moments import Moment
from sojourn.console.parameters import AgentName, CustomerKey

if TYPE_CHECKING:
    from sojourn.bus.deadletters import Selection

F = TypeVar("F", bound=Callable[..., Any])


class Choice(NamedTuple):
    """What was chosen on the command line; what is None does not matter."""

    agent: str | None = None
    customer: str | None = None
    type: str | None = None
    error: str | None = None
    reason: str | None = None
    since: datetime | None = None
    until: datetime | None = None

    @property
    def narrows(self) -> bool:
        """Whether anything was chosen."""
        return any(part is not None for part in self)

    def selection(self, status: Literal["open", "redriven", "dropped", "all"] = "all") -> Selection:
        """The same for the bus."""
        from sojourn.bus.deadletters import Selection

        return Selection(
            self.agent, self.customer, self.type, self.error, self.reason, self.since, self.until, status=status
        )


def choosing(command: F) -> F:
    """Adds the options that choose among dead letters; the command gets them as ``choice``."""

    @functools.wraps(command)
    def wrapped(**options: Any) -> object:
        choice = Choice(*(options.pop(name) for name in Choice._fields))
        return command(choice=choice, **options)

    added = (
        click.option("--agent", type=AgentName(ingress=True), help="Only those of this agent, or of the ingress."),
        click.option("--customer", type=CustomerKey(), help="Only those of this customer."),
        click.option("--type", metavar="NAME", help="Only those of this event type."),
        click.option("--error", metavar="NAME", help="Only those with this class of error, such as ValueError."),
        click.option("--reason", metavar="TEXT", help="Only those whose reason has this text in it."),
        click.option("--since", type=Moment(), help="Only those from then on: 2h (ago), 2026-11-01, 2026-11-01T09:30."),
        click.option("--until", type=Moment(), help="Only those of before."),
    )
    for option in reversed(added):
        wrapped = option(wrapped)
    return wrapped  # type: ignore[return-value]  # the same command, with fewer arguments for its caller
