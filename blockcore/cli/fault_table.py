# SPDX-License-Identifier: MIT
"""Fault rules as lines of text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from blockcore.cli.amounts import typed
from blockcore.cli.tables import fitted

COLUMNS = ("FAULT", "NODE", "REQUESTS", "RANGE", "OUTCOME", "WHEN", "SEEN", "HITS")

COMMON = frozenset(
    {
        *("id", "device", "node-name", "action", "event", "state", "node-state", "iotype"),
        *("sector", "offset", "length", "count", "after", "rate", "seen", "hits", "active"),
        *("errno", "errno-name", "fua"),
    }
)
"""The members that the columns show; a kind of fault may have others."""


def table(rules: Sequence[Mapping[str, Any]], width: int | None = None) -> list[str]:
    """Return the lines of a table of rules, the members of x-query-faults."""
    return fitted(COLUMNS, [_row(rule) for rule in rules], width)


def _row(rule: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        rule["id"],
        rule.get("device") or rule["node-name"],
        requests(rule),
        place(rule),
        outcome(rule),
        _when(rule),
        str(rule["seen"]),
        _hits(rule),
    )


def requests(rule: Mapping[str, Any]) -> str:
    """Return the kinds of request of a rule: ``all`` if it names none."""
    kinds = rule.get("iotype", "all")
    words = kinds if isinstance(kinds, str) else ",".join(kinds)
    fua = {None: "", True: " FUA", False: " no FUA"}[rule.get("fua")]
    return words + fua


def place(rule: Mapping[str, Any]) -> str:
    """Return the place of a rule: ``sector 5``, ``32M-64M``, ``32M-``, or nothing for anywhere."""
    if "sector" in rule:
        return f"sector {rule['sector']}"
    if "offset" not in rule and "length" not in rule:
        return ""
    start = rule.get("offset", 0)
    end = typed(start + rule["length"]) if "length" in rule else ""
    return f"{typed(start)}-{end}"


def outcome(rule: Mapping[str, Any]) -> str:
    """Return what a rule does: the errno, or its kind with the members that only this has."""
    words = [] if rule["action"] == "error" else [rule["action"]]
    if "errno" in rule:
        words.append(rule.get("errno-name") or f"errno {rule['errno']}")
    words += [f"{name}={value}" for name, value in rule.items() if name not in COMMON]
    return " ".join(words)


def _when(rule: Mapping[str, Any]) -> str:
    words = []
    if rule["event"] != "none":
        words.append(rule["event"])
    if rule["state"]:
        now = rule.get("node-state", rule["state"])
        is_now = "" if now == rule["state"] else f" (now {now})"
        words.append(f"in state {rule['state']}{is_now}")
    if rule["after"]:
        words.append(f"after {rule['after']}")
    if rule["rate"] != 1:
        words.append(f"rate {rule['rate'] * 100:g}%")
    return " ".join(words)


def _hits(rule: Mapping[str, Any]) -> str:
    hits = str(rule["hits"])
    if "count" in rule:
        hits += f" of {rule['count']}"
    return hits if rule["active"] else f"{hits}, used up"
