# SPDX-License-Identifier: MIT
"""Sizes, speeds and times as people read them."""

from __future__ import annotations

UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
SUFFIXES = ("", "k", "M", "G", "T", "P", "E")


def size(nbytes: float) -> str:
    """Return a size in the largest binary unit of which there is at least one."""
    power = 0
    # 1023.95 would become "1024.0".
    while power + 1 < len(UNITS) and nbytes >= 1023.95:
        nbytes, power = nbytes / 1024, power + 1
    return f"{nbytes:.{1 if power else 0}f} {UNITS[power]}"


def limit(speed: int) -> str:
    """Return a speed limit (bytes per second, 0 for none) in words."""
    return f"{size(speed)}/s" if speed else "unlimited"


def duration(seconds: float) -> str:
    """Return ``1:04``, or with hours ``2:01:04``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def shortened(text: str, width: int) -> str:
    """Return a text in at most `width` columns, without its middle if it is longer.

    Names tend to differ at one of their ends, so both are kept.
    """
    if len(text) <= width:
        return text
    head = width // 2
    return f"{text[:head]}…{text[len(text) - (width - head - 1):]}"


def typed(nbytes: int) -> str:
    """Return a size as it can be typed, without rounding: ``32M``, ``65537``."""
    power = 0
    while nbytes and nbytes % 1024 == 0 and power + 1 < len(SUFFIXES):
        nbytes, power = nbytes // 1024, power + 1
    return f"{nbytes}{SUFFIXES[power]}"
