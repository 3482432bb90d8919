# SPDX-License-Identifier: MIT
"""Sizes in bytes as people write them."""

from __future__ import annotations

import re

SUFFIXES = "BKMGTPE"

Size = int | str
"""A number of bytes, or a text such as "64k", "1.5G" (powers of 1024, as QEMU's)."""


def in_bytes(size: Size) -> int:
    """Return a size as a number of bytes; raises ValueError for a text that is no size.

    >>> in_bytes("32M"), in_bytes("64k"), in_bytes("1.5G"), in_bytes("512"), in_bytes(512)
    (33554432, 65536, 1610612736, 512, 512)
    """
    if isinstance(size, int):
        return size
    found = re.fullmatch(r"(-?\d+(?:\.\d+)?)([BKMGTPE]?)", size.strip().upper())
    if found is None:
        raise ValueError(f"{size!r} is not a size, such as 512, 64k or 1.5G")
    scale = 1 << 10 * SUFFIXES.index(found[2] or "B")
    exact = float(found[1]) * scale if "." in found[1] else int(found[1]) * scale
    if exact != int(exact):
        raise ValueError(f"{size!r} is not a whole number of bytes")
    return int(exact)


def size_of(size: Size | None) -> int | None:
    """Return a size as a number of bytes, and None for one that is not given."""
    return None if size is None else in_bytes(size)
