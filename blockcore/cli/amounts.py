# SPDX-License-Identifier: MIT
"""Sizes, speeds and times as people read them, and tables of texts."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence

UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


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


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a line for each row, with its cells below those of the row before."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def screen_width() -> int | None:
    """Return the columns of the terminal that stdout is; None if it is none.

    The program that reads a pipe takes lines of any length.
    """
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None
