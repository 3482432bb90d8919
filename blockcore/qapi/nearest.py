# SPDX-License-Identifier: MIT
"""The right answer that is nearest to what somebody has typed.

A suggestion that is wrong costs more than none.  So a name of other first letters
has to be nearly the same to be suggested: `report` is not `port`, and `export`
is not either, though they have more letters in common than `drv` and `drive`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from difflib import SequenceMatcher
from typing import Final

ALIKE: Final = 0.7
ALIKE_ELSEWHERE: Final = 0.85
"""The least ratios of difflib's for names with the same first letter, and for others.

Tried with the names that newcomers typed: `tests/data/typed.json`.
"""

LISTED_MAX: Final = 12
"""How many right answers a message lists."""

Meanings = Mapping[str, tuple[str, ...]]
"""Words of other programs, each with the names here that may stand for it, the best first."""


def plain(name: str) -> str:
    """Return a name without what people get wrong first: case, dashes, and `x-`."""
    return name.strip().strip("-").lower().replace("_", "-").removeprefix("x-")


def nearest(typed: str, known: Iterable[str], meanings: Meanings | None = None) -> str | None:
    """Return the known name that was probably meant, or None if none is near.

    A word with a meaning stands for the first of its names that is known.
    """
    written = plain(typed)
    if not written:
        return None
    names = sorted(known)
    for name in names:
        if plain(name) == written:
            return name
    for name in (meanings or {}).get(written, ()):
        if name in names:
            return name
    return _alike(written, names)


def _alike(written: str, names: Iterable[str]) -> str | None:
    best, found = 0.0, None
    matcher = SequenceMatcher(autojunk=False)
    for name in names:
        mine, other = _where_they_differ(written, plain(name))
        matcher.set_seqs(other, mine)
        needed = ALIKE if other[:1] == mine[:1] else ALIKE_ELSEWHERE
        ratio = matcher.ratio() if mine and other else 0.0
        if ratio >= needed and ratio > best:
            best, found = ratio, name
    return found


def _where_they_differ(one: str, other: str) -> tuple[str, str]:
    """Return what two names have after the words that they begin with in common.

    Otherwise `blockdev-create` would be like `blockdev-reopen`.
    """
    mine, theirs = one.split("-"), other.split("-")
    while mine and theirs and mine[0] == theirs[0]:
        del mine[0], theirs[0]
    return "-".join(mine), "-".join(theirs)


def containing(typed: str, known: Iterable[str], most: int = 3) -> list[str]:
    """Return the known names that have `typed` as one of their words; none if they are many."""
    parts = plain(typed).split("-")
    found = []
    for name in sorted(known):
        words = plain(name).split("-")
        starts = range(len(words) - len(parts) + 1)
        if any(words[at : at + len(parts)] == parts for at in starts):
            found.append(name)
    return found if len(found) <= most else []


def did_you_mean(typed: str, known: Iterable[str], meanings: Meanings | None = None) -> str:
    """Return a clause that suggests a name, to be put behind a message; empty without any."""
    name = nearest(typed, known, meanings)
    return "" if name is None else f", did you mean '{name}'?"


def either(names: Collection[str]) -> str:
    """Return "a, b or c"."""
    *others, last = names
    return f"{', '.join(others)} or {last}" if others else last


def right_answers(typed: str, known: Collection[str], meanings: Meanings | None = None) -> str:
    """Return a clause with the nearest name, and with all names if they are few."""
    hint = did_you_mean(typed, known, meanings)
    if not known or len(known) > LISTED_MAX:
        return hint
    return f"{hint} It is {either(known)}" if hint else f": it is {either(known)}"
