"""Asks before what cannot be undone."""

from __future__ import annotations

import sys

import click

from sojourn.bus.errors import SojournError
from sojourn.console.terminal import is_terminal


class Declined(SojournError):
    """The user was asked, and said no."""


def require_answer(*, yes: bool, look: str) -> None:
    """Raises `click.UsageError` where nobody said ``--yes`` and nobody can be asked. ``look``: how to look first."""
    if not yes and not is_terminal(sys.stdin):
        raise click.UsageError(f"nobody is there to be asked: say --yes, or look first: {look}")


def confirm(question: str, *, yes: bool, otherwise: str) -> None:
    """Asks on the terminal, unless ``yes``. Raises `Declined` with ``otherwise``, and `click.Abort` at an interrupt."""
    if not yes and not click.confirm(question, err=True):
        raise Declined(otherwise)
