"""Sojourn's own keywords in a JSON Schema: what decides which documents are read, and has no word in the standard."""

from __future__ import annotations

KEY = "x-sojourn-key"
"""Marks the property that says whose journey an event belongs to."""
PERSONAL = "x-sojourn-personal"
"""Marks a value that is sealed on the wire."""

DECIMAL = "decimal"
"""The format of a Decimal's text."""
DIGITS = "x-sojourn-max-digits"
PLACES = "x-sojourn-decimal-places"
NAN = "x-sojourn-nan"
"""True: a Decimal may be NaN or infinite."""

COMPLETE = "x-sojourn-complete"
"""True, of a whole schema: it says all that these keywords can say. One registered by an earlier build does not."""

ZONE = "x-sojourn-zone"
"""Of a time: ``required``, ``none``, or the one offset from UTC that is allowed, in seconds."""
NOW = "x-sojourn-now"
"""Where a time has to lie when it is read: ``past`` or ``future``."""
LOWEST = "x-sojourn-minimum"
HIGHEST = "x-sojourn-maximum"
ABOVE = "x-sojourn-exclusive-minimum"
BELOW = "x-sojourn-exclusive-maximum"
"""Bounds of dates and times as ISO 8601 texts, those of durations in seconds: ``PT3600S``."""

TEXT_OF = "x-sojourn-text-of"
"""A schema: the text is read as such a value. In a mapping's names, which JSON only has as texts."""
READ_AS = "x-sojourn-read-as"
"""Of a model: the names under which a property is looked for, in this order, where there are others than its own; a
path is a list."""
CHOSEN = "x-sojourn-chosen"
"""True: a function chooses among the members of a union."""

STRIP = "x-sojourn-strip"
"""True: spaces around a text are cut off before it is held to its other limits."""
ASCII = "x-sojourn-ascii"
FLAGS = "x-sojourn-pattern-flags"
"""The flags of a pattern, as Python's `re` counts them."""
STRICT = "x-sojourn-strict"
"""True: 1.0 is no integer."""
BITS = "x-sojourn-bits"
"""The sum of the flags that an integer may be made of."""
MEMBERS = "x-sojourn-members"
"""The flags that have names, in their order: what an earlier build, and pydantic, take for all there can be."""
SCHEMES = "x-sojourn-schemes"
"""The schemes that a URL may have, sorted."""
HOST = "x-sojourn-host"
"""True: a URL needs a host."""

OWN = frozenset(
    {
        *(KEY, PERSONAL, COMPLETE, DIGITS, PLACES, NAN, ZONE, NOW, LOWEST, HIGHEST, ABOVE, BELOW),
        *(TEXT_OF, READ_AS, CHOSEN, STRIP, ASCII, FLAGS, STRICT, BITS, MEMBERS, SCHEMES, HOST),
    }
)
