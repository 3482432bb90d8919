# SPDX-License-Identifier: MIT
"""What `faultline qmp` says behind the server's words.

The hints of `process.hints`, for what the command line has in common with QMP, and
the names that there are for one that is not.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from blockcore.process import hints
from blockcore.qapi.nearest import LISTED_MAX, did_you_mean, there_are

_NO_SUCH_NODE = (
    r"Cannot find device='(.*)' nor node-name='(.*)'",
    r"Cannot find device='?(.*?)'?",
    r"Cannot find node '?(.*?)'?",
    r"Failed to find node with node-name='(.*)'",
    r"Device '([^/]*)' not found",
)

_LISTED_BY = (
    (r"Block job '.*' not found|Job not found", "faultline jobs"),
    (r"Fault '.*' not found", "faultline fault list"),
    (r"Dirty bitmap '.*' not found", "faultline bitmap list"),
)


def is_about_names(message: str) -> bool:
    """Return whether a message is about a name of a drive or node that is unknown."""
    return any(re.fullmatch(pattern, message) for pattern in _NO_SUCH_NODE)


def hint(message: str, arguments: Mapping[str, object], names: Collection[str]) -> str:
    """Return the clause to be put behind a message; `names` are those of drives and nodes."""
    for pattern in _NO_SUCH_NODE:
        if match := re.fullmatch(pattern, message):
            typed = next((text for text in match.groups() if text), "")
            return _nodes(typed, arguments, sorted(set(names)))
    for pattern, command in _LISTED_BY:
        if re.fullmatch(pattern, message):
            return f" ('{command}' lists them)"
    return hints.hint(message)


def _nodes(typed: str, arguments: Mapping[str, object], names: list[str]) -> str:
    for key in ("file", "image", "backing"):
        if typed and arguments.get(key) == typed:
            return (
                f": {key}= is the name of a node; for a file write"
                f" {key}.driver=file {key}.filename={typed}"
            )
    if re.search(",[a-z-]+=", typed):
        return ": separate arguments with blanks"
    hint = did_you_mean(typed, names)
    if hint or not names or len(names) > LISTED_MAX:
        return hint
    return f": {there_are(names)}"
