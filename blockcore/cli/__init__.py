# SPDX-License-Identifier: MIT
"""The `faultline` command: a convenience on top of nbdkit, and a QMP client.

`serve` only prepares nbdkit's command line and environment and then becomes
nbdkit; the others talk to the control socket of a machine that runs.
Nothing here takes part in serving, and nothing in the rest of the package
imports it.

`command` is the group of all commands.  `serve` finds nbdkit and its Python
(`embedding`, `plugin_packages`, `private_environment`), checks where it is to
listen (`endpoints`, `listen`, `runtime_dir`) and what it is born with
(`surroundings`).  `client` has `qmp` and `events`, with `arguments` and
`event_names` of what is typed; `jobs` has `jobs` and `job`, on `job_list`,
`job_screen`, `job_wait` and `job_watch`.  `session` is the connection to a
machine, `output` the standard streams, `once` what a command is given only once.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module

from blockcore.process.signals import interrupts_end


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: the process's) and give its exit status.

    Most of the time until a command begins is spent on what it imports, and who
    interrupts that need not see where it was.  `scripts/run` lets an interrupt
    wait until here, because Python would tell of its own start as well.
    """
    try:
        with interrupts_end():
            status: int = import_module("blockcore.cli.command").run(argv)
    except KeyboardInterrupt:
        return 130
    return status
