# SPDX-License-Identifier: MIT
"""What this process would have written into its log."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

from blockcore.process.log import Line, logger


@contextmanager
def capture_logs() -> Iterator[list[Line]]:
    """Collect lines, in order, instead of writing them; without their time."""
    lines: list[Line] = []

    def write(level: str, event: str, data: Line) -> None:
        lines.append({**data, "event": event, "level": level})

    with patch.object(logger, "write", write):
        yield lines
