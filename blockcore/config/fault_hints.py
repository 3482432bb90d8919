# SPDX-License-Identifier: MIT
"""What the command line says about a wrong `fault=`, behind the words of x-fault-add."""

from __future__ import annotations

from dataclasses import fields
from typing import Final

from blockcore.faults.kinds import KINDS
from blockcore.qapi.names import BlkdebugEvent, FaultIOType
from blockcore.qapi.nearest import Meanings, did_you_mean, right_answers

EXAMPLE: Final = "fault=node-name=vda,iotype=write,errno=ENOSPC"

_MEMBERS: Final = {
    field.name.replace("_", "-") for kind in KINDS.values() for field in fields(kind)
}

_VALUES: Final[dict[str, list[str]]] = {
    "action": list(KINDS),
    "event": [str(event) for event in BlkdebugEvent],
    "iotype": [str(iotype) for iotype in FaultIOType],
}

_MEANINGS: Final[Meanings] = {
    **dict.fromkeys(("device", "drive", "node", "id", "export"), ("node-name",)),
    **dict.fromkeys(("type", "op", "operation", "request"), ("iotype",)),
    **dict.fromkeys(("start", "from", "position"), ("offset",)),
    **dict.fromkeys(("size", "len", "bytes"), ("length",)),
    **dict.fromkeys(("error", "err"), ("errno",)),
    **dict.fromkeys(("times", "max", "limit"), ("count",)),
    **dict.fromkeys(("probability", "percent", "chance"), ("rate",)),
    "skip": ("after",),
}


def fault_hint(desc: str) -> str:
    """Return a clause that goes behind the message `desc` about a fault=, or an empty text."""
    match desc.split("'"):
        case ["Parameter ", member, " does not accept value ", value, ""]:
            return right_answers(value, _VALUES.get(_list_of(member), []))
        case ["Parameter ", member, " is unexpected"]:
            return did_you_mean(member, _MEMBERS, _MEANINGS)
        case ["Parameter ", _, " expects a size value"]:
            return ", such as 1048576 or 1M"
        case ["Parameter ", _, " expects uint64"]:
            return ", such as 1048576"
        case ["Cannot find device=", *_]:
            return ": node-name= is the id of a drive, or the name of a node"
        case ["Parameter ", "node-name", " is missing"] | ["Expected ", "=", *_]:
            return f", as in {EXAMPLE}"
    return ""


def _list_of(member: str) -> str:
    """Return the list of an element such as ``iotype[1]`` or ``iotype.1``, else `member`."""
    return member.partition("[")[0].partition(".")[0]
