"""Structured logs on stderr: JSON lines, or colours for a terminal."""

from __future__ import annotations

import sys

import structlog


def configure(style: str | None) -> None:
    """Set up logging; `style` is "json", "console", or None: what suits stderr."""
    console = style == "console" or (style is None and sys.stderr.isatty())
    renderer = (
        structlog.dev.ConsoleRenderer() if console else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            renderer,
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
