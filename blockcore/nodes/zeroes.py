# SPDX-License-Identifier: MIT
"""Zeroes as data: a buffer to write, and a test of buffers."""

from __future__ import annotations

ZEROES = bytes(1 << 20)
"""The buffer that is written repeatedly where a driver cannot zero without writing."""


def is_zero(buf: memoryview) -> bool:
    """Tell whether all bytes are zero; the test ends at the first piece that has others."""
    step = len(ZEROES)
    return all(ZEROES.startswith(buf[start : start + step]) for start in range(0, len(buf), step))
