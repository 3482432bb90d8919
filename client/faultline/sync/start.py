# SPDX-License-Identifier: MIT
# Written by scripts/generate_client.py from aio/start.py.
"""The start and the end of a machine's process."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

from faultline.errors import StartFailed
from faultline.options import Plan
from faultline.process import Process, tail
from faultline.spares import spares
from faultline.sync.waiting import readable

END_S = 20.0
"""The time that a machine gets to end, in seconds; it promises two where nothing else runs."""


def start(plan: Plan, timeout: float) -> tuple[Process, Mapping[str, Any]]:
    """Start a machine, or let a spare become it; return its process and its ready line.

    Raises StartFailed, after which no process is left.
    """
    process = spares.take() if plan.fits_spare else None
    try:
        if process is not None:
            process.configure(plan.keys, os.getcwd())
        else:
            process = Process((*plan.options, *plan.keys), environ=plan.environ)
        ready = _ready(process, timeout)
    except BaseException:
        if process is not None:
            # In order: a process that is killed leaves its private directory to the next one.
            end(process)
        raise
    if plan.fits_spare:
        spares.refill()
    return process, ready


def start_in(
    directory: str, keys: Sequence[str], options: Sequence[str], timeout: float
) -> tuple[Process, Mapping[str, Any]]:
    """Start a machine whose relative file names begin in `directory`, as `start` does."""
    process = Process(options, standby=True)
    try:
        process.configure(keys, directory)
        return process, _ready(process, timeout)
    except BaseException:
        end(process)
        raise


def _ready(process: Process, timeout: float) -> Mapping[str, Any]:
    deadline = time.monotonic() + timeout
    while readable(process.ready_fd, deadline - time.monotonic()):
        line = process.ready()
        if line is not None:
            return line
    raise StartFailed(f"not ready within {timeout:g} s{tail(process.log_text())}")


def end(process: Process) -> tuple[str, str | None]:
    """End a machine; return its log, and what was wrong with its end, if anything was.

    In a child after a fork the machine is the parent's, and goes on.
    """
    if not process.is_ours:
        log = process.log_text()
        process.abandoned()
        return log, None
    process.terminate()
    forced = not readable(process.pidfd, END_S)
    if forced:
        process.kill()
        readable(process.pidfd, END_S)
    log, status = process.log_text(), process.status
    process.closed()
    if forced:
        return log, f"the machine did not end within {END_S:g} s, and was killed{tail(log)}"
    if status != 0:
        return log, f"the machine has ended with status {status}{tail(log)}"
    return log, None
