# SPDX-License-Identifier: MIT
"""The right answer that is nearest to what somebody has typed.

A suggestion that is wrong costs more than none.  So a name of other first letters
has to be nearly the same to be suggested: `report` is not `port`, and `export`
is not either, though they have more letters in common than `drv` and `drive`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from difflib import SequenceMatcher
from typing import Final

ALIKE: Final = 0.7
ALIKE_ELSEWHERE: Final = 0.85
"""The least ratios of difflib's for names with the same first letter, and for others.

Tried with what newcomers typed: `tests/typed`.
"""

SURE: Final = 0.9
"""The ratio from which a name is nearer than what a word of another program means."""

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
    ratio, found = _most_alike(written, names)
    if ratio < SURE:
        for name in (meanings or {}).get(written, ()):
            if name in names:
                return name
    return found


def _most_alike(written: str, names: Iterable[str]) -> tuple[float, str | None]:
    """Return the name that is near enough to be meant, with its ratio; the nearest of them."""
    best, found = 0.0, None
    matcher = SequenceMatcher(autojunk=False)
    for name in names:
        mine, other = _where_they_differ(written, plain(name))
        matcher.set_seqs(other, mine)
        needed = ALIKE if other[:1] == mine[:1] else ALIKE_ELSEWHERE
        ratio = matcher.ratio() if mine and other else 0.0
        if len(mine) <= 3 and _is_one_letter_off(mine, other):
            # Of a short name without others before it, letters in another order only.
            if mine != written or sorted(mine) == sorted(other):
                ratio = max(ratio, ALIKE_ELSEWHERE)
        if ratio >= needed and ratio > best:
            best, found = ratio, name
    return best, found


def beginning(typed: str, known: Iterable[str], most: int = 3) -> list[str]:
    """Return the known names that go on with another word; none if they are many."""
    written = plain(typed)
    found = [name for name in known if written and plain(name).startswith(f"{written}-")]
    return found if len(found) <= most else []


def _where_they_differ(one: str, other: str) -> tuple[str, str]:
    """Return what two names have after the words that they begin with in common.

    Otherwise `blockdev-create` would be like `blockdev-reopen`.
    """
    mine, theirs = re.split("([-.])", one), re.split("([-.])", other)
    while mine and theirs and mine[0] == theirs[0]:
        del mine[0], theirs[0]
    return "".join(mine).lstrip("-."), "".join(theirs).lstrip("-.")


def _is_one_letter_off(one: str, other: str) -> bool:
    """Return whether two words of one length differ in a letter, or in the order of two."""
    if len(one) != len(other):
        return False
    wrong = [at for at, letter in enumerate(one) if letter != other[at]]
    return len(wrong) == 1 or sorted(one) == sorted(other)


def containing(typed: str, known: Iterable[str], most: int = 3) -> list[str]:
    """Return the known names that have `typed` as one of their words; none if they are many."""
    parts = plain(typed).split("-")
    found: list[str] = []
    if len(plain(typed)) < 3:
        return found
    for name in sorted(known):
        words = plain(name).split("-")
        starts = range(len(words) - len(parts) + 1)
        if any(words[at : at + len(parts)] == parts for at in starts):
            found.append(name)
    return found if len(found) <= most else []


def did_you_mean(typed: str, known: Collection[str], meanings: Meanings | None = None) -> str:
    """Return a clause that suggests names, to be put behind a message; empty without any."""
    names = sorted(known)
    name = nearest(typed, names, meanings)
    found = [name] if name else beginning(typed, names) or containing(typed, names, most=2)
    # Not by repr(): the names may be members of an enum.
    quoted = [f"'{one}'" for one in found]
    return f", did you mean {either(quoted)}?" if found else ""


def either(names: Collection[str]) -> str:
    """Return "a, b or c"."""
    *others, last = names
    return f"{', '.join(others)} or {last}" if others else last


def as_size(text: str) -> str:
    """Return a clause for a size with a unit that is none here, such as 10MB or 64KiB."""
    match = re.fullmatch("([0-9.]+) *([kmgtpe])(i?b|/s|b/s|bps)", text.strip().lower())
    return "" if match is None else f", did you mean {match[1]}{match[2].upper()}?"


def there_are(names: Collection[str]) -> str:
    """Return "there are a, b"."""
    return f"there {'is' if len(names) == 1 else 'are'} {', '.join(names)}"


def right_answers(typed: str, known: Collection[str], meanings: Meanings | None = None) -> str:
    """Return a clause with the nearest name, and with all names if they are few."""
    hint = did_you_mean(typed, known, meanings)
    if not known or len(known) > LISTED_MAX or (hint and len(known) == 1):
        return hint
    return f"{hint} It is {either(known)}" if hint else f": it is {either(known)}"
