# SPDX-License-Identifier: MIT
"""What a failing test's report says of a machine; no I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from faultline.events import Event

EVENTS = 100
"""The events that a report has, the last that came."""

LINES = 200
"""The lines of the log that a report has, the last that were written.

A crash writes a hundred: where each thread was."""

LINE_CHARACTERS = 500
"""The length of a line; a longer one is cut off."""


def events_text(events: Sequence[Event], since: float) -> str:
    """Return events, one a line, with the seconds since a time.

    >>> print(events_text([Event("STOP", {}, 12.5), Event("RESUME", {}, 13.0)], 12.0))
      0.500 STOP
      1.000 RESUME
    """
    return _last([f"{event.time - since:7.3f} {event}" for event in events], EVENTS, "events")


def log_text(lines: Sequence[Mapping[str, Any]], since: float) -> str:
    """Return the lines of a log, with the seconds since a time.

    >>> line = {"event": "serving", "level": "info", "timestamp": "1970-01-01T00:00:12.25Z"}
    >>> print(log_text([{**line, "drives": ["vda"]}, {"event": "Segmentation fault"}], 12.0))
      0.250 info    serving drives=['vda']
                    Segmentation fault
    """
    return _last([_line(line, since) for line in lines], LINES, "lines")


def _line(line: Mapping[str, Any], since: float) -> str:
    rest = {k: v for k, v in line.items() if k not in ("event", "level", "timestamp", "trace")}
    try:
        stamp = datetime.fromisoformat(line["timestamp"]).timestamp() - since
        head = f"{stamp:7.3f} {line.get('level', ''):7} "
    except (KeyError, ValueError, TypeError):
        head = " " * 16
    text = " ".join([str(line.get("event", "")), *(f"{k}={v}" for k, v in rest.items())])
    return "\n".join([head + text, *str(line.get("trace", "")).splitlines()])


def _last(lines: Sequence[str], most: int, what: str) -> str:
    shown = [_cut(line) for line in lines[-most:]]
    left_out = len(lines) - len(shown)
    return "\n".join([*([f"({left_out} earlier {what})"] if left_out else []), *shown])


def _cut(line: str) -> str:
    if "\n" in line or len(line) <= LINE_CHARACTERS:
        return line
    return f"{line[:LINE_CHARACTERS]}..."
