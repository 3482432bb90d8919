# SPDX-License-Identifier: MIT
"""What people type for the commands in groups, such as `faultline fault`, and their options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from blockcore.qapi.nearest import Meanings

_JOB_COMMANDS: Final[Meanings] = {
    "abort": ("cancel",),
    "commit": ("complete",),
    "continue": ("resume",),
    "delete": ("cancel",),
    "finish": ("complete",),
    "follow": ("wait",),
    "forget": ("dismiss",),
    "kill": ("cancel",),
    "limit": ("set-speed",),
    "pivot": ("complete",),
    "progress": ("wait",),
    "remove": ("dismiss",),
    "rm": ("dismiss",),
    "speed": ("set-speed",),
    "stop": ("pause",),
    "throttle": ("set-speed",),
    "unpause": ("resume",),
    "watch": ("wait",),
}

_JOB_TEXTS: Final = {
    "create": "jobs are begun by 'faultline qmp block-stream' and others",
    "info": "'faultline jobs' lists them",
    "list": "'faultline jobs' lists them",
    "ls": "'faultline jobs' lists them",
    "query": "'faultline jobs' lists them",
    "show": "'faultline jobs' lists them",
    "start": "jobs are begun by 'faultline qmp block-stream' and others",
    "status": "'faultline jobs' lists them",
    "stop": "pause lets it go on later, cancel ends it",
}

_FAULT_COMMANDS: Final[Meanings] = {
    **dict.fromkeys(("change", "edit", "set", "update"), ("modify",)),
    **dict.fromkeys(("create", "inject", "new", "start"), ("add",)),
    **dict.fromkeys(("del", "delete", "rm", "stop"), ("remove",)),
    **dict.fromkeys(("ls", "query", "show", "status"), ("list",)),
    **dict.fromkeys(("flush", "reset"), ("clear",)),
    **dict.fromkeys(("await", "watch"), ("wait",)),
    **dict.fromkeys(("continue", "free", "unhang"), ("release",)),
}

_BITMAP_COMMANDS: Final[Meanings] = {
    **dict.fromkeys(("create", "new"), ("add",)),
    **dict.fromkeys(("del", "delete", "rm"), ("remove",)),
    **dict.fromkeys(("count", "info", "ls", "query", "show", "status"), ("list",)),
    **dict.fromkeys(("reset",), ("clear",)),
    **dict.fromkeys(("start",), ("enable",)),
    **dict.fromkeys(("stop",), ("disable",)),
}

_VOLUME_COMMANDS: Final[Meanings] = {
    **dict.fromkeys(("add", "enlarge", "expand", "grow", "resize", "size"), ("extend",)),
    **dict.fromkeys(("info", "ls", "query", "show", "status"), ("list",)),
}

_DRIVE_COMMANDS: Final[Meanings] = {
    **dict.fromkeys(("policy", "rerror", "set", "werror"), ("set-policy",)),
}

_DRIVE_TEXTS: Final = {
    **dict.fromkeys(("info", "list", "ls", "query"), "'faultline status' shows them"),
    **dict.fromkeys(("show", "status"), "'faultline status' shows them"),
    **dict.fromkeys(("add", "create", "new"), "drives are there from start to end"),
    **dict.fromkeys(("del", "delete", "remove", "rm"), "drives are there from start to end"),
    "resize": "'faultline qmp block_resize' resizes it",
}

class Words(NamedTuple):
    """Other words for the commands of a group, and texts for what it does not have."""

    commands: Meanings
    texts: Mapping[str, str] = {}


GROUPS: Final = {
    "bitmap": Words(_BITMAP_COMMANDS),
    "drive": Words(_DRIVE_COMMANDS, _DRIVE_TEXTS),
    "fault": Words(_FAULT_COMMANDS),
    "job": Words(_JOB_COMMANDS, _JOB_TEXTS),
    "volume": Words(_VOLUME_COMMANDS),
}
"""The words of each group."""

RULE: Final = {
    **dict.fromkeys(("begin", "start"), "write --from"),
    **dict.fromkeys(
        ("delay", "hang", "drop", "torn", "misdirect", "duplicate", "corrupt", "badblock"),
        "write --action {}",
    ),
    **dict.fromkeys(("disconnect", "readonly"), "write --action {}"),
    **dict.fromkeys(("latency", "slow"), "write --action delay delay-ms=MS"),
    **dict.fromkeys(("bytes", "len", "size"), "write --length"),
    **dict.fromkeys(("device", "drive", "node", "node-name"), "DRIVE is typed alone"),
    **dict.fromkeys(("end", "until"), "write --to"),
    **dict.fromkeys(("fsync", "sync"), "write --flush"),
    **dict.fromkeys(("iotype", "op", "operation", "type"), "write --write, --read and so on"),
    **dict.fromkeys(("percent", "probability"), "write --rate"),
    **dict.fromkeys(("skip",), "write --after"),
    **dict.fromkeys(("times", "hits"), "write --count"),
    **dict.fromkeys(("trim", "unmap"), "write --discard"),
    **dict.fromkeys(("zero", "zeroes"), "write --write-zeroes"),
}
"""Options of rules, as other programs call them."""
