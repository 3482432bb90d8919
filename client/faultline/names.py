# SPDX-License-Identifier: MIT
"""Names that somebody has typed, compared with those that exist."""

from __future__ import annotations

from collections.abc import Collection
from difflib import get_close_matches


def check_name(name: str, known: Collection[str]) -> None:
    """Raise ValueError if there is no event of a name; the message has the nearest that exists.

    >>> check_name("BLOCK_IO_EROR", {"BLOCK_IO_ERROR", "STOP"})
    Traceback (most recent call last):
    ...
    ValueError: there is no event 'BLOCK_IO_EROR'. Did you mean 'BLOCK_IO_ERROR'?
    """
    if name in known:
        return
    written = name.upper().replace("-", "_")
    nearest = get_close_matches(written, sorted(known), n=1, cutoff=0.7)
    hint = f". Did you mean '{nearest[0]}'?" if nearest else ""
    raise ValueError(f"there is no event '{name}'{hint}")
