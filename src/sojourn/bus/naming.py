"""Names: events are facts about the past, writers and namespaces are plain tokens."""

from __future__ import annotations

import re

from sojourn.bus.errors import ConfigurationError

# Past participles that do not end in -ed. Those equal to their own infinitive cannot open a name: SetPrice is a
# command.
_SAME_AS_INFINITIVE = frozenset(
    "beat bet bid burst cast come cost cut become hit hurt let overcome put quit read reset run set shed shut split "
    "spread upset".split()
)
_IRREGULAR = _SAME_AS_INFINITIVE | frozenset(
    "arisen awoken begun bent bitten blown bought bound bred broken brought built burnt caught chosen dealt done drawn "
    "driven drunk dug eaten fallen fed felt fled flown forbidden forgiven forgotten fought found frozen given gone got "
    "gotten ground grown heard held hidden hung kept known laid lain leant learnt led left lent lit lost made meant "
    "met mistaken outgrown overridden overrun overtaken paid prepaid proven rebuilt redone repaid resold resent "
    "retaken rewritten ridden risen rung sat seen sent sewn shaken shown shrunk slept slid sold sought spent spoken "
    "sprung stolen stood stopped struck stuck sung sunk swept sworn swung taken taught thought thrown told torn understood "
    "undone unpaid unsent unsold withdrawn withheld woken won worn wound woven written".split()
)
_PARTICLES = frozenset(
    "about abroad again ahead apart around aside away back by down early for forth from in into late next off on once "
    "online out over through to together twice under up upon with".split()
)
_NOT_PARTICIPLES = frozenset(
    "bed bleed breed creed deed embed exceed feed greed heed hundred need newsfeed proceed red reed sacred seed shred "
    "sled speed succeed weed wed".split()
)
_INFINITIVES = {
    "begin": "begun",
    "break": "broken",
    "bring": "brought",
    "build": "built",
    "buy": "bought",
    "catch": "caught",
    "choose": "chosen",
    "cut": "cut",
    "do": "done",
    "draw": "drawn",
    "find": "found",
    "forget": "forgotten",
    "freeze": "frozen",
    "get": "got",
    "give": "given",
    "go": "gone",
    "hide": "hidden",
    "hit": "hit",
    "hold": "held",
    "keep": "kept",
    "know": "known",
    "leave": "left",
    "lend": "lent",
    "let": "let",
    "lose": "lost",
    "make": "made",
    "meet": "met",
    "pay": "paid",
    "put": "put",
    "quit": "quit",
    "read": "read",
    "rebuild": "rebuilt",
    "repay": "repaid",
    "reset": "reset",
    "resend": "resent",
    "run": "run",
    "see": "seen",
    "sell": "sold",
    "send": "sent",
    "set": "set",
    "show": "shown",
    "shut": "shut",
    "spend": "spent",
    "split": "split",
    "spread": "spread",
    "steal": "stolen",
    "take": "taken",
    "teach": "taught",
    "tell": "told",
    "throw": "thrown",
    "win": "won",
    "withdraw": "withdrawn",
    "withhold": "withheld",
    "write": "written",
}
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z][a-z]*|[a-z]+|\d+")
_TOKEN = re.compile(r"[a-z][a-z0-9-]*")
_RESERVED = frozenset({"act", "saga", "due", "redrive", "ingress"})


def is_fact(name: str) -> bool:
    """Whether a class name reads as a fact about the past: a past participle after its subject (``CartAbandoned``,
    ``PriceCut``, ``OrderPlacedOnline``), or alone with its particles (``CheckedOut``, ``Returned``)."""
    words = [word.lower() for word in _WORD.findall(name)]
    if any(_is_participle(word) for word in words[1:]):
        return True
    first = words[0] if words else ""
    return (
        _is_participle(first)
        and first not in _SAME_AS_INFINITIVE
        and all(word in _PARTICLES or word.isdigit() for word in words[1:])
    )


def suggest_fact(name: str) -> str:
    """A past-tense name for a command: ``ProcessPayment`` becomes ``PaymentProcessed``."""
    words = _WORD.findall(name) or [name]
    return "".join(words[1:]) + _participle(words[0].lower()).capitalize()


def check_token(what: str, name: str) -> str:
    """Returns ``name`` if it can name a writer, group, timer or namespace: ``[a-z][a-z0-9-]*``, 64 characters, not
    reserved."""
    if not _TOKEN.fullmatch(name) or len(name) > 64:
        raise ConfigurationError(
            f"{what} {name!r} is not a usable name: use a-z, 0-9 and '-', start with a letter, 64 characters at most"
        )
    if name in _RESERVED:
        raise ConfigurationError(
            f"{what} {name!r} is reserved (as are {', '.join(sorted(_RESERVED - {name}))}): choose another"
        )
    return name


def _is_participle(word: str) -> bool:
    return word in _IRREGULAR or (word.endswith("ed") and len(word) > 3 and word not in _NOT_PARTICIPLES)


def _participle(verb: str) -> str:
    if verb in _INFINITIVES:
        return _INFINITIVES[verb]
    if verb.endswith("e"):
        return verb + "d"
    if verb.endswith("y") and verb[-2:-1] not in "aeiou":
        return verb[:-1] + "ied"
    return verb + "ed"
