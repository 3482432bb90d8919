# SPDX-License-Identifier: MIT
"""Names of events that somebody has typed, compared with those that a server has."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any


def events_of(schema: Iterable[Mapping[str, Any]]) -> set[str]:
    """The events in what `query-qmp-schema` gives."""
    return {entity["name"] for entity in schema if entity["meta-type"] == "event"}


def separated(names: Sequence[str]) -> str | None:
    """What is wrong with names that commas join; None if none are."""
    joined = [name for name in names if "," in name]
    if not joined:
        return None
    words = " ".join(word.strip() for word in joined[0].split(",") if word.strip())
    return f"'{joined[0]}' is no name of an event: separate names with blanks, as in {words}"


def unknown(names: Iterable[str], known: Collection[str]) -> str | None:
    """What is wrong with the first name that is not `known`; None if all are."""
    for name in names:
        if name not in known:
            alike = nearest(name, known)
            hint = f" Did you mean '{alike}'?" if alike else ""
            return f"there is no event '{name}'.{hint}"
    return None


def nearest(name: str, known: Collection[str]) -> str | None:
    """The known name that was probably meant, however it is written."""
    written = name.upper().replace("-", "_")
    found = get_close_matches(written, sorted(known), n=1, cutoff=0.7)
    return found[0] if found else None
