# SPDX-License-Identifier: MIT
"""Fault rules as lines of a file, in the syntax of ``fault=``; no I/O."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from faultline.drives import keyval

COUNTED = frozenset(
    {"device", "node-name", "node-state", "errno-name", "seen", "hits", "hanging", "active"}
)
"""What x-query-faults tells of a rule, besides the members of x-fault-add."""

USUAL = {"action": "error", "event": "none", "state": 0, "after": 0, "rate": 1}
"""Members that x-query-faults shows of all rules, and those values that need not be said."""


def rule_line(rule: str | Mapping[str, Any]) -> str:
    """Return a rule as a line: keyval, or a JSON object where that is not possible.

    `rule` has the members of x-fault-add, or is such a line already.

    >>> rule_line({"node-name": "vda", "iotype": ["read", "write"], "errno": "ENOSPC"})
    'vda,iotype.0=read,iotype.1=write,errno=ENOSPC'
    """
    if isinstance(rule, str):
        return rule
    members = {name: value for name, value in rule.items() if value is not None}
    name = str(members.pop("node-name", ""))
    pairs: dict[str, Any] = {}
    for key, value in members.items():
        if isinstance(value, list | tuple):
            pairs |= {f"{key}.{at}": item for at, item in enumerate(value)}
        else:
            pairs[key] = value
    # A bare word is the node's name, if it can be taken for nothing else.
    plain = re.fullmatch(r"[A-Za-z0-9._-]+", name)
    head = [name] if plain else [keyval({"node-name": name})] if name else []
    line = ",".join([*head, *([keyval(pairs)] if pairs else [])])
    if line != line.strip() or re.search(r"[\r\n]", line):
        return json.dumps(dict(rule))
    return line


def armed_line(rule: Mapping[str, Any]) -> str:
    """Return a rule that x-query-faults tells of as a line that makes it anew.

    >>> armed_line({"id": "f", "device": "vda", "node-name": "#block1", "action": "error",
    ...             "event": "none", "state": 0, "after": 2, "rate": 1.0, "seen": 5, "hits": 3,
    ...             "active": True, "errno": 5, "errno-name": "EIO"})
    'vda,id=f,after=2,errno=EIO'
    """
    members = {
        name: value
        for name, value in rule.items()
        if name not in COUNTED and USUAL.get(name, ...) != value
    }
    if "errno-name" in rule:
        members["errno"] = rule["errno-name"]
    return rule_line({"node-name": rule.get("device") or rule["node-name"], **members})


def lines(rules: Iterable[str | Mapping[str, Any]]) -> str:
    """Return rules as the text of a file."""
    return "".join(f"{rule_line(rule)}\n" for rule in rules)


def located(text: str, file: str) -> str:
    """Return an error of x-fault-load with the file before its line.

    >>> located("line 3: Parameter 'node-name' is missing", "a.faults")
    "a.faults:3: Parameter 'node-name' is missing"
    """
    return re.sub(r"^line (\d+): ", lambda found: f"{file}:{found[1]}: ", text)
