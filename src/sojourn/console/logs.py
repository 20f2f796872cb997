"""Logs: readable on a terminal, JSON lines otherwise, always on standard error, never with what customers sent."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Any, Literal

import structlog
from structlog.typing import EventDict, ExcInfo, Processor, WrappedLogger

from sojourn.console.terminal import Span, is_terminal, paint, plain, wants_colour

Style = Literal["auto", "text", "json"]
Level = Literal["debug", "info", "warning", "error", "critical"]

_QUIET = ("nats", "asyncio", "httpx", "httpcore")
"""Libraries whose routine is nobody's news."""

_OURS = ("timestamp", "level")
"""What a line says of itself, in a form that readers of logs depend on."""

_LEVELS = {"debug": "2", "warning": "33", "error": "31", "critical": "1;31"}
_ORDER = {"agent": 0, "customer": 1, "envelope": 3, "correlation": 4}


def configure(*, style: Style = "auto", level: Level = "info") -> bool:
    """Sends structlog and the standard library's logging to standard error, and returns whether as text.

    ``auto`` is text on a terminal and JSON lines elsewhere. What is bound with structlog's context variables (customer,
    agent, envelope, correlation) is on every line.
    """
    text = style == "text" or (style == "auto" and is_terminal(sys.stderr))
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="%H:%M:%S" if text else "iso", utc=not text),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.ExceptionRenderer(format_exception),
        withhold,
        scrub,
    ]
    final: list[Processor] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
    if text:
        final += [escape, _render]
    else:
        final += [structlog.processors.JSONRenderer(_json, default=str)]
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=final))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
    # A log that cannot be written is no reason to print a traceback about it.
    logging.raiseExceptions = False
    logging.captureWarnings(True)
    return text


def withhold(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """Replaces what holds a customer's data by its kind: events, envelopes and bytes say what they are, no more."""
    for name, value in event.items():
        event[name] = _harmless(value)
    return event


def scrub(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """While an event is handled, hides the personal values of its customer, wherever in the line they stand. Elsewhere,
    in a thread or of a task that was left behind, those of the customers who were handled last."""
    from sojourn.bus.personal.key import handling, scrub_lately

    key = handling.get()
    if key is None and "exception" not in event and str(event.get("logger", "")).split(".")[0] == "sojourn":
        return event  # Its own words, which should stay readable.
    clean = key.scrub if key is not None else scrub_lately
    for name, value in event.items():
        if name not in _OURS and not name.startswith("_"):
            event[name] = _scrubbed(value, clean)
    return event


def escape(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """Escapes what a terminal would obey. A traceback keeps its lines."""
    for name, value in event.items():
        if isinstance(value, str):
            lines = value.split("\n") if name == "exception" else [value]
            event[name] = "\n".join(map(plain, lines))
    return event


def format_exception(exc_info: ExcInfo) -> str:
    """A traceback in which validation errors name fields and problems, not the values that were refused."""
    trace = traceback.TracebackException(*exc_info)
    _redact(trace, exc_info[1])
    return "".join(trace.format()).rstrip("\n")


def _json(line: object, **options: Any) -> str:
    """A line in which any alphabet can be read, as can what hides personal values; what does not print is escaped."""
    if (sys.stderr.encoding or "").lower().replace("-", "") != "utf8":
        return json.dumps(line, **options)
    text = json.dumps(line, ensure_ascii=False, **options)
    return text if text.isprintable() else "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)


def _redact(trace: traceback.TracebackException, error: BaseException | None) -> None:
    if error is None:
        return
    if hasattr(error, "errors") and type(error).__module__.startswith("pydantic"):
        from sojourn.bus.envelope import problems

        # There is no public way to replace a message inside a traceback.
        trace._str = problems(error)  # type: ignore[attr-defined,arg-type]  # noqa: SLF001
    for inner, cause in ((trace.__cause__, error.__cause__), (trace.__context__, error.__context__)):
        if inner is not None:
            _redact(inner, cause)
    if isinstance(error, BaseExceptionGroup) and trace.exceptions:
        for inner, member in zip(trace.exceptions, error.exceptions, strict=False):
            _redact(inner, member)


def _harmless(value: object) -> object:
    from pydantic import BaseModel

    if isinstance(value, BaseModel):
        return f"<{type(value).__name__}>"
    if isinstance(value, (bytes, bytearray, memoryview)):
        return f"<{len(value)} bytes>"
    if isinstance(value, Mapping):
        return {str(name): _harmless(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_harmless(inner) for inner in value]
    return value


def _scrubbed(value: object, scrub: Callable[[str], str]) -> object:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, Mapping):
        return {scrub(str(name)): _scrubbed(inner, scrub) for name, inner in value.items()}
    if isinstance(value, list):
        return [_scrubbed(inner, scrub) for inner in value]
    text = str(value)
    # What is no text (a number, a moment, an object of the user's) stays what it is where nothing in it is personal.
    return value if (clean := scrub(text)) == text and not _opaque(value) else clean


def _opaque(value: object) -> bool:
    """Whether a value is shown by its own ``repr`` or ``str``, which may say another thing than was looked at."""
    return not isinstance(value, (str, int, float))


def _render(logger: WrappedLogger, method: str, event: EventDict) -> str:
    """A line for people: when, what, of whom; identifiers last."""
    event.pop("logger", None)
    level, trace = str(event.pop("level", "")), event.pop("exception", None)
    spans = [Span(f"{event.pop('timestamp', '')} ", "2")]
    if level in _LEVELS:
        spans.append(Span(f"{level} ", _LEVELS[level]))
    spans.append(Span(str(event.pop("event", "")), "1"))
    if event.get("correlation") == event.get("envelope"):
        event.pop("correlation", None)
    for name in sorted(event, key=lambda name: _ORDER.get(name, 2)):
        value = event[name]
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
        spans += [Span(f" {name}=", "2"), Span(text if " " not in text else json.dumps(text, ensure_ascii=False))]
    line = paint(spans, colour=wants_colour(sys.stderr))
    return f"{line}\n{trace}" if trace else line
