# SPDX-License-Identifier: MIT
"""What a standby does while nobody waits for it: all that its first requests would do first."""

from __future__ import annotations

import gc
from contextlib import suppress

from blockcore.commands.by_name import PARTS
from blockcore.commands.table import table
from blockcore.commands.version import version_info
from blockcore.config.config import parse_config
from blockcore.qapi.names import QmpError
from blockcore.qapi.qemu import LATEST
from blockcore.qapi.schema import to_wire

TYPICAL = (
    ("drive", "id=a,file=a,format=raw,rerror=stop,werror=enospc"),
    ("drive", "id=b,file=b,format=qcow2"),
    ("drive", "id=c,driver=null-co,size=1M"),
)
"""Keys of the kinds that most machines have; nothing is opened for them."""


def load_all() -> None:
    """Import all commands, drivers and jobs, and evaluate the types of all arguments.

    What has come so far stays until the end, so that Python's collector need not look
    at it again.
    """
    for part in PARTS:
        part()
    for command in table:
        _ = command.members
    to_wire(version_info(LATEST))
    with suppress(QmpError):
        parse_config(TYPICAL)
    gc.collect()
    gc.freeze()
