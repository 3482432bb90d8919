# SPDX-License-Identifier: MIT
"""The log on stderr: JSON lines, or coloured text for a terminal."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Mapping
from typing import Any, TextIO, cast

import structlog
from structlog.typing import EventDict, Processor

TRACE_FRAMES = 40
"""The innermost frames of a bug that are logged.

Endless recursion has thousands (`recursion`), which say no more.
"""


class CurrentStderr:
    """A stream that writes to `sys.stderr` as it is at the time of each write.

    `Stderr` replaces `sys.stderr` after loggers were made, which keep their stream.
    """

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


def configure(style: str | None) -> None:
    """Set up logging in a style: "json", "console", or None for what suits stderr."""
    console = style == "console" or (style is None and os.isatty(2))
    renderer: Processor = (
        structlog.dev.ConsoleRenderer(colors=has_colours(os.environ, os.isatty(2)))
        if console
        else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            renderer,
        ],
        logger_factory=structlog.WriteLoggerFactory(cast(TextIO, CurrentStderr())),
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
