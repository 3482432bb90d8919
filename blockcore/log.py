"""Structured logs on stderr: JSON lines, or colours for a terminal."""

from __future__ import annotations

import os
from typing import TextIO, cast

import structlog
from structlog.typing import EventDict, Processor

from blockcore.stderr import Stderr


def start(style: str | None) -> Stderr:
    """Log to stderr from now on, on threads of its own.

    `style` is "json", "console", or None: what suits stderr.
    """
    console = style == "console" or (style is None and os.isatty(2))
    renderer: Processor = (
        structlog.dev.ConsoleRenderer() if console else structlog.processors.JSONRenderer()
    )
    processors: list[Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        renderer,
    ]

    def tell_lost(lines: int) -> bytes:
        event: EventDict = {"event": f"{lines} lines of the log were lost"}
        for processor in processors:
            event = processor(None, "warning", event)  # type: ignore[assignment]
        return f"{event}\n".encode()

    stderr = Stderr(tell_lost)
    structlog.configure(
        processors=processors,
        logger_factory=structlog.WriteLoggerFactory(cast(TextIO, stderr.stream)),
        cache_logger_on_first_use=True,
    )
    return stderr
