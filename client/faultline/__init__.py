# SPDX-License-Identifier: MIT
"""Machines whose drives fail on purpose, for tests: started, controlled, and waited for.

    from faultline import Drive, Machine

    with Machine(Drive("disk.qcow2", id="vda", rerror="stop", werror="enospc")) as m:
        with m.fault("vda", iotype="write", errno="ENOSPC", offset="32M"):
            writer = start_writer(m.drives["vda"].uri)
            error = m.wait_event("BLOCK_IO_ERROR", action="stop", timeout=10)
            m.wait_event("STOP")
        m.cont()

`faultline.aio` has the same with `await`.  `faultline.pytest_plugin` has fixtures.

No call waits without a deadline.  Exceptions are `FaultlineError`s (`errors`).

What is decided is in modules without I/O: `conversation` (bytes to replies and
events), `events` (what was waited for), `job_watch` and `job_info` (the life of
a job), `drives`, `options`, `sizes`, `names`, `wire` (what users write), `served`
and `endings` (what the machine says), `schema` (its types).  `process` is the
process of a machine, `spares` are those that wait to become one.  The folders
`aio` and `sync` have the two faces.  `__main__` is the command.
"""

from __future__ import annotations

from faultline.drives import Drive
from faultline.errors import (
    CommandError,
    ConnectFailed,
    FaultlineError,
    JobFailed,
    JobStopped,
    MachineEnded,
    StartFailed,
    TimedOut,
)
from faultline.events import Event, Pattern, event
from faultline.job_info import JobInfo
from faultline.served import ServedDrive
from faultline.spares import keep_spares
from faultline.sync.bitmaps import Bitmap
from faultline.sync.faults import Fault
from faultline.sync.jobs import Job
from faultline.sync.machine import Machine
from faultline.sync.volumes import Volume

__all__ = [
    "Machine",
    "Drive",
    "ServedDrive",
    "Event",
    "Pattern",
    "event",
    "Fault",
    "Job",
    "JobInfo",
    "Volume",
    "Bitmap",
    "FaultlineError",
    "CommandError",
    "TimedOut",
    "ConnectFailed",
    "StartFailed",
    "MachineEnded",
    "JobFailed",
    "JobStopped",
    "keep_spares",
]
