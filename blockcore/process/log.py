# SPDX-License-Identifier: MIT
"""The log, on stderr or in a file: JSON lines, or coloured text for a terminal."""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any, TextIO

from blockcore.bql.later import later, without

TRACE_FRAMES = 40
"""The innermost frames of a bug that are logged.

Endless recursion has thousands (`recursion`), which say no more.
"""


LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
"""The levels that lines can be asked for, with their numbers in `logging`."""

_ConsoleRenderer = later("structlog.dev:ConsoleRenderer")
"""structlog draws the log for people only: its import takes as long as a third of a start."""

Line = dict[str, Any]
"""What a line says: its data, then `event`, `level` and `timestamp`."""


class Logger:
    """The log of the process: each call writes a line; on any thread.

    `data` are further members of the line.  `render` turns a line into text.  Lines below
    the level with the number `least` are dropped; `stream` returns where to write.
    """

    def __init__(self) -> None:
        self.render: Callable[[Line], str] = as_json
        self.stream: Callable[[], TextIO] = lambda: sys.stderr
        self.least = 0

    def info(self, event: str, **data: Any) -> None:
        self.write("info", event, data)

    def warning(self, event: str, **data: Any) -> None:
        self.write("warning", event, data)

    def error(self, event: str, **data: Any) -> None:
        self.write("error", event, data)

    def critical(self, event: str, **data: Any) -> None:
        self.write("critical", event, data)

    def write(self, level: str, event: str, data: Mapping[str, Any]) -> None:
        """Write a line, unless its level is below the least."""
        if LEVELS.get(level, self.least) >= self.least:
            stream = self.stream()
            stream.write(self.text(level, event, data) + "\n")
            stream.flush()

    def text(self, level: str, event: str, data: Mapping[str, Any]) -> str:
        """Return a line, without its end, as it is written at this moment."""
        return self.render({**data, "event": event, "level": level, "timestamp": _now()})


def as_json(line: Line) -> str:
    """Return a line as JSON; values that JSON does not have are shown as Python shows them."""
    return json.dumps(line, default=repr)


def _now() -> str:
    """Return the time as ISO 8601 has it, in UTC, to the microsecond."""
    seconds, rest_ns = divmod(time.time_ns(), 10**9)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{rest_ns // 1000:06}Z"


logger = Logger()


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
    logger.stream, logger.least = stream, LEVELS[level or "debug"]
    if style == "console" or (style is None and is_terminal):
        # structlog imports rich if it is there, to draw tracebacks, of which there are none here.
        with without("rich"):
            renderer_class = _ConsoleRenderer()
        renderer = renderer_class(colors=has_colours(os.environ, is_terminal))
        logger.render = lambda line: str(renderer(None, line["level"], line))
    else:
        logger.render = as_json


def has_colours(environ: Mapping[str, str], is_terminal: bool) -> bool:
    """Return whether to use colours: on a terminal, unless the user refuses (no-color.org)."""
    return is_terminal and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"


def level_of(event: str, data: Mapping[str, Any]) -> str:
    """Return the log level of a QMP event: "info", "warning" or "error"."""
    if event in ("BLOCK_IO_ERROR", "BLOCK_JOB_ERROR"):
        return "warning" if data["action"] in ("ignore", "retry") else "error"
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
    return f"{logger.text('warning', f'{lines} lines of the log were lost', {})}\n".encode()
