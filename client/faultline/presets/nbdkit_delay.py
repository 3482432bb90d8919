# SPDX-License-Identifier: MIT
"""Parameters of nbdkit's delay filter.

A flush is never delayed, as with the filter.  From nbdkit's filters/delay/delay.c and
nbdkit-delay-filter(1).
"""

from __future__ import annotations

import re
from fractions import Fraction

from faultline.presets.words import Rule, pairs, refuse

PARAMETERS = {
    **dict.fromkeys(("rdelay", "delay-read", "delay-reads"), ("read",)),
    "wdelay": ("write", "write-zeroes", "discard"),
    **dict.fromkeys(("delay-write", "delay-writes"), ("write",)),
    **dict.fromkeys(("delay-zero", "delay-zeroes"), ("write-zeroes",)),
    **dict.fromkeys(("delay-trim", "delay-trims"), ("discard",)),
    **dict.fromkeys(("delay-discard", "delay-discards"), ("discard",)),
    **dict.fromkeys(("delay-extent", "delay-extents"), ("block-status",)),
    "delay-open": ("connect",),
}
"""The kinds of request that each parameter is about."""

REFUSED = {
    "delay-cache": "rules do not see requests to cache",
    "delay-close": "rules do not see the end of a connection",
}

NS = {"": 10**9, "s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
"""Nanoseconds of each unit; μs is us as well."""

FILTER = frozenset({"--filter=delay"})


def rules(text: str, directory: str) -> list[Rule]:
    """Return the rules of parameters; `directory` is of no use."""
    delays: dict[str, int] = {}
    for name, value in pairs(text, FILTER):
        if name == "delay-fast-zero":
            if value.lower() not in ("1", "true", "t", "yes", "y", "on"):
                refuse(f"{name}={value}", "a rule does not see which zeroes are to be fast")
            continue
        if name in REFUSED:
            refuse(name, REFUSED[name])
        if name not in PARAMETERS:
            refuse(name, "the delay filter has no such parameter")
        delays |= dict.fromkeys(PARAMETERS[name], _milliseconds(name, value))
    found: dict[int, list[str]] = {}
    for kind, delay in delays.items():
        if delay:
            found.setdefault(delay, []).append(kind)
    return [
        {"action": "delay", "iotype": kinds if len(kinds) > 1 else kinds[0], "delay-ms": delay}
        for delay, kinds in found.items()
    ]


def _milliseconds(name: str, value: str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(s|ms|us|ns|)", value.replace("μ", "u").replace("µ", "u"))
    if match is None:
        refuse(f"{name}={value}", "a delay is in seconds, or has a unit: s, ms, us or ns")
    delay = Fraction(match[1]) * NS[match[2]] / NS["ms"]
    if delay.denominator != 1:
        refuse(f"{name}={value}", "a rule's delay is in whole milliseconds")
    return int(delay)
