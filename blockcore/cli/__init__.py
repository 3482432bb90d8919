# SPDX-License-Identifier: MIT
"""The `faultline` command: a convenience on top of nbdkit, and a QMP client.

`serve` prepares nbdkit's command line and environment, and then becomes nbdkit.
All other commands talk to the control socket of a running machine.  Nothing
here takes part in serving, and no other room imports from here.

`command` is the group of all commands.  `serve` has the options of the command of that
name, `serve_options` are what its user has asked for, and `prepare` finds out whether it
can be had: nbdkit and its Python (`embedding`, `known_nbdkit`, `nbdkit_dump`), packages
for that Python (`plugin_packages`, `package_metadata`, `private_environment`), the
sockets to listen at (`endpoints`, `listen`, `activation`, `runtime_dir`), the limits and
the parent that the process was started with (`surroundings`), and nbdkit's own options
(`nbdkit_options`, `tls`, `rehearsal`); some of it may be in a file (`config_file`).
`launch` starts what `nbdkit_command` says.  With --run and --daemonize that is a child
of this process (`supervised`, `supervise`, `run_command`).

`qmp` has the command of that name: `words` become arguments by the `schema` of
the server, `qmp_help` shows what a command takes, `own_commands` are those of
this version, `answers` and `reply_hints` are for what is not there.  `events` has
the command of that name, `event_names` what users type for it.  `jobs` has the
commands `jobs` and `job`, on top of `job_table`, `job_screen` and `job_wait`.

`status` is one look at a machine (`status_text`), `ls` lists `machines`.  `faults` has
the commands about fault rules, with `fault_options`, `fault_table`, `fault_files` and `sweep`;
`drives`, `volumes`, `bitmaps` and `replay` have those of their names, `machine_control`
changes the run state, `wait_event` waits for one event.  Most of these are one QMP command each,
which `sending` sends.  `completion` prints what shells need, `completions` is what they
complete.

`scenario` plays a file beside a command: `scenario_keys` is the machine in the file,
`scenario_run` starts it, and `bench` runs the programs.

`connection` is the connection to a machine, by the client library, `output` the
standard streams, `amounts` what sizes and times look like, `tables` what tables do,
`once` a command whose options may be given once only, `wrong_words` what it says
about one that is wrong, and `other_words` and `group_words` those of other programs.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from importlib import import_module

from blockcore.process.signals import interrupts_end


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: the process's) and return its exit status.

    Most of the time until a command begins goes into its imports.  An interrupt
    ends the process during these, without a traceback (`interrupts_end`).
    `scripts/run` blocks interrupts until here, because Python would print a
    traceback of its own start as well.
    """
    gc.disable()  # until the command has been imported: there is no garbage before
    try:
        with interrupts_end():
            status: int = import_module("blockcore.cli.command").run(argv)
    except KeyboardInterrupt:
        return 130
    return status
