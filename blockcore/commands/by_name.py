# SPDX-License-Identifier: MIT
"""The commands by name, each imported with its module when a client first sends it.

All of them, with the jobs that they start, take longer to import than a machine needs
to be ready; most machines are sent few.  `run_state` is always there: `cont` and `quit`
work whatever the process lacks.  A new command has its name here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from blockcore.bql.later import later
from blockcore.commands import run_state
from blockcore.qapi.names import QmpError
from blockcore.qapi.schema import Command, CommandTable

PARTS: Final[dict[Callable[[], Any], tuple[str, ...]]] = {
    lambda: run_state.table: (
        "query-status", "query-name", "query-iothreads", "stop", "cont", "system_reset", "quit",
        "set-action", "x-replay-stop",
    ),
    later("blockcore.commands.block_info:table"): (
        "query-block", "query-named-block-nodes",
    ),
    later("blockcore.commands.block_stats:table"): (
        "query-blockstats",
    ),
    later("blockcore.commands.block_config:table"): (
        "block_resize", "block-set-write-threshold", "block_set_io_throttle", "blockdev-add",
        "blockdev-del", "blockdev-reopen",
    ),
    later("blockcore.commands.faults:table"): (
        "x-fault-add", "x-fault-modify", "x-fault-remove", "x-fault-clear", "x-query-faults",
        "x-fault-release", "x-fault-wait", "x-query-seed",
    ),
    later("blockcore.commands.sweeps:table"): (
        "x-fault-sweep",
    ),
    later("blockcore.commands.fault_files:table"): (
        "x-fault-load",
    ),
    later("blockcore.commands.drives:table"): (
        "x-query-drives", "x-drive-set-policy",
    ),
    later("blockcore.commands.requests:table"): (
        "x-query-requests", "x-barrier",
    ),
    later("blockcore.commands.power:table"): (
        "x-power-cut", "x-crash-enumerate", "x-crash-clone", "x-crash-drop",
        "x-write-log-save",
    ),
    later("blockcore.commands.job_info:table"): (
        "query-block-jobs", "query-jobs",
    ),
    later("blockcore.commands.jobs:table"): (
        "job-pause", "block-job-pause", "job-resume", "block-job-resume", "job-cancel",
        "block-job-cancel", "job-complete", "block-job-complete", "job-finalize",
        "block-job-finalize", "job-dismiss", "block-job-dismiss", "block-job-change",
        "block-job-set-speed",
    ),
    later("blockcore.commands.streams:table"): (
        "block-stream",
    ),
    later("blockcore.commands.commits:table"): (
        "block-commit",
    ),
    later("blockcore.commands.mirrors:table"): (
        "blockdev-mirror", "drive-mirror",
    ),
    later("blockcore.commands.bitmaps:table"): (
        "block-dirty-bitmap-add", "block-dirty-bitmap-remove", "block-dirty-bitmap-clear",
        "block-dirty-bitmap-enable", "block-dirty-bitmap-disable", "block-dirty-bitmap-merge",
        "x-debug-block-dirty-bitmap-sha256",
    ),
    later("blockcore.commands.transactions:table"): (
        "blockdev-backup", "drive-backup", "blockdev-snapshot-sync", "blockdev-snapshot",
        "change-backing-file", "transaction",
    ),
    later("blockcore.commands.volumes:table"): (
        "x-query-volumes", "x-volume-extend", "x-volume-responder",
    ),
    later("blockcore.commands.yank:table"): (
        "yank", "query-yank",
    ),
    later("blockcore.commands.version:table"): (
        "query-version",
    ),
    later("blockcore.commands.table:table"): (
        "query-commands", "query-qmp-schema",
    ),
}
"""The names of the commands in the table that a function returns."""

_PART_OF: Final = {name: part for part, names in PARTS.items() for name in names}


def find_command(name: str) -> Command | None:
    """Return the command of that name, or None; outside the big lock, as it may be imported.

    `qmp_capabilities` is not here: it is the session's.  Raises QmpError if the
    command's module cannot be imported: its file may be gone, or there is no descriptor.
    """
    part = _PART_OF.get(name)
    if part is None:
        return None
    try:
        table: CommandTable = part()
    except (ImportError, OSError) as exc:
        raise QmpError(f"The command {name} cannot be loaded: {exc}") from None
    return table.commands[name]
