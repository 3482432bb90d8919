# SPDX-License-Identifier: MIT
"""The names of events that a user has typed, compared with those that a server has."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from blockcore.qapi.nearest import did_you_mean, there_are

LISTED_MAX = 20
"""How many events a message lists; QEMU has many more, for all that a guest may do."""


def separated(names: Sequence[str]) -> str | None:
    """Return an error message if names are joined by commas or in quotes; None if none are."""
    joined = [name for name in names if "," in name or " " in name]
    if not joined:
        return None
    words = " ".join(joined[0].replace(",", " ").split())
    return f"'{joined[0]}' is no name of an event: separate names with blanks, as in {words}"


def unknown(names: Iterable[str], known: Collection[str]) -> str | None:
    """Return an error message about the first name that is not `known`; None if all are."""
    for name in names:
        if name not in known:
            hint = did_you_mean(name, known)
            if not hint and len(known) <= LISTED_MAX:
                hint = f": {there_are(sorted(known))}"
            return f"there is no event '{name}'{hint}"
    return None
