# SPDX-License-Identifier: MIT
"""Tables of texts: columns below each other, or cells in lines where the screen is narrow."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Sequence

INDENT = "  "


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a line for each row, with its cells below those of the row before."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def fitted(
    heading: Sequence[str], rows: Sequence[Sequence[str]], width: int | None
) -> list[str]:
    """Return the lines of a table that is at most `width` columns wide; None is any width.

    Columns without a cell are left out.  If that is too wide, each row is its first
    cell, and below that the others, as many in a line as fit, all with their headings.
    """
    used = [at for at in range(len(heading)) if any(row[at] for row in rows)]
    heading = [heading[at] for at in used]
    rows = [[row[at] for at in used] for row in rows]
    lines = aligned([heading, *([cell or "-" for cell in row] for row in rows)])
    if width is None or max(map(len, lines)) <= width:
        return lines
    return [line for row in rows for line in _record(heading, row, width)]


def _record(heading: Sequence[str], row: Sequence[str], width: int) -> Iterable[str]:
    yield f"{heading[0]} {row[0]}"
    line = ""
    for name, cell in zip(heading[1:], row[1:], strict=True):
        if not cell:
            continue
        text = f"{name.lower()} {cell}"
        if line and len(f"{line}, {text},") > width:
            yield f"{line},"
            line = ""
        line = f"{line}, {text}" if line else f"{INDENT}{text}"
    if line:
        yield line


def screen_width() -> int | None:
    """Return the columns of the terminal that stdout is; None if it is none.

    The program that reads a pipe takes lines of any length.
    """
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None
