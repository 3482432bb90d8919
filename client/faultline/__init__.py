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
and `endings` (what the machine says), `schema` (its types), `every_io` (which
request of a test is hit in which round), `exploring` (checks of what a crash may
leave, in a worker), `rule_lines` and the folder `presets` (rules as text, and in the
languages of other tools).  `process` is the process of a machine,
`remains` what it leaves if it is killed, `spares` are those that wait to become one.
The folders `aio` and `sync` have the two faces, `scenario` what plays files of steps.
`pytest_plugin` has what pytest calls, `pytest_machines` the machines of a test,
`pytest_rounds` its rounds, `pytest_report` what is told when it fails.  `__main__` is
the command.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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
    from faultline.exploring import Check, CrashReport, CrashResult, CrashState
    from faultline.job_info import JobInfo
    from faultline.served import ServedDrive
    from faultline.spares import keep_spares
    from faultline.sync.bitmaps import Bitmap
    from faultline.sync.fault_files import Faults
    from faultline.sync.faults import Fault
    from faultline.sync.jobs import Job
    from faultline.sync.machine import Machine
    from faultline.sync.power import CrashClone
    from faultline.sync.sweeps import Sweep, SweepRound
    from faultline.sync.volumes import Responder, Volume

__all__ = [
    "Machine",
    "Drive",
    "ServedDrive",
    "Event",
    "Pattern",
    "event",
    "Fault",
    "Faults",
    "Sweep",
    "SweepRound",
    "Job",
    "JobInfo",
    "Volume",
    "Responder",
    "Bitmap",
    "CrashClone",
    "Check",
    "CrashState",
    "CrashResult",
    "CrashReport",
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

_MODULES = {
    "Bitmap": "faultline.sync.bitmaps",
    "Check": "faultline.exploring",
    "CommandError": "faultline.errors",
    "ConnectFailed": "faultline.errors",
    "CrashClone": "faultline.sync.power",
    "CrashReport": "faultline.exploring",
    "CrashResult": "faultline.exploring",
    "CrashState": "faultline.exploring",
    "Drive": "faultline.drives",
    "Event": "faultline.events",
    "Fault": "faultline.sync.faults",
    "Faults": "faultline.sync.fault_files",
    "FaultlineError": "faultline.errors",
    "Job": "faultline.sync.jobs",
    "JobFailed": "faultline.errors",
    "JobInfo": "faultline.job_info",
    "JobStopped": "faultline.errors",
    "Machine": "faultline.sync.machine",
    "MachineEnded": "faultline.errors",
    "Pattern": "faultline.events",
    "ServedDrive": "faultline.served",
    "StartFailed": "faultline.errors",
    "Sweep": "faultline.sync.sweeps",
    "SweepRound": "faultline.sync.sweeps",
    "TimedOut": "faultline.errors",
    "Volume": "faultline.sync.volumes",
    "Responder": "faultline.sync.volumes",
    "event": "faultline.events",
    "keep_spares": "faultline.spares",
}
"""The modules of the names.  They are imported when a name is first used: importing all of them
takes 25 ms, and pytest imports this package in each run, whatever the tests are about."""


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'faultline' has no attribute '{name}'")
    value = globals()[name] = getattr(import_module(_MODULES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
