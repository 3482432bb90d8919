# SPDX-License-Identifier: MIT
"""`serve` where the machine is a child of its process: --run and --daemonize."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import replace

from blockcore.cli.launch import Launch
from blockcore.cli.run_command import run_beside
from blockcore.cli.serve_options import ServeOptions
from blockcore.cli.supervise import ServedMachine


def serve(
    launch: Launch, options: ServeOptions, mask: set[int], environ: Mapping[str, str]
) -> int:
    """Start the machine, serve until the command of --run ends or the machine is ready.

    Returns the exit status.  `mask` are the signals that were blocked before those that
    end this process are, and `environ` is the environment of the command.
    """
    if options.run is not None:
        # The pidfile names who ends both, and the machine ends if this process is killed.
        launch = replace(launch, env={**launch.env, "FAULTLINE_PID": str(os.getpid())})
        launch.pass_on("FAULTLINE_PARENT_FD", os.pidfd_open(os.getpid()))
    machine = ServedMachine(launch, session=options.daemonize)
    try:
        if options.run is None:
            return leave_behind(machine)
        return run_beside(machine, options.run, options.timeout, mask, environ)
    finally:
        # The machine has removed it, unless it was killed.
        directory = launch.env.get("FAULTLINE_RUNTIME_DIR")
        if directory is not None and machine.status is not None:
            shutil.rmtree(directory, ignore_errors=True)


def leave_behind(machine: ServedMachine) -> int:
    """Wait until the machine is ready, print the ready line, and return the exit status.

    A machine that is not ready has said why.  Raises OSError if the line cannot be
    printed; then the machine is ended.
    """
    try:
        ready = machine.wait_until_ready()
        if ready is None:
            assert machine.status is not None
            return machine.status or 1
        print(json.dumps(ready))
        sys.stdout.flush()
    except BaseException:
        machine.end()
        raise
    return 0
