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
    near = nearest(name.upper().replace("-", "_"), known)
    hint = f". Did you mean '{near}'?" if near else ""
    raise ValueError(f"there is no event '{name}'{hint}")


def nearest(name: str, known: Collection[str]) -> str | None:
    """Return the name that was probably meant; None if none is near.

    >>> nearest("query-statsu", ["query-status", "query-jobs"])
    'query-status'
    """
    found = get_close_matches(name, sorted(known), n=1, cutoff=0.7)
    return found[0] if found else None


def did_you_mean(name: str, known: Collection[str]) -> str:
    """Return a clause with the nearest name, to be put behind a message; empty without one.

    >>> did_you_mean("wiat", ["wait", "expect"])
    ", did you mean 'wait'?"
    """
    near = nearest(name, known)
    return f", did you mean '{near}'?" if near else ""


def right_names(name: str, known: Collection[str], most: int = 14) -> str:
    """Return a clause with the nearest name, or with all of them if they are few.

    >>> right_names("red", ["on", "off"])
    ': it is off or on'
    """
    hint = did_you_mean(name, known)
    if hint or not 0 < len(known) <= most:
        return hint
    *others, last = sorted(known)
    return f": it is {', '.join(others)} or {last}" if others else f": it is {last}"
