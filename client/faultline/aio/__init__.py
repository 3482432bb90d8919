# SPDX-License-Identifier: MIT
"""The library for asyncio: the same names as in `faultline`, with `await`.

    from faultline.aio import Machine

    async with Machine(Drive("disk.img", werror="enospc")) as m:
        async with m.fault("vda", iotype="write", errno="ENOSPC"):
            ...
            await m.wait_event("BLOCK_IO_ERROR", action="stop", timeout=10)

`machine` is a machine that is started (`start`) or connected to; it is a
`session`, which runs commands (`commands`, written from the schema) and waits
for events on a connection (`channel`).  `faults`, `fault_files`, `sweeps`, `jobs`,
`volumes`, `bitmaps` and `power` are what a machine has; `exploration` walks what a crash
may leave, `player` plays a scenario.  `lent` is what the end of a block takes away,
`doing` a call that `await` makes and `async with` also undoes; `waiting` waits for
descriptors and futures.
"""

from __future__ import annotations

from faultline.aio.bitmaps import Bitmap
from faultline.aio.fault_files import Faults
from faultline.aio.faults import Fault
from faultline.aio.jobs import Job
from faultline.aio.machine import Machine
from faultline.aio.power import CrashClone
from faultline.aio.sweeps import Sweep, SweepRound
from faultline.aio.volumes import Responder, Volume

__all__ = [
    "Bitmap",
    "CrashClone",
    "Fault",
    "Faults",
    "Job",
    "Machine",
    "Responder",
    "Sweep",
    "SweepRound",
    "Volume",
]
