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
    "arisen awoken begun bent bitten blown bought bound bred broken brought built burnt caught chosen dealt done "
    "drawn driven drunk dug eaten fallen fed felt fled flown forbidden foreseen forgiven forgotten fought found "
    "frozen given gone got gotten ground grown heard held hidden hung kept known laid lain leant learnt led left lent "
    "lit lost made meant met misled misread mistaken outbid outgrown outsold overdrawn overheard overpaid overridden "
    "overrun overseen oversold overtaken overthrown paid prepaid proven rebuilt redone redrawn remade repaid resent "
    "resold retaken rethought rewound rewritten ridden risen rung sat seen sent sewn shaken shone shot shown shrunk "
    "slept slid sold sought spent spoken sprung spun stolen stood struck stuck sung sunk swept swollen sworn swung "
    "taken taught thought thrown told torn undercut underpaid understood undertaken undone unpaid unsent unsold "
    "unwound upheld withdrawn withheld withstood woken won worn wound woven written".split()
)
_PARTICLES = frozenset(
    "about abroad again ahead apart around aside away back by down early for forth from in into late next off on once "
    "online out over through to together twice under up upon with".split()
)
_NOT_PARTICIPLES = frozenset(
    "bed bleed breed creed deed embed exceed feed greed hatred heed hundred indeed infrared kindred moped naked need "
    "newsfeed proceed red reed sacred screed seed shred sled speed steed succeed weed wed".split()
)
# Verbs that hardly ever begin the name of a thing: behind them a participle in the middle is an adjective
# (SendAbandonedCartEmail), and one that equals its infinitive is a noun (ApplyPriceCut).
_COMMANDS = frozenset(
    "add apply assign calculate compute create delete determine disable enable enqueue ensure evaluate execute fetch "
    "generate get handle identify initiate inform invoke make notify perform place prepare process publish remove "
    "resend resolve retrieve revoke save send validate verify".split()
)
# Those of more than one syllable whose last consonant is doubled; short ones follow a rule.
_DOUBLED = frozenset(
    "admit commit control debug defer equip format incur infer occur omit permit prefer recur refer submit "
    "transfer".split()
)
_SHORT = re.compile(r"[^aeiou]*[aeiou][bdfgklmnprstvz]")
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
_RESERVED = frozenset({"act", "saga", "due", "redrive", "ingress", "relays"})


def is_fact(name: str) -> bool:
    """Whether a class name reads as a fact about the past: a past participle after its subject (``CartAbandoned``,
    ``PriceCut``, ``OrderPlacedOnline``), or alone with its particles (``CheckedOut``, ``Returned``)."""
    first, *rest = [word.lower() for word in _WORD.findall(name)] or [""]
    while rest and (rest[-1] in _PARTICLES or rest[-1].endswith("ly") or rest[-1].isdigit()):
        rest.pop()
    if not rest:
        return _is_participle(first) and first not in _SAME_AS_INFINITIVE
    if first in _COMMANDS:
        return _is_participle(rest[-1]) and rest[-1] not in _SAME_AS_INFINITIVE
    return any(_is_participle(word) for word in rest)


def suggest_fact(name: str) -> str:
    """A past-tense name for a command: ``ProcessPayment`` becomes ``PaymentProcessed``."""
    words = _WORD.findall(name) or [name]
    first = words[0].lower()
    return "".join(words[1:]) + (first if _is_participle(first) else _participle(first)).capitalize()


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
    if verb in _DOUBLED or _SHORT.fullmatch(verb):
        verb += verb[-1]
    return verb + "ed"
