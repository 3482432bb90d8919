# SPDX-License-Identifier: MIT
"""Zeroes as data."""

from __future__ import annotations

ZEROES = bytes(1 << 20)
"""What a driver cannot make zero cheaply is written over with this, again and again."""


def is_zero(buf: memoryview) -> bool:
    """Whether all bytes are zero; looks no further than to the first piece that is not."""
    step = len(ZEROES)
    return all(ZEROES.startswith(buf[start : start + step]) for start in range(0, len(buf), step))
