"""The `faultline` command: a convenience on top of nbdkit, and a QMP client.

`serve` only prepares nbdkit's command line and environment and then becomes
nbdkit; the others talk to the control socket of a machine that runs.
Nothing here takes part in serving, and nothing in the rest of the package
imports it.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module

from blockcore.signals import interrupts_end


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
