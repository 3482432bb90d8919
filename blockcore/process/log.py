# SPDX-License-Identifier: MIT
"""The log, on stderr or in a file: JSON lines, or coloured text for a terminal."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Any, TextIO, cast

import structlog
from structlog.typing import EventDict, Processor

TRACE_FRAMES = 40
"""The innermost frames of a bug that are logged.

Endless recursion has thousands (`recursion`), which say no more.
"""


LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
"""The levels that lines can be asked for, with their numbers in `logging`."""


class CurrentStream:
    """A stream that writes to what `current` returns at the time of each write.

    `Stderr` replaces `sys.stderr` after loggers were made, which keep their stream.
    """

    def __init__(self, current: Callable[[], TextIO]) -> None:
        self._current = current

    def write(self, text: str) -> int:
        return self._current().write(text)

    def flush(self) -> None:
        self._current().flush()


def configure(
    style: str | None,
    level: str | None = None,
    stream: Callable[[], TextIO] = lambda: sys.stderr,
    descriptor: int = 2,
) -> None:
    """Set up logging in a style: "json", "console", or None for what suits the descriptor.

    Lines below `level`, one of `LEVELS`, are dropped.  Each goes to what `stream`
    returns then; `descriptor` is where that writes to.
    """
    is_terminal = os.isatty(descriptor)
    console = style == "console" or (style is None and is_terminal)
    renderer: Processor = (
        structlog.dev.ConsoleRenderer(colors=has_colours(os.environ, is_terminal))
        if console
        else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level or "debug"]),
        logger_factory=structlog.WriteLoggerFactory(cast(TextIO, CurrentStream(stream))),
        cache_logger_on_first_use=True,
    )


def has_colours(environ: Mapping[str, str], is_terminal: bool) -> bool:
    """Return whether to use colours: on a terminal, unless the user refuses (no-color.org)."""
    return is_terminal and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"


def level_of(event: str, data: Mapping[str, Any]) -> str:
    """Return the log level of a QMP event: "info", "warning" or "error"."""
    if event in ("BLOCK_IO_ERROR", "BLOCK_JOB_ERROR"):
        return "warning" if data["action"] == "ignore" else "error"
    if event == "BLOCK_IMAGE_CORRUPTED" or (event == "BLOCK_JOB_COMPLETED" and "error" in data):
        return "error"
    return "info"


def trace_of(error: BaseException | None) -> str:
    """Return the traceback of an exception as text for the log; empty for None.

    Does not use `traceback.format_exception`, which `plugin/failure.py` replaces.
    """
    if error is None:
        return ""
    trace = error.__traceback__
    told = traceback.TracebackException(type(error), error, trace, limit=-TRACE_FRAMES)
    return "".join(told.format())


def line_about_lost(lines: int) -> bytes:
    """Return the line of the log that says how many lines are missing before it."""
    event: EventDict = {"event": f"{lines} lines of the log were lost"}
    for processor in structlog.get_config()["processors"]:
        event = processor(None, "warning", event)
    return f"{event}\n".encode()
