# SPDX-License-Identifier: MIT
"""The names of events that a user has typed, compared with those that a server has."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any


def events_of(schema: Iterable[Mapping[str, Any]]) -> set[str]:
    """Return the names of all events in a schema (the reply to query-qmp-schema)."""
    return {entity["name"] for entity in schema if entity["meta-type"] == "event"}


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
            alike = nearest(name, known)
            hint = f" Did you mean '{alike}'?" if alike else ""
            return f"there is no event '{name}'.{hint}"
    return None


def nearest(name: str, known: Collection[str]) -> str | None:
    """Return the known name that the user probably meant, in any case; None if none is close."""
    written = name.upper().replace("-", "_")
    found = get_close_matches(written, sorted(known), n=1, cutoff=0.7)
    return found[0] if found else None
