# SPDX-License-Identifier: MIT
"""The names of events that a user has typed, compared with those that a server has."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from blockcore.qapi.nearest import did_you_mean


def separated(names: Sequence[str]) -> str | None:
    """Return an error message if names are joined by commas; None if none are."""
    joined = [name for name in names if "," in name]
    if not joined:
        return None
    words = " ".join(word.strip() for word in joined[0].split(",") if word.strip())
    return f"'{joined[0]}' is no name of an event: separate names with blanks, as in {words}"


def unknown(names: Iterable[str], known: Collection[str]) -> str | None:
    """Return an error message about the first name that is not `known`; None if all are."""
    for name in names:
        if name not in known:
            return f"there is no event '{name}'{did_you_mean(name, known)}"
    return None
